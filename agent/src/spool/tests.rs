use super::*;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use tempfile::TempDir;
use v1::run_message::Body;

fn message(run: &str, body: Body) -> v1::RunMessage {
    v1::RunMessage { run: run.into(), body: Some(body), ..Default::default() }
}

fn sample(run: &str) -> v1::RunMessage {
    message(run, Body::Sample(v1::Sample::default()))
}

fn ack(run: &str, sequence: u64) -> v1::Ack {
    v1::Ack { run: run.into(), epoch: 0, sequence }
}

/// All that may be sent, as it is sent.
fn drain(spool: &mut Spool) -> Vec<(String, u64)> {
    let mut sent = Vec::new();
    while let Some(next) = spool.next() {
        sent.push((next.run.clone(), next.sequence));
        spool.sent();
    }
    sent
}

fn numbers(spool: &mut Spool) -> Vec<u64> {
    drain(spool).into_iter().map(|(_, number)| number).collect()
}

fn open(folder: &TempDir) -> Spool {
    Spool::open(folder.path(), "a").expect("a spool")
}

#[test]
fn what_is_not_acknowledged_is_sent_again_on_a_new_stream() {
    let mut spool = Spool::default();
    (0..3).for_each(|_| spool.push(sample("r")));
    assert_eq!(numbers(&mut spool), [1, 2, 3]);
    spool.acknowledge(&ack("r", 2));
    spool.acknowledge(&ack("another", 3));
    spool.push(sample("r"));
    assert_eq!(numbers(&mut spool), [4]);
    spool.again();
    assert_eq!(numbers(&mut spool), [3, 4]);
}

#[test]
fn another_run_starts_its_numbers_again_and_loses_nothing_of_the_first() {
    let mut spool = Spool::default();
    spool.push(sample("r"));
    spool.push(sample("s"));
    spool.push(sample("r"));
    assert_eq!(drain(&mut spool), [("r".into(), 1), ("s".into(), 1), ("r".into(), 2)]);
    spool.acknowledge(&ack("r", 1));
    spool.again();
    assert_eq!(drain(&mut spool), [("s".into(), 1), ("r".into(), 2)]);
}

#[test]
fn so_many_are_on_their_way_at_a_time_and_no_more() {
    let mut spool = Spool::default();
    (0..WINDOW + 10).for_each(|_| spool.push(sample("r")));
    assert_eq!(numbers(&mut spool).len(), WINDOW);
    spool.acknowledge(&ack("r", 4));
    assert_eq!(numbers(&mut spool).len(), 4);
}

#[test]
fn a_full_spool_drops_the_oldest_sample_and_keeps_everything_else() {
    let mut spool = Spool::default();
    spool.push(message("r", Body::Ready(v1::Ready::default())));
    (0..MOST).for_each(|_| spool.push(sample("r")));
    assert_eq!(spool.waiting.len(), MOST);
    let numbers = numbers(&mut spool);
    assert_eq!(numbers.first(), Some(&1), "the word that it is ready stays");
    assert_eq!(numbers.get(1), Some(&3), "the first sample went");
}

#[test]
fn the_next_process_finds_what_was_not_acknowledged_and_goes_on_counting() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = open(&folder);
    (0..4).for_each(|_| spool.push(sample("r")));
    spool.push(sample("s"));
    spool.acknowledge(&ack("r", 3));
    drop(spool);
    let mut spool = open(&folder);
    assert_eq!(drain(&mut spool), [("r".into(), 4), ("s".into(), 1)]);
    spool.acknowledge(&ack("r", 4));
    spool.acknowledge(&ack("s", 1));
    drop(spool);
    let mut spool = open(&folder);
    spool.push(sample("s"));
    assert_eq!(drain(&mut spool), [("s".into(), 2)], "a number is never given twice");
}

#[test]
fn two_agents_do_not_share_a_spool() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = open(&folder);
    let refused = Spool::open(folder.path(), "a").expect_err("is refused");
    assert!(matches!(refused, JournalError::Taken { .. }), "{refused}");
    drop(first);
    open(&folder);
}

#[test]
fn a_file_of_somebody_else_is_refused_by_name_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.spool");
    fs::write(&path, "my diary\n").expect("written");
    let refused = Spool::open(folder.path(), "a").expect_err("is refused").to_string();
    assert!(refused.contains("a.spool") && refused.contains("--spool"), "{refused}");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "my diary\n");
}

#[test]
fn a_place_that_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    let refused = Spool::open(&file.join("below"), "a").expect_err("is refused").to_string();
    assert!(refused.contains("below") && refused.contains("--spool"), "{refused}");
}

#[test]
fn a_tail_that_was_cut_and_a_frame_that_is_damaged_cost_themselves_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.spool");
    let mut spool = open(&folder);
    (0..3).for_each(|_| spool.push(message("r", Body::Failed(v1::Failed { why: "w".repeat(40) }))));
    drop(spool);
    let whole = fs::read(&path).expect("it is there");
    OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut f| f.write_all(&[9, 0, 0, 0, 1]))
        .expect("torn");
    assert_eq!(numbers(&mut open(&folder)), [1, 2, 3]);
    assert_eq!(fs::read(&path).expect("it is there"), whole, "the torn tail is gone");

    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    fs::write(&path, &damaged).expect("written");
    assert_eq!(numbers(&mut open(&folder)), [2, 3]);
    let kept = fs::read(folder.path().join("a.spool.damaged")).expect("what was damaged is kept");
    assert_eq!(kept, damaged);
    assert_eq!(numbers(&mut open(&folder)), [2, 3], "the file itself is whole again");
}

#[test]
fn a_long_life_leaves_a_short_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = open(&folder);
    for number in 1..=5_000 {
        spool.push(sample("r"));
        spool.acknowledge(&ack("r", number));
    }
    let length = fs::metadata(folder.path().join("a.spool")).expect("it is there").len();
    assert!(length <= SLACK_BYTES + 1_000, "{length} bytes of nothing");
    drop(spool);
    let mut spool = open(&folder);
    spool.push(sample("r"));
    assert_eq!(numbers(&mut spool), [5_001]);
}

#[test]
fn a_full_disk_costs_nothing_while_the_process_lives_and_is_made_up_for() {
    let test = "spool::tests::a_full_disk_costs_nothing_while_the_process_lives_and_is_made_up_for";
    let Some(folder) = crate::testing::small_disk(test) else { return };
    let mut spool = Spool::open(&folder, "a").expect("a spool");
    let fill = folder.join("fill");
    // All the room is taken, byte by byte at the end.
    let mut file = fs::File::create(&fill).expect("made");
    for size in [4096, 64, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    (0..50).for_each(|_| spool.push(message("r", Body::Failed(v1::Failed { why: "w".repeat(200) }))));
    assert_eq!(numbers(&mut spool).len(), 50, "memory has them");
    drop(file);
    fs::remove_file(&fill).expect("freed");
    std::thread::sleep(std::time::Duration::from_millis(5_100));
    spool.push(sample("r"));
    drop(spool);
    assert_eq!(numbers(&mut Spool::open(&folder, "a").expect("a spool")).len(), 51, "the disk has them");
}
