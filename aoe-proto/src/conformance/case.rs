//! A case: what is sent, what may come back, and why it matters.

use core::fmt;
use core::ops::BitOr;

use super::expect::Answer;
use super::stimulus::Stimulus;
use super::value::Value;

/// One rule of the protocol, as a test of any target. Plain data: see [`super::prelude`] for the
/// words in which the cases are written.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Stable name in parts with dots, such as `config.set-if-empty.second`.
    pub id: &'static str,
    /// What the case is about.
    pub topic: Topic,
    /// How much it matters.
    pub severity: Severity,
    /// Where the rule is written, such as `AoE 5.3` (see `docs/PROTOCOL.md`).
    pub section: &'static str,
    /// What a target does that passes, in one line.
    pub purpose: &'static str,
    /// What happens to which real client if it does not.
    pub consequence: &'static str,
    /// What the tester must permit or provide.
    pub needs: Needs,
    /// What is done, in order; the first step that fails ends the case.
    pub steps: &'static [Step],
}

impl Case {
    /// A case without steps, to be completed with the methods below.
    pub const fn new(
        topic: Topic,
        id: &'static str,
        severity: Severity,
        section: &'static str,
    ) -> Self {
        let (purpose, consequence, steps) = ("", "", &[]);
        Self { id, topic, severity, section, purpose, consequence, needs: Needs::NONE, steps }
    }

    /// What a target does that passes, in one line.
    #[must_use]
    pub const fn shows(self, purpose: &'static str) -> Self {
        Self { purpose, ..self }
    }

    /// What happens to which real client if it does not.
    #[must_use]
    pub const fn otherwise(self, consequence: &'static str) -> Self {
        Self { consequence, ..self }
    }

    /// What the tester must permit or provide. A case must name every change that it could make to
    /// a target that gets it *wrong*: a malformed config set needs [`Needs::CONFIG`].
    #[must_use]
    pub const fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// What is done.
    #[must_use]
    pub const fn steps(self, steps: &'static [Step]) -> Self {
        Self { steps, ..self }
    }
}

