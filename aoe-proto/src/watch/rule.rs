//! The rules that a listener can hold frames against, and what it says when one is broken.

use core::fmt;

use crate::wire::{AddressPattern, Mac};

/// How much a broken rule matters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Worth knowing; some implementation does it differently for a reason.
    Note,
    /// Unwise; a known client or target gets into trouble with it.
    Should,
    /// Against the protocol, or against a rule that keeps data whole.
    Must,
}

impl Severity {
    /// The word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Should => "should",
            Self::Must => "must",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Declares the rules, once, as data.
macro_rules! rules {
    ($($variant:ident $id:literal $severity:ident $section:literal $text:literal)*) => {
        /// A rule of the protocol that is visible from outside. Its text says what a frame that is
        /// flagged did, and why that matters.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        #[expect(clippy::doc_markdown, reason = "the texts are printed for people as they are")]
        pub enum Rule { $(#[doc = $text] $variant,)* }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name for programs; stable.
            pub const fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// How much a break matters.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// Where the rule is written, as in `[AoE 4.2]`. See `docs/PROTOCOL.md`.
            pub const fn section(self) -> &'static str {
                match self { $(Self::$variant => $section,)* }
            }

            /// What happened and why it matters, for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

rules! {
    // The common header.
    Version "version" Must "2.2" "only version 1 exists"
    ReservedFlags "reserved-flags" Must "2.1" "the reserved flag bits are zero in everything sent"
    RequestErrorFlag "request-error-flag" Should "2.1" "a request carries the error flag; several targets copy it into their answer"
    RequestErrorByte "request-error-byte" Note "2" "a request carries an error byte"
    ErrorWithoutFlag "error-without-flag" Must "2" "an error byte without the error flag"
    UnknownError "unknown-error" Must "2.3" "the error flag with a code that does not exist"
    WildcardAnswer "wildcard-answer" Must "2.4" "an answer carries a wildcard address, not the target's own; iPXE drops it"
    BadSource "bad-source" Must "2.5" "the source address cannot receive an answer"
    BroadcastAnswer "broadcast-answer" Must "2.5" "an answer goes to everybody instead of the initiator"
    LinuxShelf "linux-shelf" Note "2.4" "the Linux driver ignores shelf 4095"
    ShortFrame "short-frame" Must "2.7" "the frame ends inside its header or argument"
    Unpadded "unpadded" Should "2.7" "an answer shorter than 60 bytes relies on somebody else to pad it"
    PaddingLeak "padding-leak" Must "2.7" "bytes behind the end of an answer are not zero: old memory leaks"
    RequestTrailer "request-trailer" Note "2.7" "bytes behind the end of a request are not zero"
    FrameTooLong "frame-too-long" Must "9" "the frame exceeds the MTU of the link"
    // Requests.
    UnknownCommand "unknown-command" Must "3" "a request with a command code that does not exist"
    VendorCommand "vendor-command" Note "3" "a vendor's own command"
    UnknownSubcommand "unknown-subcommand" Must "4.1" "a request with an unknown CCmd, MCmd or RCmd"
    ConfigLength "config-length" Must "4.1" "the config string is longer than 1024 bytes or than the frame"
    ConfigRequestFields "config-request-fields" Note "4" "a config request fills fields that only answers have"
    ListLength "list-length" Must "7" "a list claims more entries than the frame holds"
    ReservedBytes "reserved-bytes" Must "1" "reserved bytes are zero in everything sent"
    ReservedAtaFlags "reserved-ata-flags" Must "5.1" "reserved AFlags bits are zero in everything sent"
    WriteWithoutW "write-without-w" Must "5.1" "a write command without the W flag"
    ReadWithW "read-with-w" Must "5.1" "a command that reads, with the W flag"
    LbaWidth "lba-width" Must "5.2" "the E flag contradicts the command: some targets go by the one, some by the other"
    CountZero "count-zero" Must "5.3" "a data command for no sectors; targets disagree about it"
    ShortWrite "short-write" Must "5.6" "a write carries less data than its sector count says"
    CountOverMax "count-over-max" Should "5.6" "more sectors than the target advertised"
    WildcardChange "wildcard-change" Should "2.4" "a change is sent to a wildcard address and hits every target"
    WindowExceeded "window-exceeded" Note "4" "more requests outstanding than the target's buffer count: it may drop them"
    TagReused "tag-reused" Should "2.6" "an unanswered request's tag is used for another request"
    TwinFrame "twin-frame" Note "9" "the same request twice within a moment: a loop, a hub, or a double capture"
    StaleWrite "stale-write" Must "9" "an answered write arrives again after a newer write to the same sectors: a target that executes it reverts them"
    // What an answer says by itself.
    BufferCount "buffer-count" Must "4.2" "a buffer count below 2: half of it is the Linux driver's first window, which stays empty, and the disk is never usable"
    SectorCountFit "sector-count-fit" Must "4.2" "more sectors advertised than the MTU carries"
    SectorCountZero "sector-count-zero" Note "4" "sector count 0 means 2"
    SectorCountOdd "sector-count-odd" Note "4.2" "from 8 sectors on a multiple of 8 keeps requests aligned to 4 KiB"
    ConfigVersion "config-version" Must "4" "the version nibble of a config answer is not 1"
    ConfigErrorBare "config-error-bare" Should "4.1" "a refused config command is answered without the configuration that stands"
    AnswerListed "answer-listed" Should "7.1" "a mask list entry in an answer carries a directive"
    MaskErrorUnknown "mask-error-unknown" Must "7.1" "an MError that does not exist"
    StatusNotReady "status-not-ready" Must "5.4" "DRDY is clear in the status"
    StatusBusy "status-busy" Must "5.4" "BSY or DRQ is set in the status: Linux fails the request"
    ErrorRegister "error-register" Should "5.4" "the error register and the ERR bit disagree"
    // An answer and its request.
    AnswerWithoutRequest "answer-without-request" Must "1" "nobody asked for this answer"
    AnswerToStranger "answer-to-stranger" Note "1" "an answer to a machine that was never heard asking"
    WrongTag "wrong-tag" Must "2.6" "the tag of the request did not come back; no initiator recognises the answer"
    WrongAddress "wrong-address" Must "2.4" "the answer carries another address than its request asked for"
    WrongCommand "wrong-command" Must "3" "the answer carries another command than its request"
    WrongAnswerer "wrong-answerer" Must "2.4" "a request sent to one machine is answered by another"
    VlanCrossed "vlan-crossed" Must "9" "a request on one VLAN is answered on another"
    DuplicateAnswer "duplicate-answer" Should "1" "more answers than the request was sent times"
    DuplicateAddress "duplicate-address" Must "8.1" "two machines answer for one address: Linux takes them for two paths to one disk and writes to them in turn"
    RefusalDue "refusal-due" Must "10" "a request that has to be refused is answered with success"
    SilenceDue "silence-due" Should "2.4" "a change sent to a wildcard address is executed"
    ErrorOutOfPlace "error-out-of-place" Must "2.3" "an error code that does not belong to this request"
    ErrorForAta "error-for-ata" Must "2.3" "an AoE error where an ATA error is due: Linux drops it and hangs for 180 s"
    ErrorHangsLinux "error-hangs-linux" Note "2.3" "Linux drops answers with the error flag and repeats the request for 180 s"
    ConfigEcho "config-echo" Should "4" "the CCmd did not come back"
    TestMismatch "test-mismatch" Must "4.1" "a config test is answered although the string does not match"
    SetNotStored "set-not-stored" Should "4.1" "a config set succeeds but the answer does not show the new string"
    SetRefusedEqual "set-refused-equal" Should "4.1" "a config set is refused although that very string is set: a retransmission looks like a lost race"
    ReadShort "read-short" Must "5.4" "a read succeeds with less data than asked for"
    ReadLong "read-long" Must "5.4" "a read brings more data than asked for"
    ErrorWithData "error-with-data" Should "5.4" "a failed command brings data"
    FlagsEcho "flags-echo" Should "5" "the AFlags did not come back"
    LbaEcho "lba-echo" Note "5" "the LBA registers did not come back"
    Residue "residue" Note "5.3" "the sector count of an answer is not the number of sectors left over"
    BeyondEnd "beyond-end" Must "5.2" "sectors past the end of the disk are served"
    RangeRefused "range-refused" Must "5.2" "sectors inside the disk are said not to exist"
    // IDENTIFY pages.
    IdentifyChecksum "identify-checksum" Must "6" "the IDENTIFY page has a signature and a wrong checksum"
    IdentifyWords "identify-words" Should "6" "IDENTIFY words that mark an ATA disk with LBA are not as they must be"
    IdentifySize "identify-size" Must "6" "the IDENTIFY page tells no possible size: Linux reads words 100 to 103 as one number"
    IdentifySizesDiffer "identify-sizes-differ" Should "6" "the 28-bit and the 48-bit size of the IDENTIFY page differ"
    IdentifyLba28 "identify-lba28" Note "6" "a disk without LBA48: WinAoE reads its size from words 100 to 103 all the same"
    IdentifyNoSerial "identify-no-serial" Should "9" "no serial number: multipath and udev links merge such disks"
    SerialShared "serial-shared" Must "9" "two targets have one serial number: multipath and udev links merge them"
    IdentifyChanged "identify-changed" Should "6" "an initiator gets another IDENTIFY page than before"
    DiskShrank "disk-shrank" Must "6" "a disk became smaller under its initiator"
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// What exactly was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detail {
    /// The rule says it all.
    None,
    /// The value that is wrong.
    Found(u64),
    /// The value that is wrong, and the one that would be right, or the limit.
    Expected {
        /// In the frame.
        found: u64,
        /// By the rule.
        expected: u64,
    },
    /// Another machine that is involved.
    Machine(Mac),
    /// Another address that is involved.
    Address(AddressPattern),
    /// The rule that the request broke.
    Because(Rule),
}

/// A broken rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Which.
    pub rule: Rule,
    /// The source of the frame.
    pub by: Mac,
    /// The address in the frame.
    pub address: AddressPattern,
    /// What exactly.
    pub detail: Detail,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule;
        write!(f, "{} {rule} [AoE {}]: {}", rule.severity(), rule.section(), rule.text())?;
        match self.detail {
            Detail::None => Ok(()),
            Detail::Found(found) => write!(f, " ({found})"),
            Detail::Expected { found, expected } => write!(f, " ({found}, expected {expected})"),
            Detail::Machine(mac) => write!(f, " ({mac})"),
            Detail::Address(address) => write!(f, " ({address})"),
            Detail::Because(rule) => write!(f, " ({rule} [AoE {}])", rule.section()),
        }
    }
}

/// Most findings about one frame; more are left out.
pub const FINDINGS_MAX: usize = 16;

/// The findings about one frame, in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    list: heapless::Vec<Finding, FINDINGS_MAX>,
    left_out: u32,
}

impl Findings {
    /// All of them.
    pub fn as_slice(&self) -> &[Finding] {
        &self.list
    }

