//! Rules about IDENTIFY pages. `[AoE 6]`

use super::exchange::hash_of;
use super::record::{Identified, TargetRecord};
use super::rule::{Detail, Judge, Rule};
use crate::ata::identify::{Identify, Page};
use crate::sectors::DISK_SECTORS_MAX;
use crate::wire::{AddressPattern, Mac};

/// Sectors that words 60 and 61 can show.
const LBA28_SECTORS_MAX: u64 = 0x0fff_ffff;
/// The first byte of the integrity word.
const SIGNATURE: u16 = 0xa5;

/// Holds a page against the rules, and tells what to remember of it.
pub(super) fn check(page: &Page, initiator: Mac, judge: &mut Judge<'_>) -> Identified {
    let identify = Identify::new(page);
    let signed = identify.word(255) & 0xff == SIGNATURE;
    judge.flag(signed && !identify.is_sealed(), Rule::IdentifyChecksum);
    // Word 0 bit 15: no ATA disk. Word 49 bit 9: LBA. Words 83, 84, 87: bit 14 set, bit 15 clear.
    let marked = [83, 84, 87].iter().all(|at| identify.word(*at) & 0xc000 == 0x4000);
    let is_disk = identify.word(0) & 0x8000 == 0 && identify.word(49) & 0x0200 != 0;
    judge.flag(!marked || !is_disk, Rule::IdentifyWords);
    let sectors = identify.sectors();
    let lba28 = u64::from(identify.word(61)) << 16 | u64::from(identify.word(60));
    if identify.has_lba48() {
        let broken = sectors == 0 || sectors > DISK_SECTORS_MAX;
        judge.found(broken, Rule::IdentifySize, sectors);
        let due = sectors.min(LBA28_SECTORS_MAX);
        judge.expected(lba28 != due, Rule::IdentifySizesDiffer, lba28, due);
    } else {
        let broken = sectors == 0 || sectors > LBA28_SECTORS_MAX;
        judge.found(broken, Rule::IdentifySize, sectors);
        judge.flag(true, Rule::IdentifyLba28);
    }
    let serial = identify.serial();
    judge.flag(is_blank(&serial), Rule::IdentifyNoSerial);
    Identified { initiator, hash: hash_of(page), serial, sectors }
}

/// Compares a page with the last one that the same initiator got from the same target.
pub(super) fn compare(old: &Identified, new: &Identified, judge: &mut Judge<'_>) {
    if old.initiator != new.initiator || old.hash == new.hash {
        return;
    }
    judge.flag(true, Rule::IdentifyChanged);
    let shrank = new.sectors < old.sectors;
    judge.expected(shrank, Rule::DiskShrank, new.sectors, old.sectors);
}

/// Looks for another target on the same VLAN with the same serial number.
pub(super) fn compare_serials(
    records: &[TargetRecord],
    own: &TargetRecord,
    new: &Identified,
    judge: &mut Judge<'_>,
) {
    let (Some((vlan, address)), false) = (own.key, is_blank(&new.serial)) else { return };
    for record in records {
        let Some((other_vlan, other)) = record.key else { continue };
        let same = record
            .identified
            .is_some_and(|page| page.serial == new.serial && page.initiator == new.initiator);
        if other_vlan == vlan && other != address && same {
            judge.say(Rule::SerialShared, Detail::Address(AddressPattern::from(other)));
            return;
        }
    }
}

fn is_blank(serial: &[u8; 20]) -> bool {
    serial.iter().all(|byte| matches!(byte, 0 | b' '))
}
