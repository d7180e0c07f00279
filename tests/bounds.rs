//! The server over many overlays of a large image stays small. `benches/bounds` prints the numbers,
//! and times too; here only a generous bound is held.

use std::fs::File;

use system_tests::frames::{Registers, parse_mac};
use system_tests::initiator::Initiator;
use system_tests::net::Segment;
use system_tests::require::{self, Need};
use system_tests::target::cowblade;
use system_tests::workspace::WorkDir;

const OVERLAYS: u16 = 256;
/// The promise for that many.
const RESIDENT_KIB: u64 = 64 << 10;
const IMAGE_LEN: u64 = 64 << 30;
/// Slots of a shelf; the last address of the protocol stands for all of them.
const SLOTS: u16 = 255;

#[test]
fn many_overlays_of_a_large_image_need_little_memory() {
    let test = "many_overlays_of_a_large_image_need_little_memory";
    if !require::met(test, &[&[Need::Root, Need::Program("ip")]]) {
        return;
    }
    let _turn = require::alone();
    let dir = WorkDir::new(test);
    let golden = dir.join("golden.img");
    let file = File::create(&golden).expect("an image");
    file.set_len(IMAGE_LEN).expect("a sparse image");
    let segment = Segment::new(1500, 1);
    let (golden, count) = (golden.display().to_string(), OVERLAYS.to_string());
    let options = [golden.as_str(), "--clients", &count, "--durability", "writeback"];
    let mut server = cowblade(&segment, dir.path(), &options).start();
    let mac = parse_mac(&Segment::client_mac(0));
    let find = |number: u16| {
        let slot = u8::try_from(number % SLOTS).expect("a slot");
        let at = (number / SLOTS, slot);
        Initiator::find(segment.clients(), &Segment::client(0), mac, at).expect("a disk")
    };
    for number in 0..OVERLAYS {
        let mut disk = find(number);
        // On pages of metadata far apart.
        for lba in [1, 1 << 20, 100 << 20] {
            let written = disk.ata(Registers::write(lba, 2), &[0x5a; 1024]);
            assert_eq!(written.status(), (0x40, 0), "disk {number}, sector {lba}");
        }
    }
    assert!(server.terminate().success(), "{}", server.log());
    server.restart();
    let mut last = find(OVERLAYS - 1);
    let read = last.ata(Registers::read(100 << 20, 2), &[]);
    assert_eq!(read.data(), [0x5a; 1024]);
    let resident = server.resident_kib();
    assert!(resident < RESIDENT_KIB, "{resident} KiB for {OVERLAYS} overlays");
}