    /// Whether a rule was broken.
    pub fn contains(&self, rule: Rule) -> bool {
        self.list.iter().any(|finding| finding.rule == rule)
    }

    /// The gravest severity, if anything was found.
    pub fn gravest(&self) -> Option<Severity> {
        self.list.iter().map(|finding| finding.rule.severity()).max()
    }

    /// Findings for which there was no room.
    pub const fn left_out(&self) -> u32 {
        self.left_out
    }

    fn add(&mut self, finding: Finding) {
        if self.list.push(finding).is_err() {
            self.left_out = self.left_out.saturating_add(1);
        }
    }
}

/// Collects findings about one frame.
pub(super) struct Judge<'o> {
    by: Mac,
    address: AddressPattern,
    out: &'o mut Findings,
}

impl<'o> Judge<'o> {
    pub(super) fn new(by: Mac, address: AddressPattern, out: &'o mut Findings) -> Self {
        Self { by, address, out }
    }

    pub(super) fn say(&mut self, rule: Rule, detail: Detail) {
        self.out.add(Finding { rule, by: self.by, address: self.address, detail });
    }

    pub(super) fn flag(&mut self, broken: bool, rule: Rule) {
        if broken {
            self.say(rule, Detail::None);
        }
    }

    pub(super) fn found(&mut self, broken: bool, rule: Rule, found: impl Into<u64>) {
        if broken {
            self.say(rule, Detail::Found(found.into()));
        }
    }

    pub(super) fn expected(
        &mut self,
        broken: bool,
        rule: Rule,
        found: impl Into<u64>,
        expected: impl Into<u64>,
    ) {
        if broken {
            let (found, expected) = (found.into(), expected.into());
            self.say(rule, Detail::Expected { found, expected });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::string::ToString;

    #[test]
    fn ids_are_unique_words() {
        let ids: HashSet<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        assert_eq!(ids.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            assert!(
                rule.id()
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c == b'-' || c.is_ascii_digit())
            );
            assert!(rule.section().starts_with(|c: char| c.is_ascii_digit()), "{rule}");
        }
    }

    #[test]
    fn a_finding_says_rule_section_and_value() {
        let finding = Finding {
            rule: Rule::BufferCount,
            by: Mac([2, 0, 0, 0, 0, 1]),
            address: AddressPattern { shelf: 7, slot: 3 },
            detail: Detail::Found(1),
        };
        let text = finding.to_string();
        assert!(text.starts_with("must buffer-count [AoE 4.2]: a buffer count below 2"), "{text}");
        assert!(text.ends_with(" (1)"), "{text}");
    }
}
