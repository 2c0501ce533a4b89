//! What is in a spool's file: a header, then frames. Pure.
//!
//! ```text
//! "TPLSPL1\n"   then for each record:   length u32 LE | CRC-32C u32 LE | kind u8, message (protobuf)
//!                                       length and checksum are those of kind and message
//! ```
//! A file can end anywhere (the process was killed, the disk was full) and hold anything: reading one
//! never fails, it says what was found.

use crc::{CRC_32_ISCSI, Crc};
use prost::Message as _;
use tuplelab_proto::v1;

/// How every spool begins.
pub const HEADER: &[u8; 8] = b"TPLSPL1\n";
/// A controller takes no larger message, so none is kept.
const LONGEST: usize = 4 << 20;
const PREFIX: usize = 8;
const MESSAGE: u8 = 1;
const ACK: u8 = 2;

const CHECK: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Something that was said of a run.
    Message(Box<v1::RunMessage>),
    /// Everything up to there is stored at the controller.
    Ack(v1::Ack),
}

impl Record {
    /// The record as a frame.
    pub fn frame(&self) -> Vec<u8> {
        match self {
            Self::Message(message) => message_frame(message),
            Self::Ack(ack) => framed(ACK, &ack.encode_to_vec()),
        }
    }

    fn read(body: &[u8]) -> Option<Self> {
        match body.split_first()? {
            (&MESSAGE, bytes) => v1::RunMessage::decode(bytes).ok().map(Box::new).map(Self::Message),
            (&ACK, bytes) => v1::Ack::decode(bytes).ok().map(Self::Ack),
            _ => None,
        }
    }
}

/// A message's frame.
pub fn message_frame(message: &v1::RunMessage) -> Vec<u8> {
    framed(MESSAGE, &message.encode_to_vec())
}

fn framed(kind: u8, message: &[u8]) -> Vec<u8> {
    let body: Vec<u8> = std::iter::once(kind).chain(message.iter().copied()).collect();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes()[..], &CHECK.checksum(&body).to_le_bytes(), &body].concat()
}

/// What a file held.
#[derive(Debug, Default, PartialEq)]
pub struct Found {
    /// Its whole records, in order.
    pub records: Vec<Record>,
    /// Frames that were passed over: their checksum is wrong, or they hold no message.
    pub damaged: usize,
    /// Bytes at the end that are no whole frame.
    pub cut: usize,
}

/// Reads what a file holds; `None` if it is no spool at all. A file that was never written to is one.
pub fn read(file: &[u8]) -> Option<Found> {
    let mut found = Found::default();
    if HEADER.starts_with(file) {
        return Some(Found { cut: file.len() % HEADER.len(), ..found });
    }
    let mut rest = file.strip_prefix(HEADER)?;
    while let Some((prefix, bytes)) = rest.split_first_chunk::<PREFIX>() {
        let [a, b, c, d, e, f, g, h] = *prefix;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let checksum = u32::from_le_bytes([e, f, g, h]);
        // A length that cannot be is damage, too: nothing behind it can be found again.
        let Some((body, behind)) = bytes.split_at_checked(length).filter(|_| (1..=LONGEST).contains(&length))
        else {
            break;
        };
        match Record::read(body).filter(|_| CHECK.checksum(body) == checksum) {
            Some(record) => found.records.push(record),
            None => found.damaged += 1,
        }
        rest = behind;
    }
    found.cut = rest.len();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(run: &str, sequence: u64) -> Record {
        let body = v1::run_message::Body::Failed(v1::Failed { why: "x".repeat(sequence as usize % 50) });
        Record::Message(Box::new(v1::RunMessage {
            run: run.into(),
            sequence,
            body: Some(body),
            ..Default::default()
        }))
    }

    fn file(records: &[Record]) -> Vec<u8> {
        records.iter().fold(HEADER.to_vec(), |file, record| [file, record.frame()].concat())
    }

    fn three() -> [Record; 3] {
        [message("r", 1), Record::Ack(v1::Ack { run: "r".into(), epoch: 1, sequence: 1 }), message("r", 2)]
    }

    #[test]
    fn the_checksum_is_the_one_that_others_compute() {
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(CHECK.checksum(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn what_was_written_is_read_and_an_empty_or_begun_file_holds_nothing() {
        let records = three().to_vec();
        assert_eq!(read(&file(&records)), Some(Found { records, damaged: 0, cut: 0 }));
        assert_eq!(read(b""), Some(Found::default()));
        assert_eq!(read(HEADER), Some(Found::default()));
        assert_eq!(read(&HEADER[..3]), Some(Found { cut: 3, ..Found::default() }));
    }

    #[test]
    fn a_file_of_something_else_is_no_spool() {
        for other in [&b"SQLite format 3\0"[..], b"question = \"?\"\n", &[0; 64]] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_tail_that_is_cut_anywhere_costs_only_its_own_record() {
        let whole = file(&three());
        let two = file(&three()[..2]).len();
        for end in two..whole.len() {
            let found = read(&whole[..end]).expect("a spool");
            assert_eq!((found.records.len(), found.damaged, found.cut), (2, 0, end - two), "cut at {end}");
        }
    }

    #[test]
    fn a_damaged_frame_is_passed_over_and_the_others_are_kept() {
        let mut bytes = file(&three());
        let inside_the_first = HEADER.len() + PREFIX + 2;
        bytes[inside_the_first] ^= 0x40;
        let found = read(&bytes).expect("a spool");
        assert_eq!((found.records, found.damaged, found.cut), (three()[1..].to_vec(), 1, 0));
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_reading() {
        let mut bytes = file(&three());
        bytes[HEADER.len() + 3] = 0xff;
        let found = read(&bytes).expect("a spool");
        assert_eq!((found.records.len(), found.cut), (0, bytes.len() - HEADER.len()));
    }

    proptest! {
        #[test]
        fn nothing_that_a_file_holds_makes_the_reader_panic(noise in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200) {
            let _ = read(&noise);
            let mut bytes = file(&three());
            let at = at.min(bytes.len());
            bytes.splice(at.., noise);
            let _ = read(&bytes);
        }
    }
}
