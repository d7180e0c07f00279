//! qcow images of version 1, made and read by the letter of the specification. Shares nothing with
//! the engine.

use std::collections::BTreeMap;

/// Sizes of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// Bytes of a cluster as a power of two.
    pub cluster_bits: u8,
    /// Entries of an L2 table as a power of two.
    pub l2_bits: u8,
}

impl Shape {
    /// Sectors that one entry of the L1 table stands for.
    pub fn table_sectors(self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits - 9)
    }

    /// Bytes of an L2 table.
    pub fn table_len(self) -> u64 {
        8 << self.l2_bits
    }

    /// Entries of the L1 table of a disk of so many sectors.
    pub fn l1_entries(self, sectors: u64) -> u64 {
        sectors.div_ceil(self.table_sectors())
    }

    /// The header of an image, and the name that follows it.
    pub fn header(self, size: u64, backing: &[u8]) -> Vec<u8> {
        let name_len = u32::try_from(backing.len()).expect("a short name");
        let name_at = if backing.is_empty() { 0_u64 } else { 48 };
        let mut bytes = Vec::new();
        bytes.extend(b"QFI\xfb\0\0\0\x01");
        bytes.extend(name_at.to_be_bytes());
        bytes.extend(name_len.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([self.cluster_bits, self.l2_bits, 0, 0]);
        bytes.extend([0; 4]);
        bytes.extend(Self::l1_offset(backing.len()).to_be_bytes());
        bytes.extend(backing);
        bytes
    }

    /// Byte of the L1 table behind a name of so many bytes.
    pub fn l1_offset(name_len: usize) -> u64 {
        (48 + name_len as u64).next_multiple_of(8)
    }
}

/// A big-endian number at a byte of an image.
pub fn be64(bytes: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).expect("small");
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// An image read as a whole.
#[derive(Debug)]
pub struct Image {
    /// Its sizes.
    pub shape: Shape,
    /// Whole sectors of the disk.
    pub sectors: u64,
    /// Name of the backing file; empty for none.
    pub backing: Vec<u8>,
    /// Where the L2 tables are: by number of the L1 entry.
    pub tables: BTreeMap<u64, u64>,
    /// What the L2 tables say: by number of the cluster.
    pub clusters: BTreeMap<u64, u64>,
}

impl Image {
    /// Reads an image as a plain one: no Xen, no compression.
    ///
    /// # Errors
    /// What is wrong with it: nothing may lie anywhere twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.get(..8) != Some(b"QFI\xfb\0\0\0\x01") {
            return Err("no magic".into());
        }
        let shape = Shape { cluster_bits: bytes[32], l2_bits: bytes[33] };
        let (name_at, sectors, l1) = (be64(bytes, 8), be64(bytes, 24) / 512, be64(bytes, 40));
        let name_len = u64::from(u32::from_be_bytes(bytes[16..20].try_into().expect("four")));
        let (from, to) = (to_usize(name_at), to_usize(name_at + name_len));
        let backing = if name_at == 0 { Vec::new() } else { bytes[from..to].to_vec() };
        let entries = shape.l1_entries(sectors);
        let (mut tables, mut clusters) = (BTreeMap::new(), BTreeMap::new());
        let mut used = BTreeMap::from([(0, 48), (l1, entries * 8)]);
        if name_len > 0 {
            used.insert(name_at, name_len);
        }
        for number in 0..entries {
            let table = be64(bytes, l1 + 8 * number);
            if table == 0 {
                continue;
            }
            tables.insert(number, table);
            claim(&mut used, table, shape.table_len(), bytes.len())?;
            for slot in 0..1 << shape.l2_bits {
                let entry = be64(bytes, table + 8 * slot);
                if entry == 0 {
                    continue;
                }
                let cluster = (number << shape.l2_bits) + slot;
                clusters.insert(cluster, entry);
                // The last cluster of a disk may be written as far as the disk goes.
                let whole = 1 << shape.cluster_bits;
                let begins = cluster << (shape.cluster_bits - 9);
                let held = (sectors.saturating_sub(begins) * 512).min(whole);
                claim(&mut used, entry, held, bytes.len())?;
            }
        }
        Ok(Self { shape, sectors, backing, tables, clusters })
    }

    /// The disk, over the bytes of a backing file.
    pub fn view(&self, bytes: &[u8], base: &[u8]) -> Vec<u8> {
        let len = to_usize(self.sectors * 512);
        let mut disk = base.to_vec();
        disk.resize(len, 0);
        for (cluster, offset) in &self.clusters {
            let at = to_usize(cluster << self.shape.cluster_bits);
            let held = (1 << self.shape.cluster_bits).min(len - at);
            let from = to_usize(*offset);
            disk[at..at + held].copy_from_slice(&bytes[from..from + held]);
        }
        disk
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("fits")
}

fn claim(used: &mut BTreeMap<u64, u64>, at: u64, len: u64, file: usize) -> Result<(), String> {
    if at + len > file as u64 {
        return Err(format!("{len} bytes at {at} end past {file}"));
    }
    let before = used.range(..at + len).next_back();
    if let Some((other, other_len)) = before.filter(|(o, l)| *o + *l > at) {
        return Err(format!("{len} bytes at {at} and {other_len} at {other}"));
    }
    used.insert(at, len);
    Ok(())
}