/// Declares the topics with their titles, in the order in which they are run and reported.
macro_rules! topics {
    ($($(#[$meta:meta])* $name:ident = $word:literal, $title:literal;)*) => {
        /// What a case is about.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Topic {
            $($(#[$meta])* $name,)*
        }

        impl Topic {
            /// All of them, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// A heading.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// The word that selects it.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

topics! {
    /// Shelf, slot and Ethernet addresses.
    Addressing = "addressing", "Addressing";
    /// The common header of answers.
    Header = "header", "Common header";
    /// Protocol versions.
    Version = "version", "Versions";
    /// The R, E and Z flags.
    Flags = "flags", "Flags";
    /// Length, padding and leakage of stale bytes.
    Padding = "padding", "Length, padding and stale bytes";
    /// Query/Config.
    Config = "config", "Query/Config";
    /// ATA reads.
    Read = "read", "ATA reads";
    /// ATA writes.
    Write = "write", "ATA writes";
    /// Ends of the disk, counts, flags that contradict.
    Edge = "edge", "ATA edges";
    /// IDENTIFY DEVICE, word by word.
    Identify = "identify", "IDENTIFY DEVICE";
    /// Commands other than reads and writes, and how failures are told.
    Errors = "errors", "Error reporting and other commands";
    /// The MAC mask list.
    Mask = "mask", "MAC mask list";
    /// Reservation.
    Reserve = "reserve", "Reserve/Release";
    /// Announcements at start.
    Advertisement = "advertisement", "Advertisement";
    /// Order of execution.
    Ordering = "ordering", "Ordering";
    /// Requests outstanding at once.
    Window = "window", "Outstanding window";
    /// Frame sizes.
    Mtu = "mtu", "MTU";
    /// VLAN tags.
    Vlan = "vlan", "VLAN";
    /// Requests that arrive twice.
    Retransmission = "retransmission", "Retransmission";
    /// Input that nobody honest sends.
    Hostile = "hostile", "Hostile input";
}

/// How much a failure matters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Some real client does not work, or data are at risk.
    Must,
    /// The published protocol or good sense asks for it; today's clients get by.
    Should,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// `must`, `should` or `note`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a case needs: permissions, equipment, and things that the target offers.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Needs(pub u16);

impl Needs {
    /// Nothing: requests that change nothing even in a target that gets them wrong.
    pub const NONE: Self = Self(0);
    /// Writes inside the window.
    pub const WRITES: Self = Self(1 << 0);
    /// Changes the config string.
    pub const CONFIG: Self = Self(1 << 1);
    /// Changes the MAC mask list.
    pub const MASK: Self = Self(1 << 2);
    /// Changes the reservation.
    pub const RESERVATION: Self = Self(1 << 3);
    /// Writes beyond the end of the disk: refused by a correct target; a broken one may extend a
    /// file or write elsewhere.
    pub const BEYOND_END: Self = Self(1 << 4);
    /// A second MAC address to send from.
    pub const SECOND_MAC: Self = Self(1 << 5);
    /// Sends to the broadcast MAC address or to wildcard shelves and slots: every target of the
    /// segment hears it.
    pub const BROADCAST: Self = Self(1 << 6);
    /// A link with jumbo frames (MTU of [`super::JUMBO_MTU`] bytes or more).
    pub const JUMBO: Self = Self(1 << 7);
    /// Something the tester does, or a launcher: see [`Action`].
    pub const ACTION: Self = Self(1 << 8);
    /// Sends frames with VLAN tags.
    pub const VLAN: Self = Self(1 << 9);
    /// Sends frames with source addresses that are not ours.
    pub const FORGERY: Self = Self(1 << 10);
    /// The target offers 48-bit commands.
    pub const LBA48: Self = Self(1 << 11);
    /// The target offers TRIM.
    pub const TRIM: Self = Self(1 << 12);
    /// The target offers SMART.
    pub const SMART: Self = Self(1 << 13);
    /// A link that delivers frames of less than 60 bytes as they are (veth, tap). A real one pads
    /// them with zeros, which can make them complete.
    pub const SHORT_FRAMES: Self = Self(1 << 14);

    /// What a run without options permits: questions to one target.
    pub const HARMLESS: Self = Self(Self::BROADCAST.0 | Self::OFFERS.0);
    /// Everything.
    pub const ALL: Self = Self((1 << 15) - 1);
    /// What only the target can provide.
    pub const OFFERS: Self = Self(Self::LBA48.0 | Self::TRIM.0 | Self::SMART.0);
    /// What has to be undone.
    pub const CHANGES: Self =
        Self(Self::WRITES.0 | Self::CONFIG.0 | Self::MASK.0 | Self::RESERVATION.0);

    /// Whether all of `other` is here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is here.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What of this `other` lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::WRITES, "writes inside a window"),
        (Self::CONFIG, "changes of the config string"),
        (Self::MASK, "changes of the MAC mask list"),
        (Self::RESERVATION, "changes of the reservation"),
        (Self::BEYOND_END, "writes beyond the end of the disk"),
        (Self::SECOND_MAC, "a second MAC address"),
        (Self::BROADCAST, "broadcasts"),
        (Self::JUMBO, "jumbo frames"),
        (Self::ACTION, "an action of the tester"),
        (Self::VLAN, "VLAN tags"),
        (Self::FORGERY, "forged source addresses"),
        (Self::LBA48, "48-bit commands"),
        (Self::TRIM, "TRIM"),
        (Self::SMART, "SMART"),
        (Self::SHORT_FRAMES, "a link that does not pad short frames"),
    ];
}

impl BitOr for Needs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (need, words) in Self::WORDS {
            if self.contains(*need) {
                if !first {
                    f.write_str(", ")?;
                }
                f.write_str(words)?;
                first = false;
            }
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}

/// One step of a case.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Sends a request and holds the answer against the accepted ones. No answer: the request is
    /// sent again with the same tag, a few times, before it counts as silence.
    Ask(Exchange),
    /// Sends several requests back to back before it waits for the answers. If one is missing, the
    /// whole round is sent again: a single retransmission would arrive out of order.
    Burst(&'static [Exchange]),
    /// Sends one request a number of times, each with its own tag: back to back, and again as a whole
    /// if an answer is missing, if the target announced so many buffers; else no more at once than
    /// it announced, and only those again that were not answered.
    Flood {
        /// The request and its accepted answers.
        exchange: Exchange,
        /// How often; at most [`super::FLOOD_MAX`].
        times: Value,
    },
    /// Sends a frame that must not be answered.
    Silence {
        /// The frame.
        send: Stimulus,
        /// How silence is told from slowness.
        proof: Proof,
    },
    /// Has something done to the target, and goes on when it answers again. What the target tells
    /// about itself is learnt anew.
    Act(Action),
    /// Has something done to the target and waits for the frame nobody asked for.
    Advertisement {
        /// What makes the target advertise itself.
        action: Action,
        /// What the advertisement may look like.
        accept: &'static [Answer],
    },
}

/// A request and the answers that are accepted.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// What is sent.
    pub send: Stimulus,
    /// What may come back; the first that fits counts.
    pub accept: &'static [Answer],
    /// Keeps the answer, for [`super::Check::Kept`] in later steps.
    pub keep: bool,
    /// Whether a second answer is a failure.
    pub exactly_once: bool,
    /// Silence is accepted, too, with this remark; for [`Step::Ask`] only. It is proved by a query
    /// that is sent right behind, and answered.
    pub silence: Option<&'static str>,
}

impl Exchange {
    /// Keeps the answer for comparison in later steps.
    #[must_use]
    pub const fn kept(self) -> Self {
        Self { keep: true, ..self }
    }

    /// Waits for a moment whether a second answer arrives, which is a failure then.
    #[must_use]
    pub const fn exactly_once(self) -> Self {
        Self { exactly_once: true, ..self }
    }
}

/// How silence is told from slowness.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// A config query is sent right behind, and answered. Quick, and shows that the target lives.
    Query,
    /// Nothing comes for a long while. For moments when the target must not answer us at all.
    Time,
}

/// Something that no frame can do: done by the tester, or by a launcher of the target.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Stop the target and start it again, orderly, with the same configuration.
    Restart,
    /// End the target without warning (SIGKILL, power) and start it again.
    Crash,
    /// Take the interface of the target down and bring it up again.
    LinkDownUp,
    /// Lower the MTU of the target's interface to [`super::LOW_MTU`].
    LowerMtu,
    /// Put the MTU of the target's interface back.
    RestoreMtu,
    /// The target stopped answering: start it again.
    Revive,
}

impl Action {
    /// What puts things back, if it is more than nothing.
    pub const fn undo(self) -> Option<Self> {
        match self {
            Self::LowerMtu => Some(Self::RestoreMtu),
            Self::Restart | Self::Crash | Self::LinkDownUp | Self::RestoreMtu | Self::Revive => {
                None
            }
        }
    }

    /// A request to the tester.
    pub const fn instruction(self) -> &'static str {
        match self {
            Self::Restart => "stop the target and start it again",
            Self::Crash => "end the target without warning (kill -9) and start it again",
            Self::LinkDownUp => "take the target's interface down and bring it up again",
            Self::LowerMtu => "set the MTU of the target's interface to 1100",
            Self::RestoreMtu => "set the MTU of the target's interface back",
            Self::Revive => "the target stopped answering: start it again",
        }
    }
}
