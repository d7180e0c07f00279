//! What distinguishes the clients, as data. `[AoE 8]`

use super::why::Level;

/// A client whose behaviour is replayed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Client {
    /// The `aoe` driver of Linux. `[AoE 8.1]`
    Linux,
    /// iPXE, which boots machines. `[AoE 8.2]`
    Ipxe,
    /// `WinAoE` and its descendant `WinVBlock`. `[AoE 8.3]`
    WinAoe,
    /// Plan 9's `devaoe` and `sdaoe`. `[AoE 8.4]`
    Plan9,
    /// The user-space `aoetools`: `aoeping`, `aoecfg`, `aoe-sancheck`. `[AoE 8.4]`
    Aoetools,
}

impl Client {
    /// Every client.
    pub const ALL: &'static [Self] =
        &[Self::Linux, Self::Ipxe, Self::WinAoe, Self::Plan9, Self::Aoetools];

    /// The name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "Linux aoe",
            Self::Ipxe => "iPXE",
            Self::WinAoe => "WinAoE/WinVBlock",
            Self::Plan9 => "Plan 9",
            Self::Aoetools => "aoetools",
        }
    }

    /// The name for programs.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Ipxe => "ipxe",
            Self::WinAoe => "winaoe",
            Self::Plan9 => "plan9",
            Self::Aoetools => "aoetools",
        }
    }

    pub(super) const fn traits(self) -> &'static Traits {
        match self {
            Self::Linux => &LINUX,
            Self::Ipxe => &IPXE,
            Self::WinAoe => &WINAOE,
            Self::Plan9 => &PLAN9,
            Self::Aoetools => &AOETOOLS,
        }
    }
}

/// How a client looks for its disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Search {
    /// A config query about every target, with tag 0; any config answer counts, also one that
    /// nobody asked for.
    EveryConfig,
    /// A config query about the one target.
    OneConfig,
    /// IDENTIFY DEVICE about every target.
    EveryIdentify,
}

/// Tags.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tags {
    /// A 15-bit counter above 16 bits of time; a retransmission gets a new one.
    Linux,
    /// A fixed upper half above a counter.
    Ipxe,
    /// A counter, little-endian.
    WinAoe,
    /// A counter above 16 bits of time; a retransmission gets a new one.
    Plan9,
    /// A counter with the top bit set.
    Tools,
}

/// What becomes of answers with the E flag. `[AoE 2.3]`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum OnError {
    /// Logged and dropped.
    Drop,
    /// The request fails.
    Fail,
    /// Not noticed.
    Ignore,
}

/// How long a read answer has to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DataRule {
    /// At least what was asked for; else the request fails.
    AtLeast,
    /// Exactly what was asked for; else the answer is dropped.
    Exactly,
    /// Never looked at.
    Any,
}

/// Where the size is read in the IDENTIFY page. `[AoE 6]`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SizeRule {
    /// Words 100 to 103 if word 83 or 86 has bit 10, else 60 and 61.
    Either,
    /// The same, by word 83 only.
    Word83,
    /// Words 100 to 103, whole cylinders of 255 x 63 sectors.
    Cylinders,
    /// As `Either`, and word 49 bit 9 has to be set.
    InsistsOnLba,
}

/// How many requests are outstanding at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Window {
    /// Whatever the target says.
    Fixed(u16),
    /// Half the buffer count at first, growing up to it. `[AoE 4.2]`
    HalfOfCount {
        /// At most.
        max: u16,
    },
    /// The buffer count.
    Count {
        /// At most.
        max: u16,
    },
}

impl Window {
    /// The first window, if the target tells this buffer count.
    pub(super) fn first(self, buffer_count: u16) -> u16 {
        match self {
            Self::Fixed(size) => size,
            Self::HalfOfCount { max } => buffer_count.min(max) / 2,
            Self::Count { max } => buffer_count.min(max),
        }
    }

    /// The window after a while.
    pub(super) fn full(self, buffer_count: u16) -> u16 {
        match self {
            Self::Fixed(size) => size,
            Self::HalfOfCount { max } | Self::Count { max } => buffer_count.min(max),
        }
    }
}

/// Time before a retransmission.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Timer {
    /// Twice the mean round trip and eight times its deviation, looked at every 100 ms; 16.5 s at
    /// first.
    Linux,
    /// 250 ms, doubled up to 10 s.
    Doubling,
    /// 200 ms, growing slowly up to 10 s.
    Slow,
    /// Twice the mean round trip within 20 to 320 ms, looked at every 100 ms.
    Plan9,
    /// Every second.
    Second,
}

