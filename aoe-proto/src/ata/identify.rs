//! The IDENTIFY DEVICE page: 256 little-endian words. `[AoE 6]` `[ACS-3 7.12.7]`

use crate::sectors::SECTOR_BYTES;
use crate::target::{TargetConfig, TrimSupport};

/// A page that reads back as sent.
pub type Page = [u8; SECTOR_BYTES];

/// Sectors a 28-bit device can show in words 60 and 61.
const LBA28_SECTORS_MAX: u32 = 0x0fff_ffff;
/// Most range sectors of a TRIM command in word 105.
const TRIM_SECTORS_MAX: u8 = 8;
/// The first byte of the integrity word.
const SIGNATURE: u8 = 0xa5;

/// Fills the page for a target. The same configuration and sector limit give the same page.
pub(crate) fn fill(page: &mut Page, config: &TargetConfig, sectors_max: u8) {
    page.fill(0);
    let (words, _) = page.as_chunks_mut::<2>();
    let mut words = Words { words };
    let identity = &config.identity;
    words.set(0, 0x0040); // ATA, fixed
    geometry(&mut words, config.sectors);
    words.text(10, identity.serial.as_bytes());
    words.text(23, identity.revision.as_bytes());
    words.text(27, identity.model.as_bytes());
    words.set(47, 0x8000); // no READ or WRITE MULTIPLE
    words.set(49, 0x0f00); // LBA, DMA, IORDY
    words.set(50, 0x4000);
    words.set(53, 0x0007); // 54 to 58, 64 to 70 and 88 are valid
    transfer_modes(&mut words);
    words.set(80, 0x01f0); // ATA/ATAPI-4 to ATA8-ACS
    features(&mut words, identity.wwn);
    words.set(93, 0x400b); // device 0 passed diagnostics
    capacity(&mut words, config.sectors);
    trim(&mut words, config.trim, sectors_max);
    if config.physical_sector_log2 > 0 {
        words.set(106, 0x6000 | u16::from(config.physical_sector_log2 & 0x0f));
        words.set(209, 0x4000); // aligned to LBA 0
    }
    words.set(217, 0x0001); // not rotating
    seal(page);
}

/// Words 1, 3, 6 and 54 to 58: the default translation, which only old clients read.
fn geometry(words: &mut Words<'_>, sectors: u64) {
    let (cylinders, heads, per_track) = if sectors < 16 * 63 {
        (sectors, 1, 1)
    } else {
        ((sectors / (16 * 63)).min(16_383), 16, 63)
    };
    let chs_sectors = cylinders * heads * per_track;
    for (index, value) in [(1, cylinders), (3, heads), (6, per_track)] {
        words.set_low(index, value);
    }
    for (index, value) in [(54, cylinders), (55, heads), (56, per_track)] {
        words.set_low(index, value);
    }
    words.set_low(57, chs_sectors);
    words.set_low(58, chs_sectors >> 16);
}

/// DMA and PIO modes, which mean nothing here but belong to a device that claims DMA.
fn transfer_modes(words: &mut Words<'_>) {
    words.set(63, 0x0007); // multiword DMA 0 to 2
    words.set(64, 0x0003); // PIO 3 and 4
    for index in 65..=68 {
        words.set(index, 120); // ns
    }
    words.set(88, 0x003f); // ultra DMA 0 to 5
}

/// Words 82 to 87, 108 to 111, 119 and 120.
fn features(words: &mut Words<'_>, wwn: Option<u64>) {
    const SMART_POWER_CACHE: u16 = 0x0029;
    const FUA: u16 = 0x0040;
    const WWN: u16 = 0x0100;
    words.set(82, SMART_POWER_CACHE);
    words.set(83, 0x7400); // LBA48, FLUSH CACHE, FLUSH CACHE EXT
    words.set(85, SMART_POWER_CACHE);
    words.set(86, 0x3400);
    let named = if wwn.is_some() { WWN } else { 0 };
    words.set(84, 0x4000 | FUA | named);
    words.set(87, 0x4000 | FUA | named);
    if let Some(wwn) = wwn {
        // The most significant word comes first, unlike every other long value of the page.
        for (index, shift) in [(108, 48), (109, 32), (110, 16), (111, 0)] {
            words.set_low(index, wwn >> shift);
        }
    }
    words.set(119, 0x4000);
    words.set(120, 0x4000);
}

/// Words 60, 61 and 100 to 103. Linux reads the latter as one 64-bit number.
fn capacity(words: &mut Words<'_>, sectors: u64) {
    let lba28 = u32::try_from(sectors).unwrap_or(u32::MAX).min(LBA28_SECTORS_MAX);
    words.set_low(60, u64::from(lba28));
    words.set_low(61, u64::from(lba28 >> 16));
    for (index, shift) in [(100, 0), (101, 16), (102, 32), (103, 48)] {
        words.set_low(index, sectors >> shift);
    }
}

