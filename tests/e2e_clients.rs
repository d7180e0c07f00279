//! The main job with real clients: Linux initiators, each on its own overlay of one golden image.
#![allow(clippy::unwrap_used, reason = "a failed preparation fails the test")]

use std::path::Path;

use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::lossy::Trouble;
use system_tests::net::Segment;
use system_tests::operator;
use system_tests::require::{self, Need, UML_INITIATOR};
use system_tests::scenario::{self, Attach, GOLDEN, TREE};
use system_tests::script::Load;
use system_tests::server::ServerPlan;
use system_tests::target::cowblade;
use system_tests::wire::Wire;

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const NEEDS: &[&[Need]] = &[UML_INITIATOR, &[Need::Program("mke2fs"), Need::Program("e2fsck")]];

/// `cowblade serve GOLDEN -i IFACE options`.
fn serve(segment: &Segment, dir: &Path, options: &[&str]) -> ServerPlan {
    let golden = dir.join(GOLDEN).display().to_string();
    cowblade(segment, dir, &[&[golden.as_str()], options].concat())
}

fn everyday(test: &'static str, mtu: u16, attach: Attach, options: &[&str]) {
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (outcome, golden) = lab.attempt(|dir| {
        let target = |segment: &Segment, dir: &Path| serve(segment, dir, options);
        let outcome = scenario::everyday(&lab, dir, mtu, attach, target)?;
        Ok((outcome, scenario::golden_unchanged(dir)))
    });
    outcome.guest.assert_success();
    // Of the 17 sectors that fit a jumbo frame we offer 16: whole pages of 4 KiB.
    let sectors = if mtu == 9000 { 16 } else { 2 };
    assert!(outcome.driver.contains(&scenario::data_frame(sectors)), "{}", outcome.driver);
    assert_eq!(golden, Ok(()));
}

#[test]
fn a_client_attached_by_advertisement_at_mtu_1500() {
    let test = "a_client_attached_by_advertisement_at_mtu_1500";
    everyday(test, 1500, Attach::Advertisement, &["--clients", "1"]);
}

#[test]
fn a_client_attached_by_advertisement_at_mtu_9000() {
    let test = "a_client_attached_by_advertisement_at_mtu_9000";
    everyday(test, 9000, Attach::Advertisement, &["--clients", "1"]);
}

#[test]
fn a_newcomer_attached_by_discovery_at_mtu_9000() {
    let test = "a_newcomer_attached_by_discovery_at_mtu_9000";
    let options = ["--new-clients", "auto", "--durability", "writeback"];
    everyday(test, 9000, Attach::Discovery, &options);
}

fn crowd(test: &'static str, mtu: u16, disks: &[&str], options: &[&str]) {
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (finished, golden) = lab.attempt(|dir| {
        let target = |segment: &Segment, dir: &Path| vec![serve(segment, dir, options)];
        let finished = scenario::crowd(&lab, dir, mtu, disks, target)?;
        Ok((finished, scenario::golden_unchanged(dir)))
    });
    for guest in &finished {
        guest.assert_success();
    }
    assert_eq!(golden, Ok(()));
}

#[test]
fn clients_with_one_address_each_are_isolated() {
    let test = "clients_with_one_address_each_are_isolated";
    crowd(test, 9000, &["e0.0", "e0.1", "e0.2"], &["--clients", "3"]);
}

#[test]
fn named_clients_share_one_address() {
    let names: Vec<_> =
        (0..2).map(|index| format!("client{index}={}", Segment::client_mac(index))).collect();
    let options = ["--client", &names[0], "--client", &names[1]];
    crowd("named_clients_share_one_address", 9000, &["e0.0", "e0.0"], &options);
}

#[test]
fn newcomers_share_one_address_at_mtu_1500() {
    let test = "newcomers_share_one_address_at_mtu_1500";
    crowd(test, 1500, &["e0.0", "e0.0"], &["--new-clients", "auto"]);
}

fn crashes(test: &'static str, mtu: u16, durability: &[&str]) {
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (finished, golden) = lab.attempt(|dir| {
        let options = [&["--new-clients", "auto"], durability].concat();
        let target = |segment: &Segment, dir: &Path| serve(segment, dir, &options);
        let finished = scenario::crashes(&lab, dir, mtu, target)?;
        Ok((finished, scenario::golden_unchanged(dir)))
    });
    for guest in &finished {
        guest.assert_success();
    }
    assert_eq!(golden, Ok(()));
}

