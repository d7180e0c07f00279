//! At least 100,000 qcow2 images that lie, by fixed seeds: no panic, no endless loop, nothing read
//! behind the end, and an answer or an error for each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use cow_core::blocking::Blocking;
use cow_core::engine::{Durability, Engine, Lent};
use cow_core::fault::Dice;
use cow_core::format::qcow2::{self, CreateOptions, Opened, Surroundings};
use cow_core::format::{Layer, Top, raw};
use cow_core::pages::{Frame, Page, PagePool, StorageKey};
use cow_core::units::{Extent, Lba};
use system_tests::chain_model::more_seeds;
use system_tests::hostile_file::{HostileChain, HostileFile, drive, run};

const IMAGE: StorageKey = StorageKey(0);

/// Images of all kinds together.
const IMAGES: u64 = 100_000;

/// One kind of image.
#[derive(Clone, Copy, Debug)]
struct Kind {
    version: u32,
    cluster_bits: u8,
    refcount_bits: u8,
    backed: bool,
    sectors: u64,
    /// Entries of two words.
    subclusters: bool,
}

/// Tiny clusters, of which an image has many and of which most lies hit something; both versions;
/// counts of every unlike width; subclusters.
const KINDS: [Kind; 5] = [
    Kind::new(3, 9, 16, true, 1003),
    Kind::new(2, 9, 16, false, 200),
    Kind::new(3, 10, 1, false, 700),
    Kind::new(3, 9, 64, true, 150),
    Kind { subclusters: true, ..Kind::new(3, 14, 8, true, 300) },
];

impl Kind {
    const fn new(
        version: u32,
        cluster_bits: u8,
        refcount_bits: u8,
        backed: bool,
        sectors: u64,
    ) -> Self {
        Self { version, cluster_bits, refcount_bits, backed, sectors, subclusters: false }
    }