/// Everything that distinguishes a client.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "traits that a client has or has not")]
pub(super) struct Traits {
    pub(super) search: Search,
    pub(super) tags: Tags,
    /// Bytes to which requests are padded.
    pub(super) padded_to: usize,
    /// Whether answers of another version than 1 are dropped.
    pub(super) checks_version: bool,
    pub(super) on_error: OnError,
    /// Status bits that fail a request.
    pub(super) status_mask: u8,
    pub(super) data: DataRule,
    pub(super) size: SizeRule,
    pub(super) timer: Timer,
    /// LBA register 3 of IDENTIFY.
    pub(super) identify_lba3: u8,
    /// `AFlags` of an IDENTIFY to one target.
    pub(super) identify_flags: u8,
    /// Whether 48-bit commands are used whatever the page says.
    pub(super) always_lba48: bool,
    pub(super) window: Window,
    /// Whether the shelf 4095 is refused.
    pub(super) refuses_4095: bool,
    /// Whether several machines that answer are used in turn.
    pub(super) multipath: bool,
    /// What never getting an answer is to it: giving up with an error, or waiting.
    pub(super) on_silence: Level,
    /// What never finding a disk is to it.
    pub(super) on_absence: Level,
}

const ATA_ERROR_BITS: u8 = 0xa9;

const LINUX: Traits = Traits {
    search: Search::EveryConfig,
    tags: Tags::Linux,
    padded_to: 0,
    checks_version: false,
    on_error: OnError::Drop,
    status_mask: ATA_ERROR_BITS,
    data: DataRule::AtLeast,
    size: SizeRule::Either,
    timer: Timer::Linux,
    identify_lba3: 0xa0,
    identify_flags: 0,
    always_lba48: false,
    window: Window::HalfOfCount { max: 64 },
    refuses_4095: true,
    multipath: true,
    on_silence: Level::Hangs,
    on_absence: Level::Hangs,
};

const IPXE: Traits = Traits {
    search: Search::OneConfig,
    tags: Tags::Ipxe,
    padded_to: 60,
    checks_version: true,
    on_error: OnError::Fail,
    status_mask: 0x01,
    data: DataRule::AtLeast,
    size: SizeRule::Word83,
    timer: Timer::Doubling,
    identify_lba3: 0xe0,
    identify_flags: 0,
    always_lba48: false,
    window: Window::Fixed(1),
    refuses_4095: false,
    multipath: false,
    on_silence: Level::Fails,
    on_absence: Level::Fails,
};

const WINAOE: Traits = Traits {
    search: Search::EveryIdentify,
    tags: Tags::WinAoe,
    padded_to: 0,
    checks_version: false,
    on_error: OnError::Ignore,
    status_mask: 0,
    data: DataRule::Any,
    size: SizeRule::Cylinders,
    timer: Timer::Slow,
    identify_lba3: 0,
    identify_flags: 0x40,
    always_lba48: true,
    window: Window::Fixed(64),
    refuses_4095: false,
    multipath: false,
    on_silence: Level::Hangs,
    on_absence: Level::Hangs,
};

const PLAN9: Traits = Traits {
    search: Search::EveryConfig,
    tags: Tags::Plan9,
    padded_to: 60,
    checks_version: false,
    on_error: OnError::Fail,
    status_mask: ATA_ERROR_BITS,
    data: DataRule::Exactly,
    size: SizeRule::InsistsOnLba,
    timer: Timer::Plan9,
    identify_lba3: 0xa0,
    identify_flags: 0,
    always_lba48: false,
    window: Window::Count { max: 128 },
    refuses_4095: false,
    multipath: true,
    on_silence: Level::Fails,
    on_absence: Level::Hangs,
};

const AOETOOLS: Traits = Traits {
    search: Search::OneConfig,
    tags: Tags::Tools,
    padded_to: 60,
    checks_version: false,
    on_error: OnError::Fail,
    status_mask: 0x01,
    data: DataRule::AtLeast,
    size: SizeRule::Either,
    timer: Timer::Second,
    identify_lba3: 0xa0,
    identify_flags: 0,
    always_lba48: false,
    window: Window::Fixed(1),
    refuses_4095: false,
    multipath: false,
    on_silence: Level::Fails,
    on_absence: Level::Fails,
};