fn trim(words: &mut Words<'_>, support: TrimSupport, sectors_max: u8) {
    if support == TrimSupport::None {
        return;
    }
    words.set(105, u16::from(sectors_max.min(TRIM_SECTORS_MAX)));
    words.set(169, 0x0001);
    if support == TrimSupport::Zeroing {
        words.set(69, 0x4020); // deterministic, zeros
    }
}

/// Word 255: the signature, and a byte that makes the sum of all bytes zero.
fn seal(page: &mut Page) {
    let [.., signature, checksum] = page;
    *signature = SIGNATURE;
    *checksum = 0;
    let sum = sum(page);
    let [.., checksum] = page;
    *checksum = sum.wrapping_neg();
}

fn sum(page: &Page) -> u8 {
    page.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The words of a page, by the numbers of the standard.
struct Words<'p> {
    words: &'p mut [[u8; 2]],
}

impl Words<'_> {
    fn set(&mut self, index: usize, value: u16) {
        if let Some(word) = self.words.get_mut(index) {
            *word = value.to_le_bytes();
        }
    }

    /// Sets a word to the low 16 bits of a longer value.
    fn set_low(&mut self, index: usize, value: u64) {
        let [low, high, ..] = value.to_le_bytes();
        self.set(index, u16::from_le_bytes([low, high]));
    }

    /// Sets words to text, the two characters of each word swapped.
    fn text(&mut self, index: usize, text: &[u8]) {
        for (index, pair) in (index..).zip(text.as_chunks::<2>().0) {
            self.set(index, u16::from_be_bytes(*pair));
        }
    }
}

/// What an initiator wants to know from somebody else's page.
#[derive(Clone, Copy, Debug)]
pub struct Identify<'p> {
    page: &'p Page,
}

impl<'p> Identify<'p> {
    /// A page as it was received.
    pub const fn new(page: &'p Page) -> Self {
        Self { page }
    }

    /// Word `index` of 0 to 255; 0 beyond.
    pub fn word(self, index: usize) -> u16 {
        let (words, _) = self.page.as_chunks::<2>();
        words.get(index).map_or(0, |word| u16::from_le_bytes(*word))
    }

    /// Whether the integrity word is there and right. Old targets leave it out.
    pub fn is_sealed(self) -> bool {
        let [.., signature, _] = self.page;
        *signature == SIGNATURE && sum(self.page) == 0
    }

    /// Whether 48-bit commands are served: word 83 or 86 bit 10, as Linux reads them.
    pub fn has_lba48(self) -> bool {
        (self.word(83) | self.word(86)) & 0x0400 != 0
    }

    /// Size in sectors.
    pub fn sectors(self) -> u64 {
        let long = |first: usize, words: usize| {
            (0..words).rev().fold(0, |value, at| value << 16 | u64::from(self.word(first + at)))
        };
        if self.has_lba48() { long(100, 4) } else { long(60, 2) }
    }

    /// Whether TRIM is offered: word 169 bit 0.
    pub fn has_trim(self) -> bool {
        self.word(169) & 1 != 0
    }

    /// World wide name: words 108 to 111, if words 84 and 87 say so.
    pub fn wwn(self) -> Option<u64> {
        let wwn = (108..112).fold(0, |value, at| value << 16 | u64::from(self.word(at)));
        (self.word(87) & 0xc100 == 0x4100).then_some(wwn)
    }

    /// Serial number, with its padding.
    pub fn serial(self) -> [u8; 20] {
        self.text(10)
    }

    /// Firmware revision, with its padding.
    pub fn revision(self) -> [u8; 8] {
        self.text(23)
    }

    /// Model, with its padding.
    pub fn model(self) -> [u8; 40] {
        self.text(27)
    }

