//! A spool's file. It is written through: what was said is in the kernel's hands before it is sent, so
//! the death of this process loses nothing. It is not synced: the death of the host can lose the last
//! seconds, and with them go the connections that they tell of.

use super::frame::{Found, HEADER, Record, read};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::warn;

/// No spool of ours is as long; a longer file is not read into memory.
const LONGEST: u64 = 64 << 20;
/// After the disk was full, it is tried again so often.
const AGAIN: Duration = Duration::from_secs(5);

/// Why a spool's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory or the file.
    #[error("the spool {} cannot be used: {source}; name a directory that can be written with --spool DIR", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Somebody else's file, which is left as it is.
    #[error("{} is no spool of tuplelab: move it away, or name another directory with --spool DIR", .path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Another agent of this name is at work here.
    #[error("another agent uses the spool {}: stop it, or name another directory with --spool DIR", .path.display())]
    Taken {
        /// Which.
        path: PathBuf,
    },
}

/// An open spool file; this process alone has it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Whole frames and the header.
    length: u64,
    /// Since when the file lacks something, for want of space; it is written anew once there is some.
    behind: Option<Instant>,
    _lock: Flock<File>,
}

impl Journal {
    /// Opens the spool of this name in this directory, or makes it; says what it held. What cannot be
    /// read of it stays beside it in `NAME.spool.damaged`.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(folder: &Path, name: &str) -> Result<(Self, Vec<Record>), JournalError> {
        let path = folder.join(format!("{name}.spool"));
        let io = |source| JournalError::Io { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        let open = |path: &Path| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
        };
        // A file of its own: the spool's is replaced when it is written anew.
        let lock = open(&folder.join(format!("{name}.lock"))).map_err(io)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| JournalError::Taken { path: path.clone() })?;
        let mut file = open(&path).map_err(io)?;
        let mut bytes = Vec::new();
        if file.metadata().map_err(io)?.len() > LONGEST {
            return Err(JournalError::Foreign { path });
        }
        file.read_to_end(&mut bytes).map_err(io)?;
        let Some(Found { records, damaged, cut }) = read(&bytes) else {
            return Err(JournalError::Foreign { path });
        };
        if damaged > 0 || cut > 0 {
            warn!(spool = %path.display(), damaged, cut_bytes = cut, "a part of the spool cannot be read: the rest is kept");
        }
        if damaged > 0 {
            let beside = path.with_extension("spool.damaged");
            if let Err(error) = std::fs::write(&beside, &bytes) {
                warn!(file = %beside.display(), %error, "the damaged spool could not be kept");
            }
        }
        let mut journal = Self { path: path.clone(), file, length: 0, behind: None, _lock: lock };
        match damaged > 0 || (bytes.len() - cut) < HEADER.len() {
            true => journal.write_anew(&records).map_err(io)?,
            false => {
                journal.length = (bytes.len() - cut) as u64;
                journal.file.set_len(journal.length).map_err(io)?;
                journal.file.seek(SeekFrom::End(0)).map_err(io)?;
            }
        }
        Ok((journal, records))
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether it lacks something and it is time to try again.
    pub fn wants_all(&self) -> bool {
        self.behind.is_some_and(|since| since.elapsed() >= AGAIN)
    }

    /// Adds a record. If there is no room the file stays as it was, and lacks everything from here on
    /// until it is written anew; memory has it all.
    pub fn append(&mut self, record: &Record) {
        if self.behind.is_some() {
            return;
        }
        let frame = record.frame();
        match self.file.write_all(&frame) {
            Ok(()) => self.length += frame.len() as u64,
            Err(error) => {
                self.fell_behind(&error);
                // The half frame goes; if even that fails, it is found and cut when the file is read.
                let _ = self.file.set_len(self.length);
                let _ = self.file.seek(SeekFrom::Start(self.length));
            }
        }
    }

    /// Writes the file anew with these records alone: all or nothing.
    pub fn replace(&mut self, records: &[Record]) {
        match self.write_anew(records) {
            Ok(()) => {
                if self.behind.take().is_some() {
                    warn!(spool = %self.path.display(), "the spool is whole on the disk again");
                }
            }
            Err(error) => self.fell_behind(&error),
        }
    }

    fn fell_behind(&mut self, error: &io::Error) {
        if self.behind.replace(Instant::now()).is_none() {
            warn!(spool = %self.path.display(), %error, "the spool cannot be written: what is said from now on is kept in memory only; free some space");
        }
    }

    fn write_anew(&mut self, records: &[Record]) -> io::Result<()> {
        let bytes = records.iter().fold(HEADER.to_vec(), |mut bytes, record| {
            bytes.extend(record.frame());
            bytes
        });
        let beside = self.path.with_extension("spool.new");
        let written = (|| {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(&bytes)?;
            std::fs::rename(&beside, &self.path)?;
            Ok(file)
        })();
        match written {
            Ok(file) => {
                (self.file, self.length) = (file, bytes.len() as u64);
                Ok(())
            }
            Err(error) => {
                let _ = std::fs::remove_file(&beside);
                Err(error)
            }
        }
    }
}
