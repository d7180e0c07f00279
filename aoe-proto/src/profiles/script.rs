//! What the clients do, step by step: the stages, and the requests of each.

use core::fmt;

use super::traits::{Client, Search};
use crate::conformance::Window as SectorWindow;

/// A part of the script.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Stage {
    /// Looking for the target.
    Discover,
    /// IDENTIFY.
    Attach,
    /// How many sectors fit: `WinAoE` tries. `[AoE 5.6]`
    FrameSize,
    /// A read that carries data: Linux tests a doubtful path so. `[AoE 8.1]`
    PathTest,
    /// SMART, as `aoeping -S`.
    Smart,
    /// IDENTIFY in frames of every size, as `aoe-sancheck`.
    Sizes,
    /// Reading from the first sector on.
    First,
    /// Reading up to the last sector.
    Last,
    /// Reading single sectors and odd ranges.
    Odd,
    /// As many reads as the client has outstanding.
    Burst,
    /// Reading what the window holds.
    Save,
    /// Writing to the window.
    Write,
    /// Reading it back.
    ReadBack,
    /// Writing what was there before.
    Restore,
    /// Reading that back.
    Compare,
    /// Looking again, as clients do now and then.
    Again,
    /// Over.
    Done,
}

impl Stage {
    /// What the client does, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discover => "looking for the disk",
            Self::Attach => "identifying the disk",
            Self::FrameSize => "finding the frame size",
            Self::PathTest => "testing the path",
            Self::Smart => "asking for the health",
            Self::Sizes => "trying frame sizes",
            Self::First => "reading the first sectors",
            Self::Last => "reading the last sectors",
            Self::Odd => "reading odd ranges",
            Self::Burst => "reading as fast as it can",
            Self::Save => "reading the window",
            Self::Write => "writing the window",
            Self::ReadBack => "reading back",
            Self::Restore => "restoring the window",
            Self::Compare => "comparing the restored window",
            Self::Again => "looking again",
            Self::Done => "done",
        }
    }

    /// Whether the client's own reading of answers is set aside: the harness has to know what it
    /// puts back.
    pub(super) const fn is_strict(self) -> bool {
        matches!(self, Self::Save | Self::Restore | Self::Compare)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const LINUX: &[Stage] = &[
    Stage::Discover,
    Stage::Attach,
    Stage::PathTest,
    Stage::First,
    Stage::Last,
    Stage::Odd,
    Stage::Burst,
    Stage::Save,
    Stage::Write,
    Stage::ReadBack,
    Stage::Restore,
    Stage::Compare,
    Stage::Again,
];

const IPXE: &[Stage] = &[
    Stage::Discover,
    Stage::Attach,
    Stage::First,
    Stage::Last,
    Stage::Odd,
    Stage::Save,
    Stage::Write,
    Stage::ReadBack,
    Stage::Restore,
    Stage::Compare,
];

const WINAOE: &[Stage] = &[
    Stage::Discover,
    Stage::Attach,
    Stage::FrameSize,
    Stage::First,
    Stage::Last,
    Stage::Odd,
    Stage::Burst,
    Stage::Save,
    Stage::Write,
    Stage::ReadBack,
    Stage::Restore,
    Stage::Compare,
    Stage::Again,
];

const PLAN9: &[Stage] = &[
    Stage::Discover,
    Stage::Attach,
    Stage::First,
    Stage::Last,
    Stage::Odd,
    Stage::Burst,
    Stage::Save,
    Stage::Write,
    Stage::ReadBack,
    Stage::Restore,
    Stage::Compare,
    Stage::Again,
];

const AOETOOLS: &[Stage] =
    &[Stage::Discover, Stage::Attach, Stage::Smart, Stage::Sizes, Stage::Again];

/// The stages of a client, in order.
pub(super) const fn stages(client: Client) -> &'static [Stage] {
    match client {
        Client::Linux => LINUX,
        Client::Ipxe => IPXE,
        Client::WinAoe => WINAOE,
        Client::Plan9 => PLAN9,
        Client::Aoetools => AOETOOLS,
    }
}

/// The stage after `stage`; writing is left out unless it is permitted.
pub(super) fn after(client: Client, stage: Stage, writes: bool) -> Stage {
    let mut rest = stages(client).iter().copied().skip_while(|at| *at != stage).skip(1);
    let allowed = |at: &Stage| writes || !(Stage::Save..=Stage::Compare).contains(at);
    rest.find(allowed).unwrap_or(Stage::Done)
}

/// What is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fill {
    /// A pattern of the actor's.
    Pattern,
    /// What was there before.
    Original,
}