    fn base() -> Layer<'static> {
        Layer::Raw(raw::Raw::new(StorageKey(1), 1 << 30).unwrap())
    }

    /// A sound image with data, zeros, holes, a compressed cluster and a snapshot.
    fn image(self) -> Vec<u8> {
        let mut file = HostileFile::new(Vec::new());
        let options = CreateOptions {
            version: self.version,
            disk_bytes: self.sectors * 512,
            cluster_bits: self.cluster_bits,
            refcount_bits: self.refcount_bits,
            backing: self.backed.then_some(qcow2::Backing { name: b"base.img", format: b"raw" }),
        };
        let mut page = Page::ZERO.clone();
        qcow2::create(&mut file, &options, &mut page).unwrap();
        let opened = qcow2::open(&file).unwrap();
        let top =
            qcow2::open_writable(&mut file, IMAGE, &opened, &Surroundings::default(), &mut page);
        let mut engine =
            Engine::<2>::new(Some(Top::Qcow2(top.unwrap())), self.sectors, Durability::Safe)
                .unwrap();
        let (mut pages, mut frames) = ([Page::ZERO; 3], [Frame::EMPTY; 3]);
        let mut pool = PagePool::new(&mut pages, &mut frames).unwrap();
        let layers = [Self::base()];
        let layers = if self.backed { &layers[..] } else { &[] };
        let mut chain = HostileChain(file);
        let mut driver = Blocking {
            engine: &mut engine,
            lent: Lent { pages: &mut pool, layers, index: &mut [] },
            storages: &mut chain,
        };
        for (at, len) in [(0, 9), (40, 3), (90, 30), (self.sectors - 2, 2)] {
            driver.write(Lba::new(at).unwrap(), &vec![0x77; len * 512]).unwrap();
        }
        driver.zero(Extent::new(96, 16).unwrap()).unwrap();
        driver.flush().unwrap();
        let Some(Top::Qcow2(mut top)) = engine.into_overlay() else { panic!("another overlay") };
        qcow2::close(&mut chain.0, &mut top, &mut page).unwrap();
        let mut bytes = chain.0.bytes;
        self.add_specials(&mut bytes);
        bytes
    }

    /// What our writer does not write: a compressed cluster, a snapshot, subclusters, autoclear bits.
    /// Counts of the new clusters are missing, or a repair would have nothing to do.
    fn add_specials(self, bytes: &mut Vec<u8>) {
        let cluster = 1_usize << self.cluster_bits;
        bytes.resize(bytes.len().next_multiple_of(cluster), 0);
        let (l1, l2) = (place(bytes, 40), place(bytes, place(bytes, 40)));
        if self.subclusters {
            // Its entries have been written as if they were of one word each.
            bytes[72..80].copy_from_slice(&16_u64.to_be_bytes());
            for n in (0..cluster / 8).rev() {
                let old = number(bytes, l2 + 8 * n);
                if 16 * n + 16 <= cluster {
                    put(bytes, l2 + 16 * n, old & !1);
                    put(bytes, l2 + 16 * n + 8, if old == 0 { 0xffff << 32 } else { 0xffff });
                }
            }
        } else {
            let at = bytes.len() as u64;
            let split = 62 - (self.cluster_bits - 8);
            put(bytes, l2 + 8 * 20, 1 << 62 | 1 << split | at | 0x64);
            bytes.resize(bytes.len() + 2 * cluster, 0x5a);
        }
        if self.version == 3 {
            put(bytes, 88, 1);
        }
        // A snapshot: the list, then a copy of the first table.
        let (list, copy) = (bytes.len(), bytes.len() + cluster);
        bytes.resize(bytes.len() + 2 * cluster, 0);
        put(bytes, list, copy as u64);
        bytes[list + 8..list + 16].copy_from_slice(b"\0\0\0\x01\0\x01\0\x03");
        bytes[list + 36..list + 40].copy_from_slice(&16_u32.to_be_bytes());
        put(bytes, list + 48, self.sectors * 512);
        bytes[list + 56..list + 60].copy_from_slice(b"1one");
        let entries = u32::from_be_bytes(bytes[36..40].try_into().unwrap());
        bytes[list + 8..list + 12].copy_from_slice(&entries.to_be_bytes());
        bytes.copy_within(l1..l1 + cluster, copy);
        bytes[60..64].copy_from_slice(&1_u32.to_be_bytes());
        put(bytes, 64, list as u64);
        if self.version == 3 && !self.backed {
            self.add_bitmaps(bytes);
        }
    }

    /// Two bitmaps of changes: directory, a table of two entries for both of them in turn, a cluster.
    fn add_bitmaps(self, bytes: &mut Vec<u8>) {
        let cluster = 1_usize << self.cluster_bits;
        let directory = bytes.len();
        bytes.resize(directory + 4 * cluster, 0);
        for (at, value) in [
            (112, 0x2385_2875 << 32 | 0x18),
            (120, 2 << 32),
            (128, 64),
            (136, directory as u64),
            (directory, (directory + cluster) as u64),
            (directory + 8, 2 << 32),
            (directory + 16, 3),
            (directory + 32, (directory + 2 * cluster) as u64),
            (directory + 40, 1 << 32),
            (directory + 48, 3),
            (directory + cluster, 1),
            (directory + cluster + 8, (directory + 3 * cluster) as u64),
        ] {
            put(bytes, at, value);
        }
    }

    /// Where lies are worth most.
    fn fields(bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut fields = vec![(0, 4), (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4)];
        fields.extend([(40, 8), (48, 8), (56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (88, 8)]);
        fields.extend([(96, 4), (100, 4), (104, 1), (112, 4), (116, 4), (120, 8)]);
        if bytes[112..116] == [0x23, 0x85, 0x28, 0x75] {
            let directory = place(bytes, 136);
            let of_bitmap = [(0, 8), (8, 4), (18, 2), (20, 4), (32, 8), (40, 4), (50, 2)];
            fields.extend([(120, 4), (128, 8), (136, 8)]);
            fields.extend(of_bitmap.map(|(at, len)| (directory + at, len)));
            fields.extend((0..2).map(|n| (place(bytes, directory) + 8 * n, 8)));
        }
        let (l1, reftable, list) = (place(bytes, 40), place(bytes, 48), place(bytes, 64));
        let l2 = place(bytes, l1);
        fields.extend((0..4).map(|n| (l1 + 8 * n, 8)));
        fields.extend((0..24).map(|n| (l2 + 8 * n, 8)));
        fields.extend((0..2).map(|n| (reftable + 8 * n, 8)));
        fields.extend((0..8).map(|n| (place(bytes, reftable) + 8 * n, 8)));
        let of_snapshot = [(0, 8), (8, 4), (12, 2), (14, 2), (32, 4), (36, 4), (40, 8), (48, 8)];
        fields.extend(of_snapshot.map(|(at, len)| (list + at, len)));
        fields
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// The place that an entry names.
fn place(bytes: &[u8], at: usize) -> usize {
    usize::try_from(number(bytes, at) & 0x00ff_ffff_ffff_fe00).unwrap()
}

fn memory_for(opened: &Opened) -> Vec<u16> {
    vec![0; usize::try_from(qcow2::check_needed(opened)).unwrap()]
}

fn look_at(file: HostileFile, dice: &mut Dice) -> bool {
    let mut page = Page::ZERO.clone();
    let opened = match qcow2::open(&file) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let _name = qcow2::backing_name(&file, &opened, &mut [0; qcow2::MAX_NAME_LEN]).unwrap();
    let mut layers = vec![opened.frozen(IMAGE)];
    for snapshot in qcow2::snapshots(&file, &opened).map_while(Result::ok) {
        let mut name = [0; 100];
        assert!(snapshot.name(&file, &mut name).unwrap().len() <= 100);
        layers.extend(snapshot.frozen(&opened, IMAGE));
    }
    let _none = qcow2::find_snapshot(&file, &opened, b"one").map(drop);
    let found = qcow2::check(&file, &opened, &mut memory_for(&opened), &mut page, &mut |finding| {
        assert!(!finding.to_string().is_empty());
    });
    let report = found.unwrap();
    for frozen in layers.into_iter().take(2) {
        let chain = [Layer::Qcow2(frozen), Kind::base()];
        let (chain, _) = drive(HostileChain(file.clone()), None, &chain, dice);
        assert!(chain.0.bytes == file.bytes, "a layer was written");
    }
    if dice.chance(20) {
        repair(&file, &opened, &mut page);
        empty(&file, &opened, &mut page);
        rename(&file, &opened, &mut page);
    }
    let mut file = file;
    let surroundings = Surroundings::default();
    let top = qcow2::open_writable(&mut file, IMAGE, &opened, &surroundings, &mut page);
    let Ok(top) = top else { return true };
    let (chain, top) = drive(HostileChain(file), Some(Top::Qcow2(top)), &[Kind::base()], dice);
    let (mut file, Some(Top::Qcow2(mut top))) = (chain.0, top) else { panic!("no overlay") };
    let _full = qcow2::close(&mut file, &mut top, &mut page);
    let after = qcow2::open(&file).unwrap();
    let found = qcow2::check(&file, &after, &mut memory_for(&after), &mut page, &mut |_| {});
    // Writing adds nothing to what was wrong.
    let now = found.unwrap();
    assert!(report.damage > 0 || now.damage == 0, "{report:?}, then {now:?}");
    true
}

/// What a repair calls sound is sound.
fn repair(file: &HostileFile, opened: &Opened, page: &mut Page) {
    let mut file = file.clone();
    // A repair may add blocks.
    let mut memory = memory_for(opened);
    let Ok(done) = qcow2::repair(&mut file, opened, None, &mut memory, page, &mut |_| {}) else {
        return;
    };
    let after = qcow2::open(&file).unwrap();
    let found = qcow2::check(&file, &after, &mut memory_for(&after), page, &mut |_| {}).unwrap();
    assert!(done.left.damage > 0 || found.damage == 0, "{done:?}, and yet {found:?}");
}

/// What was emptied is empty.
fn empty(file: &HostileFile, opened: &Opened, page: &mut Page) {
    let mut file = file.clone();
    if qcow2::rollback(&mut file, opened, None, page).is_err() {
        return;
    }
    let after = qcow2::open(&file).unwrap();
    let found = qcow2::check(&file, &after, &mut memory_for(&after), page, &mut |_| {}).unwrap();
    assert_eq!((found.damage, found.data_clusters), (0, 0), "{found:?}");
}

/// Another parent, or none, is what the header says then.
fn rename(file: &HostileFile, opened: &Opened, page: &mut Page) {
    for name in [&b"another.img"[..], b""] {
        let (mut file, mut opened) = (file.clone(), *opened);
        let backing = qcow2::Backing { name, format: b"qcow2" };
        let backing = (!name.is_empty()).then_some(backing);
        if qcow2::set_backing(&mut file, &mut opened, backing, page).is_err() {
            continue;
        }
        let after = qcow2::open(&file).unwrap();
        let mut buffer = [0; qcow2::MAX_NAME_LEN];
        assert_eq!(qcow2::backing_name(&file, &after, &mut buffer).unwrap(), name);
    }
}

#[test]
fn qcow2_images_that_lie() {
    let each = IMAGES * more_seeds() / KINDS.len() as u64;
    for kind in KINDS {
        let image = kind.image();
        let fields = Kind::fields(&image);
        let sound = look_at(HostileFile::new(image.clone()), &mut Dice::new(1));
        assert!(sound, "{kind:?} is refused as it is");
        let tally = run(&[image], &fields, each, look_at);
        println!("{kind:?}: {tally:?}");
        assert!(tally.refused > each / 10 && tally.refused < each * 9 / 10, "{tally:?}");
    }
}
