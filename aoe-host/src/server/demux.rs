//! From a frame to the disk it is for: by shelf and slot, then by who asks.

use std::collections::HashMap;
use std::sync::Arc;

use aoe_proto::{Address, Incoming, LinkLimits, Mac, Target, TargetState};
use cow_core::format::Layer;

use super::disk::{Disk, DiskSpec};
use super::status::Unknown;
use super::{
    Edge, Export, ExportSpec, GUESTS_MAX, LeftOverlay, Newcomers, Opened, Report, Server, Sharing,
};

/// How a frame came to this loop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way<'f> {
    /// Through a link: this frame may be handed over.
    Direct(&'f [u8]),
    /// From another worker.
    Handed,
}

/// Where the disk is that a machine sees at an export.
enum Place {
    Disk(u32),
    /// This worker has it, or would make it.
    Worker(usize),
    Nowhere,
}

/// Why an export or client could not be added.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum AddError {
    /// The address is exported already.
    AddressInUse,
    /// The target's configuration breaks a rule, or the size is impossible.
    Invalid,
    /// There is no such export, or it does not have a disk for each client.
    NotPerClient,
    /// The machine belongs to a client of this export already.
    MacInUse(Mac),
}

impl core::fmt::Display for AddError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::AddressInUse => f.write_str("the address is exported already"),
            Self::Invalid => f.write_str("the disk's size or target configuration is impossible"),
            Self::NotPerClient => f.write_str("no export with a disk for each client there"),
            Self::MacInUse(mac) => write!(f, "{mac} belongs to another client"),
        }
    }
}

impl core::error::Error for AddError {}