/// One request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Op {
    /// Query/Config read.
    Query { everybody: bool },
    /// IDENTIFY DEVICE, with this many sectors of nothing behind it.
    Identify { everybody: bool, trailer: u8 },
    /// A read, perhaps with as many zero bytes as it asks for.
    Read { lba: u64, count: u8, payload: bool },
    /// A write.
    Write { lba: u64, count: u8, fill: Fill },
    /// SMART RETURN STATUS.
    Smart,
}

impl Op {
    const fn read(lba: u64, count: u8) -> Self {
        Self::Read { lba, count, payload: false }
    }

    /// First sector and count of a data request.
    pub(super) const fn range(self) -> Option<(u64, u8)> {
        match self {
            Self::Read { lba, count, .. } | Self::Write { lba, count, .. } => Some((lba, count)),
            _ => None,
        }
    }
}

/// What the requests depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) client: Client,
    pub(super) search: Search,
    /// Size of the disk in sectors, as the client reads it.
    pub(super) sectors: u64,
    /// Sectors per request; at least 1.
    pub(super) step: u8,
    /// Requests outstanding.
    pub(super) window: u16,
    /// Sectors that fit the client's own frames.
    pub(super) own_max: u8,
    pub(super) area: Option<SectorWindow>,
}

impl Plan {
    /// Request number `index` of a stage, from 0 on; `None` behind the last.
    pub(super) fn request(&self, stage: Stage, index: u32) -> Option<Op> {
        let Self { sectors, step, own_max, .. } = *self;
        let count = u8::try_from(sectors).unwrap_or(u8::MAX).min(step);
        let only = |op: Op| (index == 0).then_some(op);
        match stage {
            Stage::Discover => only(self.search()),
            Stage::Attach => only(Op::Identify { everybody: false, trailer: 0 }),
            // Goes on until the actor has seen enough.
            Stage::FrameSize => {
                let count = u8::try_from(index.saturating_add(1)).ok()?;
                (count <= own_max).then_some(Op::read(0, count))
            }
            Stage::PathTest => only(Op::Read { lba: 0, count, payload: true }),
            Stage::Smart => only(Op::Smart),
            Stage::Sizes => {
                let trailer = u8::try_from(index).ok()?;
                (trailer <= own_max).then_some(Op::Identify { everybody: false, trailer })
            }
            Stage::First => only(Op::read(0, count)),
            Stage::Last => only(Op::read(sectors.saturating_sub(u64::from(count)), count)),
            Stage::Odd => self.odd(index),
            Stage::Burst => {
                let total = u32::from(self.window.min(32)).saturating_mul(4);
                let steps = sectors.checked_div(u64::from(count)).unwrap_or(0).max(1);
                let at = u64::from(index).checked_rem(steps).unwrap_or(0);
                (index < total).then_some(Op::read(at.saturating_mul(u64::from(count)), count))
            }
            Stage::Save | Stage::ReadBack | Stage::Compare => {
                self.piece(index).map(|(lba, count)| Op::read(lba, count))
            }
            Stage::Write | Stage::Restore => {
                let fill = if stage == Stage::Write { Fill::Pattern } else { Fill::Original };
                self.piece(index).map(|(lba, count)| Op::Write { lba, count, fill })
            }
            Stage::Again => match (self.client, index) {
                // Linux asks about the one disk after the last close, and identifies it anew.
                (Client::Linux | Client::Plan9 | Client::Aoetools, 0) => {
                    Some(Op::Query { everybody: false })
                }
                (Client::Linux | Client::Plan9, 1) => {
                    Some(Op::Identify { everybody: false, trailer: 0 })
                }
                (Client::WinAoe, 0) => Some(self.search()),
                _ => None,
            },
            Stage::Done => None,
        }
    }

    fn search(&self) -> Op {
        match self.search {
            Search::EveryConfig => Op::Query { everybody: true },
            Search::OneConfig => Op::Query { everybody: false },
            Search::EveryIdentify => Op::Identify { everybody: true, trailer: 0 },
        }
    }

    /// Single sectors at both ends, and an odd range.
    fn odd(&self, index: u32) -> Option<Op> {
        let last = self.sectors.saturating_sub(1);
        let odd = if self.step.is_multiple_of(2) { self.step.saturating_sub(1) } else { self.step };
        let odd = odd.max(1);
        let op = match index {
            0 => Op::read(1.min(last), 1),
            1 => Op::read(last, 1),
            2 => Op::read(3.min(self.sectors.saturating_sub(u64::from(odd))), odd),
            _ => return None,
        };
        Some(op)
    }

    /// Part `index` of the window.
    fn piece(&self, index: u32) -> Option<(u64, u8)> {
        let SectorWindow { lba, sectors } = self.area?;
        let at = u64::from(index).saturating_mul(u64::from(self.step));
        let left = u64::from(sectors).checked_sub(at).filter(|left| *left > 0)?;
        let count = u8::try_from(left).unwrap_or(u8::MAX).min(self.step);
        Some((lba.saturating_add(at), count))
    }
}
