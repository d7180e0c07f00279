//! The harness held against the reference target, before it judges ours; and against targets that
//! are broken on purpose, to see each one caught.

#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use system_tests::judge::{self, Verdict};
use system_tests::lab::Lab;
use system_tests::net::Segment;
use system_tests::require::{self, Need, UML_INITIATOR};
use system_tests::scenario::{self, Attach, GOLDEN, TREE};
use system_tests::target::{forgetful_vblade, vblade};

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const NEEDS: &[&[Need]] =
    &[UML_INITIATOR, &[Need::Program("vblade"), Need::Program("mke2fs"), Need::Program("e2fsck")]];

fn everyday(test: &'static str, mtu: u16, attach: Attach) {
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (outcome, golden) = lab.attempt(|dir| {
        let outcome = scenario::everyday(&lab, dir, mtu, attach, |segment, dir| {
            vblade(segment, dir, "0.0", &dir.join(GOLDEN), &[])
        })?;
        Ok((outcome, scenario::golden_unchanged(dir)))
    });
    outcome.guest.assert_success();
    let sectors = if mtu == 9000 { 17 } else { 2 };
    assert!(outcome.driver.contains(&scenario::data_frame(sectors)), "{}", outcome.driver);
    // vblade writes straight into the image: the judge of golden images must say so.
    assert!(matches!(golden, Err(Verdict::Changed(_))), "{golden:?}");
}

#[test]
fn vblade_attached_by_advertisement_at_mtu_9000() {
    everyday("vblade_attached_by_advertisement_at_mtu_9000", 9000, Attach::Advertisement);
}

#[test]
fn vblade_attached_by_advertisement_at_mtu_1500() {
    everyday("vblade_attached_by_advertisement_at_mtu_1500", 1500, Attach::Advertisement);
}

#[test]
fn vblade_attached_by_discovery_at_mtu_9000() {
    everyday("vblade_attached_by_discovery_at_mtu_9000", 9000, Attach::Discovery);
}

#[test]
fn clients_of_separate_files_are_isolated() {
    let test = "clients_of_separate_files_are_isolated";
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let finished = lab.attempt(|dir| {
        scenario::crowd(&lab, dir, 9000, &["e0.0", "e0.0"], |segment, dir| {
            // One address twice, told apart by the initiator's MAC.
            let plan = |index: usize| {
                let copy = dir.join(format!("copy{index}.img"));
                std::fs::copy(dir.join(GOLDEN), &copy).unwrap();
                vblade(segment, dir, "0.0", &copy, &["-m", &Segment::client_mac(index)])
            };
            vec![plan(0), plan(1)]
        })
    });
    for guest in &finished {
        guest.assert_success();
    }
}

#[test]
fn a_shared_overlay_is_caught() {
    let test = "a_shared_overlay_is_caught";
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let finished = lab.attempt(|dir| {
        scenario::crowd(&lab, dir, 9000, &["e0.0", "e0.1"], |segment, dir| {
            let image = dir.join(GOLDEN);
            vec![vblade(segment, dir, "0.0", &image, &[]), vblade(segment, dir, "0.1", &image, &[])]
        })
    });
    assert!(finished.iter().any(|guest| guest.status != 0), "{finished:?}");
}

#[test]
fn a_crashed_server_keeps_what_it_acknowledged() {
    let test = "a_crashed_server_keeps_what_it_acknowledged";
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let finished = lab.attempt(|dir| {
        scenario::crashes(&lab, dir, 9000, |segment, dir| {
            vblade(segment, dir, "0.0", &dir.join(GOLDEN), &[])
        })
    });
    for guest in &finished {
        guest.assert_success();
    }
}

#[test]
fn a_forgetful_server_is_caught() {
    let test = "a_forgetful_server_is_caught";
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let [writer, reader] = lab.attempt(|dir| {
        scenario::crashes(&lab, dir, 9000, |segment, dir| {
            forgetful_vblade(segment, dir, "0.0", &dir.join(GOLDEN))
        })
    });
    assert_ne!(writer.status, 0, "{}", writer.console);
    assert_ne!(reader.status, 0, "{}", reader.console);
}

fn union(test: &'static str, read_only: &[&str]) -> Option<scenario::Union> {
    if !require::met(test, NEEDS) {
        return None;
    }
    let lab = Lab::new(test, DISK_WORKER);
    Some(lab.attempt(|dir| {
        scenario::union(&lab, dir, 9000, |segment, dir| {
            let blank = dir.join("blank.img");
            std::fs::File::create(&blank).unwrap().set_len(64 << 20).unwrap();
            vec![
                vblade(segment, dir, "0.0", &dir.join(TREE), read_only),
                vblade(segment, dir, "0.1", &blank, &[]),
            ]
        })
    }))
}

#[test]
fn a_read_only_disk_under_a_blank_disk_works() {
    if let Some(union) = union("a_read_only_disk_under_a_blank_disk_works", &["-r"]) {
        union.guest.assert_success();
        assert_eq!(judge::refused(union.write_accepted), Ok(()));
        assert_eq!(union.base, Ok(()));
    }
}

#[test]
fn a_writable_read_only_disk_is_caught() {
    if let Some(union) = union("a_writable_read_only_disk_is_caught", &[]) {
        assert_eq!(judge::refused(union.write_accepted), Err(Verdict::WriteAccepted));
        assert!(matches!(union.base, Err(Verdict::Changed(_))), "{:?}", union.base);
    }
}
