//! A PC boots over the network through iPXE: from the reference target first, then from ours.

use std::fs;

use system_tests::judge;
use system_tests::lab::Lab;
use system_tests::pc::{self, NEEDS};
use system_tests::require::{self, Need};
use system_tests::scenario::GOLDEN;
use system_tests::target::{cowblade, forgetful_vblade, vblade};

const DISK_WORKER: &str = env!("CARGO_BIN_EXE_disk-worker");
const VBLADE: &[Need] = &[Need::Program("vblade")];

#[test]
fn a_pc_boots_from_vblade() {
    let test = "a_pc_boots_from_vblade";
    if !require::met(test, &[NEEDS, VBLADE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let image = lab.dir().join(GOLDEN);
    pc::make_bootable(&image);
    let words = pc::boot_twice(lab.dir(), |segment, dir| vblade(segment, dir, "0.0", &image, &[]));
    assert_eq!(words, ["WROTE", "FOUND"]);
}

#[test]
fn a_disk_that_forgets_the_boot_is_caught() {
    let test = "a_disk_that_forgets_the_boot_is_caught";
    if !require::met(test, &[NEEDS, VBLADE]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let image = lab.dir().join(GOLDEN);
    pc::make_bootable(&image);
    let words =
        pc::boot_twice(lab.dir(), |segment, dir| forgetful_vblade(segment, dir, "0.0", &image));
    assert_eq!(words, ["WROTE", "WROTE"]);
}

#[test]
fn a_pc_boots_from_its_overlay() {
    let test = "a_pc_boots_from_its_overlay";
    if !require::met(test, &[NEEDS]) {
        return;
    }
    let lab = Lab::new(test, DISK_WORKER);
    let image = lab.dir().join(GOLDEN);
    pc::make_bootable(&image);
    let before = fs::read(&image).unwrap();
    let words = pc::boot_twice(lab.dir(), |segment, dir| {
        cowblade(segment, dir, &[&image.display().to_string(), "--new-clients", "auto"])
    });
    assert_eq!(words, ["WROTE", "FOUND"]);
    assert_eq!(judge::unchanged(&before, &image), Ok(()));
}
