//! The demonstration itself, and that it would notice.

use super::*;

use std::os::unix::fs::FileExt;

use cow_core::units::SECTOR_BYTES;

/// Small: these tests also run without optimisation.
const PLAN: Plan = Plan { clients: 3, golden_bytes: 4 << 20 };

fn run_undisturbed(plan: &Plan) -> Report {
    run(plan, &mut |_event| {}).unwrap_or_else(|error| panic!("{}", error.report()))
}

/// Runs it and lets `tamper` loose on the files once, while the server is stopped.
fn run_tampered(mut tamper: impl FnMut(&Path)) -> HostError {
    let mut tampered = false;
    let ended = run(&PLAN, &mut |event| {
        if let (Event::Stopped { directory }, false) = (event, tampered) {
            tamper(directory);
            tampered = true;
        }
    });
    assert!(tampered, "the server was never stopped");
    ended.expect_err("the demonstration noticed nothing")
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Where a file holds `text`.
fn find(path: &Path, text: &str) -> u64 {
    let bytes = fs::read(path).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    at.unwrap_or_else(|| panic!("`{text}` is not in {}", path.display())) as u64
}

#[test]
fn everything_promised_is_shown() {
    let mut seen = Vec::new();
    let report = run(&PLAN, &mut |event| {
        if let Event::Shown(what) = event {
            seen.push((*what).to_owned());
        }
    })
    .unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(report.shown, seen);
    assert_eq!(report.shown.len(), 5, "{:#?}", report.shown);
    assert_eq!(report.clients.len(), 3);
    for (number, client) in (0_u8..).zip(&report.clients) {
        let regions = content::Regions::new(PLAN.golden_bytes / SECTOR_BYTES, number);
        let written: u64 = regions.writes().map(|range| range.end - range.start).sum();
        let written = written * SECTOR_BYTES;
        // And three times the whole disk, at least: discovery and retransmission may add to both.
        assert!(client.bytes_written >= written, "{}", client.name);
        assert!(client.bytes_read >= 3 * PLAN.golden_bytes, "{}", client.name);
        assert!(client.overlay_bytes >= written, "{}", client.name);
        assert!(client.overlay_bytes < PLAN.golden_bytes / 2, "{}", client.name);
    }
}

#[test]
fn one_client_is_enough_and_nonsense_is_refused() {
    assert_eq!(run_undisturbed(&Plan { clients: 1, ..PLAN }).clients.len(), 1);
    for plan in [
        Plan { clients: 0, ..PLAN },
        Plan { clients: CLIENTS_MAX + 1, ..PLAN },
        Plan { golden_bytes: (4 << 20) + 1, ..PLAN },
        Plan { golden_bytes: 1 << 20, ..PLAN },
    ] {
        let error = run(&plan, &mut |_event| {}).expect_err("a plan without room");
        assert_eq!(error.kind(), ErrorKind::Usage, "{plan:?}");
    }
}

#[test]
fn a_changed_golden_image_is_noticed() {
    let error = run_tampered(|directory| {
        open(&directory.join("golden.img")).write_all_at(b"G", 0).unwrap();
    });
    assert!(error.to_string().contains("the golden image has changed"), "{}", error.report());
}

#[test]
fn data_of_another_client_are_noticed() {
    let error = run_tampered(|directory| {
        let overlay = directory.join("golden.img.overlays/lab2.cow");
        let at = find(&overlay, "lab2, sector ");
        open(&overlay).write_all_at(b"lab3", at).unwrap();
    });
    let text = error.to_string();
    assert!(text.contains("lab2 reads `lab3, sector"), "{}", error.report());
}

#[test]
fn a_lost_overlay_is_noticed() {
    let error = run_tampered(|directory| {
        fs::remove_file(directory.join("golden.img.overlays/lab1.cow")).unwrap();
    });
    let text = error.to_string();
    assert!(text.contains("lab1.cow") || text.contains("lab1 reads"), "{}", error.report());
}
