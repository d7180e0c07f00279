//! The plain model of what a disk must read as: a map of sectors, each with the list of what was ever
//! written to it. It shares no code with the engine: contents are painted from a number, never
//! copied around.

use std::collections::BTreeMap;

use cow_core::fault::FaultyStorage;
use cow_core::storage::ReadStorage;
use cow_core::units::Extent;

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// What a sector holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// Zeros.
    Zero,
    /// The base image's bytes, zeros where it has ended.
    Base(u64),
    /// Bytes painted from this number.
    Paint(u64),
}

/// Paints a sector.
pub fn paint(number: u64, sector: &mut [u8]) {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for bytes in sector.chunks_mut(8) {
        word = word.rotate_left(23).wrapping_mul(0xd129_42f6_0c15_7e2b) ^ number;
        for (to, from) in bytes.iter_mut().zip(word.to_le_bytes()) {
            *to = from;
        }
    }
}

/// One thing that was done to a sector.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// What it holds afterwards.
    pub content: Content,
    /// Which request it was: later ones have larger numbers.
    pub order: u64,
    /// A discard: the sector may also read as before.
    pub optional: bool,
    /// Number of events in the machine's log when it was asked for.
    pub submitted: usize,
    /// The same when it was acknowledged, and when it was promised to be durable.
    pub acknowledged: Option<usize>,
    /// See `acknowledged`.
    pub durable: Option<usize>,
    /// The request failed: old or new from then on.
    pub failed: bool,
}

/// Which promise holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Promise {
    /// What was acknowledged is there.
    Acknowledged,
    /// What was promised to be durable is there.
    Durable,
}

/// What a disk must read as.
#[derive(Clone, Debug)]
pub struct Model {
    sectors: u64,
    base: Option<FaultyStorage>,
    /// Below this, sectors without a version are the base's; above they are zeros.
    base_sectors: u64,
    versions: BTreeMap<u64, Vec<Version>>,
    painted: u64,
    order: u64,
}

impl Model {
    /// A disk over a base or nothing.
    pub fn new(sectors: u64, base: Option<FaultyStorage>) -> Self {
        let bytes = base.as_ref().map_or(0, |b| b.len_bytes().expect("length of the base"));
        let base_sectors = bytes.div_ceil(SECTOR as u64).min(sectors);
        Self { sectors, base, base_sectors, versions: BTreeMap::new(), painted: 0, order: 0 }
    }

    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// A new overlay of another size above: what it does not share with the old one reads as zeros.
    pub fn resize(&mut self, sectors: u64) {
        self.base_sectors = self.base_sectors.min(sectors);
        self.versions.retain(|lba, _| *lba < sectors);
        self.sectors = sectors;
    }

    /// The process is gone, its successor counts events from 0, and a sector was found to hold
    /// `bytes`, which is one of `allowed`.
    pub fn begin_anew(&mut self, lba: u64, bytes: &[u8], allowed: &[Content]) {
        let held = allowed.iter().find(|content| self.bytes(**content) == bytes);
        let found = Version {
            content: *held.expect("was judged"),
            order: self.order,
            optional: false,
            submitted: 0,
            acknowledged: Some(0),
            durable: Some(0),
            failed: false,
        };
        self.versions.insert(lba, vec![found]);
    }

    /// The process is gone: what was not acknowledged has happened or not.
    pub fn break_off(&mut self) {
        for version in self.versions.values_mut().flatten() {
            version.failed |= version.acknowledged.is_none();
        }
    }

    /// Never paints with this number or a smaller one again.
    pub fn skip_paint(&mut self, painted: u64) {
        self.painted = self.painted.max(painted);
    }

    /// The number that the next sector written is painted with.
    pub fn next_paint(&mut self) -> u64 {
        self.painted += 1;
        self.painted
    }

    /// Notes a request for sectors: `contents` from the first of `extent` on.
    pub fn submit(&mut self, extent: Extent, now: usize, optional: bool, content: &[Content]) {
        self.order += 1;
        for (at, content) in content.iter().enumerate() {
            let version = Version {
                content: *content,
                order: self.order,
                optional,
                submitted: now,
                acknowledged: None,
                durable: None,
                failed: false,
            };
            let lba = extent.start().get() + at as u64;
            self.versions.entry(lba).or_default().push(version);
        }
    }

    /// Notes the end of the request that was submitted with these contents.
    pub fn acknowledge(
        &mut self,
        extent: Extent,
        contents: &[Content],
        submitted: usize,
        now: usize,
        outcome: (bool, bool),
    ) {
        let (well, durable) = outcome;
        for (at, content) in contents.iter().enumerate() {
            let lba = extent.start().get() + at as u64;
            let versions = self.versions.get_mut(&lba).expect("was submitted");
            let version = versions
                .iter_mut()
                .find(|v| {
                    v.content == *content
                        && v.submitted == submitted
                        && v.acknowledged.is_none()
                        && !v.failed
                })
                .expect("was submitted");
            if well {
                version.acknowledged = Some(now);
                version.durable = durable.then_some(now);
            } else {
                version.failed = true;
            }
        }
    }

