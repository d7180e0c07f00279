use core::time::Duration;

use serde_json::Value;

use super::session::{Frame, Options, Session, WatchMemory};
use crate::values::Address;

/// A request or an answer of e7.3 with a tag; padded.
fn frame(response: bool, command: u8, tag: u8, argument: &[u8]) -> Vec<u8> {
    let mut frame =
        vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 10, 0x88, 0xA2, 0x10, 0, 0, 7, 3, command];
    if response {
        frame[..12].rotate_left(6);
        frame[14] |= 8;
    }
    frame.extend([0, 0, 0, tag]);
    frame.extend(argument);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn story() -> Vec<(u64, Vec<u8>)> {
    let registers = [0x40, 0, 1, 0x24, 5, 0, 0, 0, 0, 0, 0, 0];
    let done = [0x40, 0, 0, 0x40, 5, 0, 0, 0, 0, 0, 0, 0];
    vec![
        (0, frame(false, 0, 1, &registers)),
        (1500, frame(true, 0, 1, &[&done[..], &[7; 512]].concat())),
        (2000, frame(false, 1, 2, &[0; 8])),
        (2500, frame(true, 1, 2, &[0, 1, 0x40, 0x19, 2, 0x10, 0, 0])),
        (9000, frame(false, 0, 3, &registers)),
    ]
}

/// What a session says about the story; its count of broken musts.
fn told(options: Options) -> (String, u64) {
    told_of(&story(), options)
}

fn told_of(story: &[(u64, Vec<u8>)], options: Options) -> (String, u64) {
    let mut memory = WatchMemory::default();
    let mut out = Vec::new();
    let mut session = Session::new(&mut memory, Some(1500), options, &mut out, None);
    for (us, bytes) in story {
        let at = Duration::from_secs(1_000_000) + Duration::from_micros(*us);
        let frame = Frame { at, bytes, wire_len: bytes.len(), tci: None };
        session.take(&frame).unwrap();
    }
    session.tick(Duration::from_secs(1_000_006)).unwrap();
    let broken = session.broken();
    session.end(0).unwrap();
    (String::from_utf8(out).unwrap(), broken)
}

#[test]
fn a_person_reads_lines_findings_and_a_summary() {
    let (text, broken) = told(Options::default());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "    0.000000 02:00:00:00:00:0a > 02:00:00:00:00:01 e7.3 request tag 00000001 ata READ EXT lba \
         5 count 1 feature 00 flags 40 ext data 24"
    );
    assert!(
        lines[1].starts_with("    0.001500 ") && lines[1].ends_with("data 512  [1.50 ms]"),
        "{text}"
    );
    assert!(lines[4].starts_with("    must buffer-count [AoE 4.2]: "), "{text}");
    assert!(lines[6].ends_with("e7.3 tag 00000003 lost: no answer"), "{text}");
    assert!(text.contains("5 frames in 6.0 s; 1 transmissions without an answer"), "{text}");
    assert!(text.contains("rules broken: 1 must, 0 should, 0 note"), "{text}");
    assert_eq!(broken, 1);
}

#[test]
fn quiet_leaves_the_everyday_out() {
    let (text, _) = told(Options { quiet: true, ..Options::default() });
    assert_eq!(text.matches(" request ").count(), 0, "{text}");
    assert_eq!(text.matches(" answer ").count(), 1, "{text}");
    assert!(text.contains("must buffer-count"), "{text}");
}

#[test]
fn a_program_reads_one_object_a_line() {
    let (text, _) = told(Options { json: true, ..Options::default() });
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["frame", "frame", "frame", "frame", "frame", "lost", "summary"]);
    assert_eq!(events[0]["ata"]["lba"], 5);
    assert_eq!((&events[1]["kind"], &events[1]["after_us"]), (&"answer".into(), &1500.0.into()));
    assert_eq!(events[3]["findings"][0]["rule"], "buffer-count");
    assert_eq!(events[3]["config"]["buffer_count"], 1);
    assert_eq!(events[6]["targets"][0]["address"], "e7.3");
    assert_eq!(events[6]["targets"][0]["lost"], 1);
    assert_eq!(events[6]["findings"]["must"], 1);
}

#[test]
fn one_target_only() {
    let (text, broken) = told(Options { address: Address::new(7, 4), ..Options::default() });
    assert!(text.contains("0 frames") && !text.contains("e7.3"), "{text}");
    assert_eq!(broken, 0);
}

#[test]
fn every_server_of_an_address_is_named_with_its_own_counts() {
    let mut story = story();
    let mut other = story[1].1.clone();
    other[11] = 2;
    other[23] = 3;
    story.push((9500, other));
    let (text, _) = told_of(&story, Options::default());
    let row = |words: &[&str]| {
        text.lines().any(|line| line.split_whitespace().take(words.len()).eq(words.iter().copied()))
    };
    assert!(row(&["e7.3", "2", "servers", "2", "0"]), "{text}");
    assert!(row(&["e7.3", "02:00:00:00:00:01", "2", "0", "1"]), "{text}");
    assert!(row(&["e7.3", "02:00:00:00:00:02", "1", "0", "2"]), "{text}");
    let (text, _) = told_of(&story, Options { json: true, ..Options::default() });
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let servers = &summary["targets"][0]["servers"];
    let first = (&servers[0]["mac"], &servers[0]["answers"]);
    assert_eq!(first, (&"02:00:00:00:00:01".into(), &2.into()), "{servers:#}");
    let second = (&servers[1]["mac"], &servers[1]["answers"], &servers[1]["findings"]["must"]);
    assert_eq!(second, (&"02:00:00:00:00:02".into(), &1.into(), &2.into()), "{servers:#}");
}