impl Server<'_> {
    /// Adds an address. Returns the number of its disk, if it has a single one and this worker is
    /// the one to have it.
    ///
    /// # Errors
    /// [`AddError`]; nothing was added then.
    pub fn add_export(&mut self, spec: ExportSpec) -> Result<Option<u32>, AddError> {
        if self.by_address.contains_key(&spec.address) {
            return Err(AddError::AddressInUse);
        }
        let export = self.exports.len();
        let (sharing, disk) = if let Some(newcomers) = spec.per_client {
            Target::new(spec.disk.target).map_err(|_invalid| AddError::Invalid)?;
            let (by_mac, elsewhere) = (HashMap::new(), HashMap::new());
            let (template, unknown) = (Box::new(spec.disk), Vec::new());
            (Sharing::PerClient { by_mac, elsewhere, newcomers, template, unknown }, None)
        } else if !self.share.owns(spec.address, None) {
            (Sharing::Elsewhere(self.share.owner(spec.address, None)), None)
        } else {
            let disk = self.add_disk(spec.disk, export, &spec.layers, spec.sectors)?;
            (Sharing::One(disk), Some(disk))
        };
        self.exports.push(Export {
            address: spec.address,
            layers: spec.layers,
            sectors: spec.sectors,
            macs: spec.macs,
            sharing,
            broken: false,
            suspended: false,
        });
        self.by_address.insert(spec.address, export);
        Ok(disk)
    }

    /// Gives a client its disk at an address: `spec` names its overlay, `macs` its machine's
    /// interfaces. Returns the disk's number. Of several workers only one may do so, and the others
    /// [are told](Self::set_owner).
    ///
    /// # Errors
    /// [`AddError`].
    pub fn add_client(
        &mut self,
        address: Address,
        macs: &[Mac],
        spec: DiskSpec,
    ) -> Result<u32, AddError> {
        let number = *self.by_address.get(&address).ok_or(AddError::NotPerClient)?;
        let export = self.exports.get(number).ok_or(AddError::NotPerClient)?;
        let Sharing::PerClient { by_mac, .. } = &export.sharing else {
            return Err(AddError::NotPerClient);
        };
        if let Some(taken) = macs.iter().find(|m| by_mac.contains_key(m)) {
            return Err(AddError::MacInUse(*taken));
        }
        let (layers, sectors) = (Arc::clone(&export.layers), spec.target.sectors);
        let disk = self.add_disk(spec, number, &layers, sectors)?;
        for mac in macs {
            self.bind_mac(disk, *mac);
        }
        Ok(disk)
    }

    /// The disk that these machines see at an address is another worker's from now on: what comes
    /// from them is handed over. A disk that they have here stays theirs until it is
    /// [removed](Self::remove_disk).
    pub fn set_owner(&mut self, address: Address, macs: &[Mac], worker: usize) {
        let number = self.by_address.get(&address).copied();
        if let Some(Export { sharing: Sharing::PerClient { elsewhere, unknown, .. }, .. }) =
            number.and_then(|number| self.exports.get_mut(number))
        {
            elsewhere.extend(macs.iter().map(|mac| (*mac, worker)));
            unknown.retain(|u| !macs.contains(&u.mac));
        }
    }

    /// These machines are nobody's any more: their frames go where those of strangers go.
    pub fn forget_owner(&mut self, macs: &[Mac]) {
        for export in &mut self.exports {
            if let Sharing::PerClient { elsewhere, .. } = &mut export.sharing {
                elsewhere.retain(|mac, _| !macs.contains(mac));
            }
        }
    }

    /// Puts saved protocol state back.
    pub fn restore_state(&mut self, disk: u32, state: TargetState) {
        if let Some(disk) = self.disk_mut(disk) {
            disk.target.restore(state);
        }
    }

    /// Gives a disk its overlay before it is served. False if they do not fit.
    pub fn open_overlay(&mut self, disk: u32, opened: Opened, edge: &mut impl Edge) -> bool {
        self.overlay_ready(disk, Ok(opened), edge);
        self.disk_mut(disk).is_some_and(|d| d.has_overlay())
    }

    /// A disk has nothing under way and nothing to publish, or is not there: it can be taken away.
    pub fn is_settled(&self, number: u32) -> bool {
        let disk = self.disks.get(number as usize).and_then(Option::as_deref);
        disk.is_none_or(Disk::is_drained)
    }

    /// Takes a disk away, with its overlay, for closing it. `None` while it has work under way:
    /// commit and try again. Its client is unknown afterwards.
    pub fn remove_disk(
        &mut self,
        number: u32,
    ) -> Option<(DiskSpec, Option<cow_core::format::Top>)> {
        if !self.disk_mut(number)?.is_drained() {
            return None;
        }
        let disk = self.disks.get_mut(number as usize)?.take()?;
        self.active.retain(|n| *n != number);
        self.starved = self.starved.saturating_sub(usize::from(disk.starved));
        if let Some(Export { sharing: Sharing::PerClient { by_mac, .. }, .. }) =
            self.exports.get_mut(disk.export)
        {
            by_mac.retain(|_, d| *d != number);
        }
        Some((disk.spec, disk.engine.into_overlay()))
    }

    /// Binds one more interface of a machine to a client's disk, or moves it there.
    pub fn bind_mac(&mut self, number: u32, mac: Mac) {
        let Some(export) = self.disk_mut(number).map(|d| d.export) else { return };
        if let Some(Export {
            sharing: Sharing::PerClient { by_mac, elsewhere, unknown, .. }, ..
        }) = self.exports.get_mut(export)
        {
            by_mac.insert(mac, number);
            elsewhere.remove(&mac);
            unknown.retain(|u| u.mac != mac);
        }
    }

    /// Somebody changed a frozen layer under these addresses: data are refused from now on.
    pub fn backing_changed(&mut self, address: Address, edge: &mut impl Edge) {
        let number = self.by_address.get(&address).copied();
        let Some(number) = number else { return };
        let Some(export) = self.exports.get_mut(number) else { return };
        if core::mem::replace(&mut export.broken, true) {
            return;
        }
        edge.report(Report::BackingChanged { address });
        for at in 0..self.disks.len() {
            let Ok(at) = u32::try_from(at) else { return };
            if let Some(disk) = self.disk_mut(at).filter(|d| d.export == number) {
                disk.broken = true;
                self.activate(at);
            }
        }
    }

    /// Stops answering for an address, or goes on: while it is not known whether a frozen layer is
    /// being changed. Initiators send again until they are answered, for minutes.
    pub fn suspend(&mut self, address: Address, suspended: bool) {
        let number = self.by_address.get(&address).copied();
        let Some(number) = number else { return };
        if let Some(export) = self.exports.get_mut(number) {
            export.suspended = suspended;
        }
        for at in 0..self.disks.len() {
            let Ok(at) = u32::try_from(at) else { return };
            if let Some(disk) = self.disk_mut(at).filter(|d| d.export == number) {
                disk.suspended = suspended;
                self.activate(at);
            }
        }
    }

    /// Posts the answer nobody asked for, of every target for every link (or one). [AoE 4.3]
    pub fn advertise(&mut self, only: Option<usize>) {
        for link in 0..self.links.len() {
            let Some(limits) = self.links.get(link).and_then(|l| l.limits) else { continue };
            if only.is_some_and(|o| o != link) {
                continue;
            }
            for export in 0..self.exports.len() {
                self.advertise_export(link, limits, export);
            }
        }
    }

    fn advertise_export(&mut self, link: usize, limits: LinkLimits, number: usize) {
        let Some(export) = self.exports.get(number) else { return };
        let mut sends: Vec<(Option<u32>, Mac)> = Vec::new();
        match &export.sharing {
            Sharing::One(disk) => {
                let Some(target) = self.disks.get(*disk as usize).and_then(|d| d.as_deref()) else {
                    return;
                };
                sends.extend(target.target.audience().map(|mac| (Some(*disk), mac)));
            }
            Sharing::Elsewhere(_) => return,
            Sharing::PerClient { by_mac, newcomers, .. } => {
                let is_first = self.share.owns(export.address, None);
                if matches!(newcomers, Newcomers::Auto { .. }) && is_first {
                    sends.push((None, Mac::BROADCAST));
                }
                sends.extend(by_mac.iter().map(|(mac, disk)| (Some(*disk), *mac)));
            }
        }
        // Whoever may not see the target must not hear of it either.
        let lists = [&self.allow, &export.macs].map(|list| (!list.is_empty()).then_some(list));
        let admitted = |mac: &Mac| lists.iter().flatten().all(|list| list.contains(mac));
        let named = lists.into_iter().flatten().next();
        let sends = sends.into_iter().flat_map(|(disk, mac)| {
            let to: Vec<Mac> = match named {
                Some(named) if mac == Mac::BROADCAST => {
                    named.iter().copied().filter(admitted).collect()
                }
                Some(_) => Some(mac).filter(admitted).into_iter().collect(),
                None => vec![mac],
            };
            to.into_iter().map(move |mac| (disk, mac))
        });
        for (disk, mac) in sends.collect::<Vec<_>>() {
            self.post_advertisement((link, limits), number, disk, mac);
        }
    }

    /// Tells another server of an address that it is taken, in case it did not get to know when it
    /// asked: a server with named clients does not answer strangers.
    pub(super) fn advertise_to(&mut self, link: usize, address: Address, mac: Mac) {
        let limits = self.links.get(link).and_then(|l| l.limits);
        let (Some(limits), Some(number)) = (limits, self.by_address.get(&address).copied()) else {
            return;
        };
        let disk = match self.exports.get(number).map(|e| &e.sharing) {
            Some(Sharing::One(disk)) => Some(*disk),
            _ => None,
        };
        self.post_advertisement((link, limits), number, disk, mac);
    }

    /// Posts the advertisement of one disk, or of an export as a newcomer would see it.
    fn post_advertisement(
        &mut self,
        (link, limits): (usize, LinkLimits),
        number: usize,
        disk: Option<u32>,
        mac: Mac,
    ) {
        let template = match self.exports.get(number).map(|e| &e.sharing) {
            Some(Sharing::PerClient { template, .. }) => Target::new(template.target).ok(),
            _ => None,
        };
        let target = disk
            .and_then(|d| self.disks.get(d as usize)?.as_deref())
            .map(|d| &d.target)
            .or(template.as_ref());
        let own_mac = self.links.get(link).map(|l| l.mac);
        let (Some(target), Some(own_mac)) = (target, own_mac) else { return };
        let Some(mut buf) = self.frames.take() else { return };
        let reply = target.advertisement(mac, own_mac, limits);
        match target.emit(&reply, &mut buf.bytes) {
            Ok(len) => {
                buf.len = len;
                self.frames.post(link, buf);
            }
            Err(_) => self.frames.give(buf),
        }
    }

    /// The addresses exported, for asking whether somebody else answers for them.
    pub fn addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.exports.iter().map(|e| e.address)
    }

    pub(super) fn demultiplex(
        &mut self,
        from: (usize, LinkLimits),
        request: &Incoming<'_>,
        way: Way<'_>,
        edge: &mut impl Edge,
    ) {
        if !self.allow.is_empty() && !self.allow.contains(&request.src()) {
            self.totals.ignored += 1;
            return;
        }
        if let Some(address) = request.address().exact() {
            match self.by_address.get(&address) {
                Some(&export) => {
                    if let Some(worker) = self.for_export(export, from, request, edge) {
                        self.hand_over(worker, from.0, way, edge);
                    }
                }
                None => self.totals.ignored += 1,
            }
            return;
        }
        for worker in self.share.others() {
            if let Way::Direct(frame) = way {
                self.totals.handed_over += 1;
                edge.hand_over(worker, from.0, frame);
            }
        }
        for export in 0..self.exports.len() {
            let matches = |e: &Export| request.address().matches(e.address);
            if self.exports.get(export).is_some_and(matches) {
                // Each other worker has a copy.
                let _others: Option<usize> = self.for_export(export, from, request, edge);
            }
        }
    }

    /// Has a frame done by the worker that it is for. Who gets one that is not for him has learnt
    /// of a change before the one who handed it over, or after: it is dropped, and sent again.
    pub(super) fn hand_over(
        &mut self,
        worker: usize,
        link: usize,
        way: Way<'_>,
        edge: &mut impl Edge,
    ) {
        match way {
            Way::Direct(frame) => {
                self.totals.handed_over += 1;
                edge.hand_over(worker, link, frame);
            }
            Way::Handed => self.totals.ignored += 1,
        }
    }

    /// The worker that has the disk at an address for everybody, if it is another one.
    pub(super) fn elsewhere(&self, address: Address) -> Option<usize> {
        let export = self.by_address.get(&address).and_then(|number| self.exports.get(*number))?;
        match export.sharing {
            Sharing::Elsewhere(worker) => Some(worker),
            Sharing::One(_) | Sharing::PerClient { .. } => None,
        }
    }

    /// Has a request done by the disk that its machine sees at an export. The worker that has that
    /// disk, if it is another one: nothing was done then.
    fn for_export(
        &mut self,
        export: usize,
        (link, limits): (usize, LinkLimits),
        request: &Incoming<'_>,
        edge: &mut impl Edge,
    ) -> Option<usize> {
        let number = match self.place_of(export, request.src(), edge) {
            Place::Disk(number) => number,
            Place::Worker(worker) => return Some(worker),
            Place::Nowhere => {
                self.totals.ignored += 1;
                return None;
            }
        };
        let now = self.now;
        let disk = self.disk_mut(number)?;
        disk.counts.last_seen = Some(now);
        disk.counts.last_mac = Some(request.src());
        let action = disk.target.handle(request, limits);
        self.perform(number, link, action, edge);
        None
    }

    /// Where the disk is that a machine sees at an export, if it sees one.
    fn place_of(&mut self, export: usize, mac: Mac, edge: &mut impl Edge) -> Place {
        let Some(e) = self.exports.get(export) else { return Place::Nowhere };
        if e.suspended || !e.macs.is_empty() && !e.macs.contains(&mac) {
            return Place::Nowhere;
        }
        match &e.sharing {
            Sharing::One(disk) => Place::Disk(*disk),
            Sharing::Elsewhere(worker) => Place::Worker(*worker),
            Sharing::PerClient { by_mac, .. } => match by_mac.get(&mac) {
                Some(disk) => Place::Disk(*disk),
                None => self.place_of_stranger(export, mac, edge),
            },
        }
    }

    /// As [`place_of`](Self::place_of), for a machine that has no disk here.
    fn place_of_stranger(&mut self, export: usize, mac: Mac, edge: &mut impl Edge) -> Place {
        let Some(Export {
            address, sharing: Sharing::PerClient { elsewhere, newcomers, .. }, ..
        }) = self.exports.get(export)
        else {
            return Place::Nowhere;
        };
        let newcomers = *newcomers;
        if !self.share.is_all() {
            let usual = || self.share.owner(*address, Some(mac));
            let owner = elsewhere.get(&mac).copied().unwrap_or_else(usual);
            if owner != self.share.number() {
                return Place::Worker(owner);
            }
        }
        if let Newcomers::Auto { max } = newcomers
            && self.clients(export) < max
            && (self.share.is_all() || edge.may_join(mac))
            && self.make_room_for_guest()
        {
            return self.add_guest(export, mac, edge).map_or(Place::Nowhere, Place::Disk);
        }
        self.list_unknown(export, mac, edge);
        Place::Nowhere
    }

    /// Registered clients of an export, and those that have written.
    fn clients(&self, export: usize) -> usize {
        self.disks().filter(|(_, d)| d.export == export && !d.is_guest()).count()
    }

    /// Whether a disk may get its overlay, as far as the number of clients is limited.
    pub(super) fn may_create(&self, number: u32) -> bool {
        let disk = self.disks.get(number as usize).and_then(Option::as_deref);
        let Some(disk) = disk.filter(|d| d.is_guest()) else { return true };
        match self.exports.get(disk.export).map(|e| &e.sharing) {
            Some(Sharing::PerClient { newcomers: Newcomers::Auto { max }, .. }) => {
                self.clients(disk.export) < *max
            }
            _ => true,
        }
    }

    /// Forgets the guest that was silent longest if there are too many. False if none can go.
    fn make_room_for_guest(&mut self) -> bool {
        let guests = || self.disks().filter(|(_, d)| d.is_guest());
        if guests().count() < self.guests_max() {
            return true;
        }
        let idle = guests().filter(|(_, d)| d.is_drained());
        let silent = idle.min_by_key(|(_, d)| d.counts.last_seen).map(|(number, _)| number);
        silent.is_some_and(|number| self.remove_disk(number).is_some())
    }

    fn add_guest(&mut self, export: usize, mac: Mac, edge: &mut impl Edge) -> Option<u32> {
        let e = self.exports.get(export)?;
        let Sharing::PerClient { template, .. } = &e.sharing else { return None };
        let mut spec = edge.newcomer(template, e.address, mac);
        spec.newcomer = Some(mac);
        let (layers, sectors) = (Arc::clone(&e.layers), e.sectors);
        let disk = self.add_disk(spec.clone(), export, &layers, sectors).ok()?;
        match edge.left_overlay(disk, &spec) {
            LeftOverlay::None => {}
            LeftOverlay::Opened(opened) => self.overlay_ready(disk, Ok(opened), edge),
            LeftOverlay::Unusable => {
                // Kept, so that it is tried and reported once and not for every frame.
                self.disk_mut(disk)?.broken = true;
            }
        }
        self.bind_mac(disk, mac);
        Some(disk)
    }

    /// This worker's part of [`GUESTS_MAX`].
    fn guests_max(&self) -> usize {
        (GUESTS_MAX / self.share.count().max(1)).max(1)
    }

    fn list_unknown(&mut self, export: usize, mac: Mac, edge: &mut impl Edge) {
        let (now, most) = (self.now, self.guests_max());
        let Some(Export { address, sharing: Sharing::PerClient { unknown, .. }, .. }) =
            self.exports.get_mut(export)
        else {
            return;
        };
        if let Some(known) = unknown.iter_mut().find(|u| u.mac == mac) {
            known.last_seen = now;
            known.requests += 1;
            return;
        }
        let address = *address;
        let new = Unknown { address, mac, first_seen: now, last_seen: now, requests: 1 };
        if unknown.len() < most {
            unknown.push(new);
            edge.report(Report::UnknownClient { address, mac });
        } else if let Some(silent) = unknown.iter_mut().min_by_key(|u| (u.last_seen, u.requests)) {
            // Not reported: so many at a time are no machines.
            *silent = new;
        }
    }

    fn add_disk(
        &mut self,
        spec: DiskSpec,
        export: usize,
        layers: &Arc<[Layer<'static>]>,
        sectors: u64,
    ) -> Result<u32, AddError> {
        let disk = Disk::new(spec, export, Arc::clone(layers), sectors);
        let mut disk = disk.ok_or(AddError::Invalid)?;
        disk.broken = self.exports.get(export).is_some_and(|e| e.broken);
        disk.suspended = self.exports.get(export).is_some_and(|e| e.suspended);
        let free = self.disks.iter().position(Option::is_none).unwrap_or(self.disks.len());
        let number = u32::try_from(free).map_err(|_full| AddError::Invalid)?;
        match self.disks.get_mut(free) {
            Some(slot) => *slot = Some(Box::new(disk)),
            None => self.disks.push(Some(Box::new(disk))),
        }
        Ok(number)
    }
}

/// Serial number and world wide name of a disk, the same at every start: from its address and
/// label only.
pub fn identity_of(address: Address, label: &str) -> aoe_proto::Identity {
    use aoe_proto::target::AtaText;
    use sha2::{Digest, Sha256};

    let mut hash = Sha256::new();
    hash.update(address.to_string());
    hash.update([0]);
    hash.update(label);
    let digest: [u8; 32] = hash.finalize().into();
    let (wwn, rest) = digest.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let wwn = u64::from_be_bytes(*wwn);
    let tail = rest.first_chunk::<2>().map_or(0, |tail| u16::from_be_bytes(*tail));
    // Twenty characters: all the field holds.
    let serial = format!("{wwn:016X}{tail:04X}");
    // NAA 3: locally assigned.
    let wwn = wwn >> 4 | 3 << 60;
    aoe_proto::Identity {
        serial: AtaText::new(&serial).unwrap_or_default(),
        revision: AtaText::new(env!("CARGO_PKG_VERSION").get(..8).unwrap_or("0.1.0"))
            .unwrap_or_default(),
        model: AtaText::new("cowblade overlay").unwrap_or_default(),
        wwn: Some(wwn),
    }
}