    /// A flush that was submitted at `submitted` has ended well.
    pub fn flushed(&mut self, submitted: usize, now: usize) {
        for version in self.versions.values_mut().flatten() {
            if version.acknowledged.is_some_and(|at| at <= submitted) && version.durable.is_none() {
                version.durable = Some(now);
            }
        }
    }

    /// Sectors that anything was done to.
    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.versions.keys().copied()
    }

    /// A mark for [`expected_at`](Self::expected_at).
    pub fn order(&self) -> u64 {
        self.order
    }

    /// What a read submitted now may return for a sector.
    pub fn expected(&self, lba: u64) -> Vec<Content> {
        self.expected_at(lba, self.order)
    }

    /// What a read may return that was submitted when [`order`](Self::order) was this; earlier
    /// requests that have failed since leave more possibilities.
    pub fn expected_at(&self, lba: u64, order: u64) -> Vec<Content> {
        let mut allowed = Vec::new();
        for version in self.versions.get(&lba).into_iter().flatten().rev() {
            if version.order > order {
                continue;
            }
            allowed.push(version.content);
            if !version.failed && !version.optional {
                return allowed;
            }
        }
        allowed.push(self.initial(lba));
        allowed
    }

    /// As [`expected_at`](Self::expected_at), while requests fail whose answers have not come.
    pub fn expected_amid_failures(&self, lba: u64, order: u64) -> Vec<Content> {
        let mut allowed = Vec::new();
        for version in self.versions.get(&lba).into_iter().flatten().rev() {
            if version.order > order {
                continue;
            }
            allowed.push(version.content);
            if version.acknowledged.is_some() && !version.optional {
                return allowed;
            }
        }
        allowed.push(self.initial(lba));
        allowed
    }

    /// What a sector may hold after an end when the log had `cut` events.
    pub fn survivors(&self, lba: u64, cut: usize, promise: Promise) -> Vec<Content> {
        let mut allowed = Vec::new();
        for version in self.versions.get(&lba).into_iter().flatten().rev() {
            if version.submitted > cut {
                continue;
            }
            allowed.push(version.content);
            let promised = match promise {
                Promise::Acknowledged => version.acknowledged,
                Promise::Durable => version.durable,
            };
            if promised.is_some_and(|at| at <= cut) && !version.optional {
                return allowed;
            }
        }
        allowed.push(self.initial(lba));
        allowed
    }

    /// What a sector held before anything was done to it.
    pub fn initial(&self, lba: u64) -> Content {
        if lba < self.base_sectors { Content::Base(lba) } else { Content::Zero }
    }

    /// The bytes of a content.
    pub fn bytes(&self, content: Content) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        match content {
            Content::Zero => {}
            Content::Paint(number) => paint(number, &mut bytes),
            Content::Base(lba) => {
                let base = self.base.as_ref().expect("a base");
                let offset = lba * SECTOR as u64;
                let len = base.len_bytes().expect("length of the base").saturating_sub(offset);
                let held = usize::try_from(len.min(SECTOR as u64)).expect("small");
                base.read_at(offset, &mut bytes[..held]).expect("read of the base");
            }
        }
        bytes
    }

    /// Which of the contents the bytes are, for messages.
    pub fn name(&self, lba: u64, bytes: &[u8]) -> String {
        if bytes.iter().all(|b| *b == 0) {
            return "zeros".into();
        }
        let all = self.versions.get(&lba).into_iter().flatten().map(|v| v.content);
        let known = all.chain([self.initial(lba)]).find(|c| self.bytes(*c) == bytes);
        match known {
            Some(content) => format!("{content:?}"),
            None => (1..=self.painted)
                .find(|n| self.bytes(Content::Paint(*n)) == bytes)
                .map_or_else(|| "garbage".into(), |n| format!("Paint({n}) of another sector")),
        }
    }

    /// Compares a sector with what it may be. With `mixed`, every byte may be from another version.
    ///
    /// # Errors
    /// What was found instead.
    pub fn judge(
        &self,
        lba: u64,
        found: &[u8],
        allowed: &[Content],
        mixed: bool,
    ) -> Result<(), String> {
        let contents: Vec<_> = allowed.iter().map(|c| self.bytes(*c)).collect();
        let matches = if mixed {
            found.iter().enumerate().all(|(at, byte)| contents.iter().any(|c| c[at] == *byte))
        } else {
            contents.iter().any(|c| c[..] == *found)
        };
        if matches {
            return Ok(());
        }
        let name = self.name(lba, found);
        Err(format!("sector {lba} holds {name}, allowed are {allowed:?}"))
    }
}
