//! What a client makes of a target, and why.

use core::fmt;

use super::script::Stage;
use super::traits::Client;

/// How well a client does, from best to worst.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// It works; a remark may be attached.
    #[default]
    Works,
    /// It works, but not as well as it could, or not with all of the disk.
    Degraded,
    /// It gives up with an error.
    Fails,
    /// It waits: for ever, or for the three minutes after which Linux gives a disk up.
    Hangs,
    /// It believes in data that are not there, or destroys some.
    Corrupts,
}

impl Level {
    /// The word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Degraded => "degraded",
            Self::Fails => "fails",
            Self::Hangs => "hangs",
            Self::Corrupts => "corrupts",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Declares the causes, once, as data.
macro_rules! causes {
    ($($variant:ident $id:literal $section:literal $text:literal)*) => {
        /// Something about the target that makes a difference to a client.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        #[expect(clippy::doc_markdown, reason = "the texts are printed for people as they are")]
        pub enum Why { $(#[doc = $text] $variant,)* }

        impl Why {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name for programs; stable.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// Where it is written, as in `[AoE 4.2]`. See `docs/PROTOCOL.md`.
            pub const fn section(self) -> &'static str {
                match self { $(Self::$variant => $section,)* }
            }

            /// What the target does, and what the client makes of it.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

causes! {
    Silence "silence" "8" "no answer, however often it is asked"
    NoBroadcastIdentify "no-broadcast-identify" "8.3" "no answer to IDENTIFY by broadcast, the only way in which WinAoE looks for disks"
    LateAnswers "late-answers" "8.1" "answers come only after the request was sent again under a new tag, and are not recognised"
    ErrorDropped "error-dropped" "2.3" "AoE errors are dropped, and the request is repeated for 180 s"
    ErrorReported "error-reported" "2.3" "an AoE error, taken for the end of the request"
    ErrorIgnored "error-ignored" "2.3" "an AoE error, taken for a success: whatever the frame holds becomes data"
    WrongTag "wrong-tag" "2.6" "the tag does not come back, so that no answer is recognised"
    WrongAddress "wrong-address" "2.4" "answers carry another address than was asked for, and are dropped"
    WrongVersion "wrong-version" "2.2" "answers of another version than 1 are dropped"
    WrongCommand "wrong-command" "3" "answers carry another command than was asked, and are dropped"
    ConfigEcho "config-echo" "4" "config answers with another CCmd than 0 are dropped"
    LinuxShelf "linux-shelf" "2.4" "shelf 4095 is refused"
    EmptyWindow "empty-window" "4.2" "a buffer count below 2: the first window, half of it, is empty, and nothing is ever sent"
    Drops "drops-requests" "4" "requests are lost although no more are outstanding than the client may send"
    BroadcastSource "broadcast-source" "2.5" "answers come from an address that means everybody, to which all requests go from now on"
    TwoServers "two-servers" "8.1" "two machines answer, taken for two paths to one disk and written to in turn"
    OtherServer "other-server" "8.2" "two machines answer; the client sticks to one, by chance"
    ShortConfig "short-config" "8.2" "config answers of less than 32 bytes are dropped"
    ShortIdentify "short-identify" "6" "the IDENTIFY page is incomplete"
    NoSize "no-size" "6" "the IDENTIFY page tells no possible size where this client looks for it"
    NoLba "no-lba" "6" "the IDENTIFY page does not offer LBA, which this client insists on"
    TooSmall "too-small" "6" "the disk is smaller than one cylinder of 255 x 63 sectors, in which this client counts"
    LostTail "lost-tail" "6" "the sectors behind the last whole cylinder of 255 x 63 are ignored"
    IdentifyChanged "identify-changed" "6" "another IDENTIFY page than before"
    Shrank "shrank" "6" "the disk became smaller"
    AtaError "ata-error" "5.4" "an ATA error for sectors that the disk should have"
    StatusBits "status-bits" "5.4" "BSY, DF or DRQ is set in the status, taken for an error"
    ErrorTaken "error-taken" "5.4" "an ATA error, taken for a success: reads yield garbage, writes are lost silently"
    ShortData "short-data" "5.4" "a read answer is too short, and fails the request"
    DataLength "data-length" "5.4" "a read answer has another length than asked for, and is dropped"
    ShortDataTaken "short-data-taken" "5.4" "a read answer is too short, and what lies behind it in memory becomes data"
    DataDiffer "data-differ" "5.2" "the same sector reads differently in another request"
    NotWritten "not-written" "5.4" "sectors do not hold what was written and acknowledged"
    ProbeSilence "probe-silence" "5.6" "no answer within 250 ms to a read with which WinAoE tries a frame size: it settles for less, or for nothing"
    ProbePayload "probe-payload" "8.1" "a read that carries data, Linux's test of a doubtful path, is not answered: that path stays unused"
    Trailer "trailer" "2.7" "requests with bytes behind their end, as aoe-sancheck sends them, are not answered"
    SmartError "smart-error" "5.5" "SMART is answered with an AoE error instead of an ATA abort"
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// What was asked, and which number in the answer mattered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Evidence {
    /// First sector of the request, if it has one.
    pub lba: Option<u64>,
    /// Sectors of the request.
    pub count: u8,
    /// The number in the answer; what it is, the cause tells. `None` without an answer.
    pub found: Option<u64>,
    /// What it should have been, if that is one number.
    pub expected: Option<u64>,
}

/// A cause, at one point of the script.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cause {
    /// What.
    pub why: Why,
    /// What it does to this client. [`Level::Works`] is a remark.
    pub level: Level,
    /// When.
    pub stage: Stage,
    /// With which numbers.
    pub evidence: Evidence,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, level, stage, evidence } = self;
        write!(f, "{level}, {stage}: {} [AoE {}]", why.text(), why.section())?;
        if let Some(lba) = evidence.lba {
            write!(f, "; lba {lba} count {}", evidence.count)?;
        }
        match (evidence.found, evidence.expected) {
            (Some(found), Some(expected)) => write!(f, "; {found}, expected {expected}"),
            (Some(found), None) => write!(f, "; {found}"),
            _ => Ok(()),
        }
    }
}

/// Most causes that a report holds.
pub const CAUSES_MAX: usize = 8;

/// How a client gets on with a target.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whose behaviour was replayed.
    pub client: Client,
    /// The worst of the causes.
    pub level: Level,
    /// How far the script came; [`Stage::Done`] is all of it.
    pub stage: Stage,
    /// Requests, retransmissions included.
    pub sent: u32,
    /// Retransmissions.
    pub resent: u32,
    /// Whether writing was tried.
    pub wrote: bool,
    /// Whether the window holds what it held before; `None` if nothing was written.
    pub restored: Option<bool>,
    /// Size of the disk as this client reads it.
    pub sectors: Option<u64>,
    /// Sectors per request that it settled on.
    pub sectors_max: u8,
    /// Requests that it keeps outstanding.
    pub window: u16,
    pub(super) causes: heapless::Vec<Cause, CAUSES_MAX>,
}

impl Report {
    pub(super) const fn new(client: Client) -> Self {
        Self {
            client,
            level: Level::Works,
            stage: Stage::Discover,
            sent: 0,
            resent: 0,
            wrote: false,
            restored: None,
            sectors: None,
            sectors_max: 0,
            window: 0,
            causes: heapless::Vec::new(),
        }
    }

    /// What matters to this client, in the order in which it was met; each cause once.
    pub fn causes(&self) -> &[Cause] {
        &self.causes
    }

    /// Adds a cause; the same one again counts if it matters more. Says whether it is the gravest so
    /// far.
    pub(super) fn add(&mut self, cause: Cause) -> bool {
        let gravest = cause.level > self.level;
        self.level = self.level.max(cause.level);
        if let Some(known) = self.causes.iter_mut().find(|known| known.why == cause.why) {
            if cause.level > known.level {
                *known = cause;
            }
            return gravest;
        }
        if self.causes.push(cause).is_err()
            && gravest
            && let Some(last) = self.causes.last_mut()
        {
            *last = cause;
        }
        gravest
    }
}

impl fmt::Display for Report {
    /// `Linux aoe: works`, and a line for each cause.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.client.name(), self.level)?;
        self.causes.iter().try_for_each(|cause| write!(f, "\n  {cause}"))
    }
}