    fn text<const N: usize>(self, index: usize) -> [u8; N] {
        let mut text = [0; N];
        for (index, pair) in (index..).zip(text.as_chunks_mut::<2>().0) {
            *pair = self.word(index).to_be_bytes();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{AtaText, Identity};
    use crate::wire::Address;

    fn config(sectors: u64) -> TargetConfig {
        let identity = Identity {
            serial: AtaText::new("serial-0001").unwrap(),
            revision: AtaText::new("0.1").unwrap(),
            model: AtaText::new("a model").unwrap(),
            wwn: Some(0x5001_0203_0405_0607),
        };
        TargetConfig { identity, ..TargetConfig::new(Address::new(7, 3).unwrap(), sectors) }
    }

    fn page(config: &TargetConfig) -> Page {
        let mut page = [0xa5; SECTOR_BYTES];
        fill(&mut page, config, 2);
        page
    }

    #[test]
    fn every_word_of_a_large_disk() {
        let sectors = 0x0000_1234_5678_9abc;
        let page = page(&TargetConfig {
            trim: TrimSupport::Zeroing,
            physical_sector_log2: 3,
            ..config(sectors)
        });
        let expected = [
            (0, 0x0040),
            (1, 16_383),
            (3, 16),
            (6, 63),
            (47, 0x8000),
            (49, 0x0f00),
            (50, 0x4000),
            (53, 7),
            (54, 16_383),
            (55, 16),
            (56, 63),
            (57, 0xfc10),
            (58, 0x00fb),
            (60, 0xffff),
            (61, 0x0fff),
            (63, 7),
            (64, 3),
            (65, 120),
            (66, 120),
            (67, 120),
            (68, 120),
            (69, 0x4020),
            (80, 0x01f0),
            (82, 0x0029),
            (83, 0x7400),
            (84, 0x4140),
            (85, 0x0029),
            (86, 0x3400),
            (87, 0x4140),
            (88, 0x003f),
            (93, 0x400b),
            (100, 0x9abc),
            (101, 0x5678),
            (102, 0x1234),
            (103, 0),
            (105, 2),
            (106, 0x6003),
            (108, 0x5001),
            (109, 0x0203),
            (110, 0x0405),
            (111, 0x0607),
            (119, 0x4000),
            (120, 0x4000),
            (169, 1),
            (209, 0x4000),
            (217, 1),
        ];
        let text = |index| matches!(index, 10..=19 | 23..=26 | 27..=46);
        let identify = Identify::new(&page);
        for index in (0..255).filter(|index| !text(*index)) {
            let value = expected.iter().find(|(at, _)| *at == index).map_or(0, |(_, value)| *value);
            assert_eq!(identify.word(index), value, "word {index}");
        }
        assert_eq!(identify.word(255) & 0xff, 0xa5);
        assert_eq!(page.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn text_is_swapped_and_padded() {
        let page = page(&config(1000));
        assert_eq!(&page[20..40], b"esirla0-00 1        ");
        assert_eq!(&page[46..54], b".0 1    ");
        let identify = Identify::new(&page);
        assert_eq!(&identify.serial(), b"serial-0001         ");
        assert_eq!(&identify.revision(), b"0.1     ");
        assert_eq!(&identify.model()[..8], b"a model ");
    }

    #[test]
    fn sizes_and_geometries() {
        for (sectors, cylinders, heads, per_track) in [
            (1, 1, 1, 1),
            (1007, 1007, 1, 1),
            (1008, 1, 16, 63),
            (16_383 * 1008, 16_383, 16, 63),
            (1 << 28, 16_383, 16, 63),
            ((1 << 48) - 1, 16_383, 16, 63),
        ] {
            let page = page(&config(sectors));
            let identify = Identify::new(&page);
            assert_eq!(identify.sectors(), sectors);
            let [c, h, s] = [54, 55, 56].map(|index| u64::from(identify.word(index)));
            assert_eq!((c, h, s), (cylinders, heads, per_track), "{sectors}");
            assert!(c * h * s <= sectors);
            let lba28 = u64::from(identify.word(61)) << 16 | u64::from(identify.word(60));
            assert_eq!(lba28, sectors.min(0x0fff_ffff));
            assert!(identify.is_sealed() && identify.has_lba48());
        }
    }

    #[test]
    fn options_that_are_off_leave_no_trace() {
        let mut off = config(1000);
        off.identity.wwn = None;
        let without = page(&off);
        let identify = Identify::new(&without);
        for index in [69, 105, 106, 108, 109, 110, 111, 169, 209] {
            assert_eq!(identify.word(index), 0, "word {index}");
        }
        assert_eq!((identify.word(84), identify.word(87)), (0x4040, 0x4040));
        assert_eq!((identify.has_trim(), identify.wwn()), (false, None));
        let wwn = Identify::new(&page(&config(1000))).wwn();
        assert_eq!(wwn, Some(0x5001_0203_0405_0607));
    }

    #[test]
    fn trim_without_zeros_and_with_large_frames() {
        let mut page = [0xa5; SECTOR_BYTES];
        fill(&mut page, &TargetConfig { trim: TrimSupport::Plain, ..config(1000) }, 16);
        let identify = Identify::new(&page);
        assert_eq!((identify.word(69), identify.word(105), identify.word(169)), (0, 8, 1));
        assert!(identify.has_trim());
    }

    #[test]
    fn a_damaged_page_is_not_sealed() {
        let mut page = page(&config(1000));
        page[200] ^= 1;
        assert!(!Identify::new(&page).is_sealed());
        assert!(!Identify::new(&[0; 512]).is_sealed(), "no signature, though the sum is zero");
    }
}