#[test]
fn a_killed_safe_server_keeps_what_it_acknowledged() {
    crashes("a_killed_safe_server_keeps_what_it_acknowledged", 9000, &["--durability", "safe"]);
}

#[test]
fn a_killed_server_without_commit_log_keeps_what_it_acknowledged() {
    let test = "a_killed_server_without_commit_log_keeps_what_it_acknowledged";
    crashes(test, 9000, &["--commit-log=false"]);
}

#[test]
fn a_killed_writeback_server_keeps_what_it_acknowledged() {
    let test = "a_killed_writeback_server_keeps_what_it_acknowledged";
    crashes(test, 9000, &["--durability", "writeback"]);
}

#[test]
fn a_killed_writeback_server_keeps_what_it_acknowledged_at_mtu_1500() {
    let test = "a_killed_writeback_server_keeps_what_it_acknowledged_at_mtu_1500";
    crashes(test, 1500, &["--durability", "writeback"]);
}

#[test]
fn an_ephemeral_server_forgets() {
    let test = "an_ephemeral_server_forgets";
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let [_, reader] = lab.attempt(|dir| {
        let options = ["--new-clients", "auto", "--durability", "ephemeral"];
        scenario::crashes(&lab, dir, 9000, |segment, dir| serve(segment, dir, &options))
    });
    assert_ne!(reader.status, 0, "{}", reader.console);
}

#[test]
fn a_read_only_base_under_a_blank_disk_makes_a_union() {
    let test = "a_read_only_base_under_a_blank_disk_makes_a_union";
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let union = lab.attempt(|dir| {
        scenario::union(&lab, dir, 9000, |segment, dir| {
            let base = format!("0.0={},ro", dir.join(TREE).display());
            let overlays = dir.join("overlays").display().to_string();
            let arguments = ["--export", &base, "--export", "0.1=blank:64M"];
            let place = ["--overlays", overlays.as_str()];
            vec![cowblade(segment, dir, &[&arguments[..], &place].concat())]
        })
    });
    union.guest.assert_success();
    assert_eq!(judge::refused(union.write_accepted), Ok(()));
    assert_eq!(union.base, Ok(()));
}

fn troubled(test: &'static str, mtu: u16, durability: &str) {
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let trouble = Trouble { lost: 5, doubled: 10, swapped: 10, seed: 6 };
    let (guest, damage, golden) = lab.attempt(|dir| {
        let options = ["--clients", "1", "--durability", durability];
        let target = |segment: &Segment, dir: &Path| serve(segment, dir, &options);
        let (guest, damage) = scenario::troubled(&lab, dir, mtu, trouble, target)?;
        Ok((guest, damage, scenario::golden_unchanged(dir)))
    });
    guest.assert_success();
    println!("{damage:?}");
    assert!(damage.lost > 5 && damage.doubled > 10 && damage.swapped > 10, "{damage:?}");
    assert_eq!(golden, Ok(()));
}

#[test]
fn a_client_behind_a_troubled_wire_at_mtu_9000() {
    troubled("a_client_behind_a_troubled_wire_at_mtu_9000", 9000, "safe");
}

#[test]
fn a_client_behind_a_troubled_wire_at_mtu_1500() {
    troubled("a_client_behind_a_troubled_wire_at_mtu_1500", 1500, "writeback");
}

#[test]
fn an_adopted_client_attaches_at_once() {
    let test = "an_adopted_client_attaches_at_once";
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let finished = lab.attempt(|dir| {
        scenario::make_golden(dir);
        let segment = Segment::new(9000, 1);
        let wire = Wire::listen(segment.server(), Segment::SERVER);
        let _server = serve(&segment, dir, &[]).start();
        let load = Load::light(1, scenario::GOLDEN_BASE);
        let script =
            ["mark up; await_disk e0.0\n", &load.write("e0.0"), &load.verify("e0.0")].concat();
        let mut guest = lab.initiator(dir, &segment, 0, &script).boot();
        guest.await_mark("up", Some(&wire))?;
        let asked = scenario::await_question(&wire).discoveries;
        let overlays = dir.join(format!("{GOLDEN}.overlays")).display().to_string();
        let words = ["clients", "adopt", &Segment::client_mac(0), "first", "--overlays", &overlays];
        operator::cowblade(segment.server(), &words).assert_done();
        let finished = guest.wait(Some(&wire))?;
        assert_eq!(wire.seen().discoveries, asked, "attached only after asking again");
        Ok(finished)
    });
    finished.assert_success();
}
