//! The harness held against the reference target, before it judges ours.

use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::require::{self, Need, UML_INITIATOR};
use system_tests::scenario::{self, Attach};

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const NEEDS: &[&[Need]] =
    &[UML_INITIATOR, &[Need::Program("vblade"), Need::Program("mke2fs"), Need::Program("e2fsck")]];

fn everyday(test: &'static str, mtu: u16, attach: Attach) {
    if !require::met(test, NEEDS) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let (outcome, verdict) = lab.attempt(|dir| {
        let outcome = scenario::everyday(&lab, dir, mtu, attach, |segment, dir| {
            scenario::vblade(segment, dir, (0, 0), &dir.join("golden.img"))
        })?;
        let golden = judge::golden_bytes(scenario::GOLDEN_SECTORS, scenario::GOLDEN_SEED);
        Ok((outcome, judge::unchanged(&golden, &dir.join("golden.img"))))
    });
    outcome.guest.assert_success();
    assert!(outcome.driver.contains(&scenario::data_frame(mtu)), "{}", outcome.driver);
    // vblade writes straight into the image: the judge of golden images must say so.
    assert!(matches!(verdict, Err(judge::Verdict::Changed(_))), "{verdict:?}");
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
