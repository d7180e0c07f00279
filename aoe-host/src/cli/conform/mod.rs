//! `cowblade conform`: what can be typed, and how it leads to a run.

use core::time::Duration;
use std::path::PathBuf;

use aoe_proto::conformance::{Severity, Topic};
use clap::{Args, ValueEnum};

mod clients;
mod restore;
mod run;
mod setup;
mod show;

use super::initiator::parse_seconds;
use crate::conform::ActionName;
use crate::error::{Exit, HostError, Result};
use crate::values::{Mac, ValueError, parse_mac};

/// What follows the options in `conform --help`.
pub(super) const NOTES: &str = "\
Without options that permit more, nothing is altered: the target is only asked. What is altered is
put back before the next case and compared; should this program be killed, --restore does it. Use a
target that nobody else uses meanwhile.

Exit codes: 0 if no \"must\" failed; 3 if one did, with --strict also if a \"should\" did, and if the
target died while its state was put back; 4 if nobody answers; 5 if the journal of an earlier run is
in the way; 1 if the target could not be put back, a command of --action failed, or the run was
interrupted. With --clients 3 if a client fails, hangs or corrupts, with --strict also if one is
degraded.

Examples:
  Ask only:
    cowblade conform 7.3 -i eth0
  Everything that can be undone, with writes to the last 64 sectors of the disk:
    cowblade conform 7.3 -i eth0 --state all --write-window end-64 --second-mac auto --forge \\
      --vlan
  The same, for a build server that can restart the target:
    cowblade conform 7.3 -i eth0 --state all --write-window end-64 --second-mac auto --forge \\
      --vlan --action 'restart=systemctl restart target' --junit conform.xml --json conform.json
  How Linux, iPXE, WinAoE, Plan 9 and aoetools would fare:
    cowblade conform 7.3 -i eth0 --clients --write-window end-64
  After a run that was killed:
    cowblade conform --restore";

/// `cowblade conform`.
#[derive(Debug, Args)]
pub struct ConformArgs {
    /// The target; with --restore the journal, or the target it is about
    #[arg(value_name = "SHELF.SLOT")]
    pub target: Option<String>,

    /// The interface to ask on
    #[arg(short, long, value_name = "IFACE")]
    pub interface: Option<String>,

    /// Replay how real clients behave, and tell how each would fare; writes go to --write-window only
    #[arg(long, conflicts_with_all = [
        "restore", "list", "explain", "case", "except", "topic", "severity", "state", "beyond_end",
        "second_mac", "forge", "vlan", "no_broadcast", "short_frames", "action", "interactive",
    ])]
    pub clients: bool,

    /// Put back what a run altered that was killed
    #[arg(long, conflicts_with_all = ["list", "explain"])]
    pub restore: bool,

    /// Keep the journal of the run in this directory [default: `$XDG_STATE_HOME/cowblade`,
    /// `~/.local/state/cowblade`, or for root `/var/lib/cowblade`]
    #[arg(long, value_name = "DIR")]
    pub journal_dir: Option<PathBuf>,

    /// Which cases.
    #[command(flatten)]
    pub choice: ChoiceArgs,

    /// What may be done.
    #[command(flatten)]
    pub permit: PermitArgs,

    /// How long to wait.
    #[command(flatten)]
    pub timing: TimingArgs,

    /// What is told.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Which cases.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cases")]
pub struct ChoiceArgs {
    /// Run only cases with such names: `*` stands for anything (repeat for several)
    #[arg(long, value_name = "GLOB")]
    pub case: Vec<String>,

    /// Leave out cases with such names (repeat for several)
    #[arg(long, value_name = "GLOB")]
    pub except: Vec<String>,

    /// Run only cases of this topic (repeat for several)
    #[arg(long, value_name = "TOPIC", value_parser = parse_topic)]
    pub topic: Vec<Topic>,

    /// Run only cases that matter so much
    #[arg(long, value_name = "SEVERITY", value_enum, default_value = "note")]
    pub severity: SeverityWord,

    /// List the cases instead of running them
    #[arg(long)]
    pub list: bool,

    /// Explain a case instead of running any
    #[arg(long, value_name = "CASE", conflicts_with = "list")]
    pub explain: Option<String>,
}

/// What may be done.
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is given or not")]
#[derive(Debug, Args)]
#[command(next_help_heading = "Permissions")]
pub struct PermitArgs {
    /// Alter this state of the target, and put it back
    #[arg(long, value_name = "STATE", value_enum, value_delimiter = ',')]
    pub state: Vec<StateWord>,

    /// Write to these sectors, and put them back: the first and how many, or so many at the end; 3,
    /// and one more than the target takes at once, are enough for all cases
    #[arg(long, value_name = "LBA+SECTORS|end-SECTORS", value_parser = parse_window)]
    pub write_window: Option<WindowWord>,

    /// Also write beyond the end of the disk, which a correct target refuses
    #[arg(long, requires = "write_window")]
    pub beyond_end: bool,

    /// Also send from a second address, `auto` for one derived from that of the interface
    #[arg(long, value_name = "MAC|auto", value_parser = parse_second_mac)]
    pub second_mac: Option<SecondMac>,

    /// Also send from addresses that are not ours
    #[arg(long)]
    pub forge: bool,

    /// Also send frames with VLAN tags
    #[arg(long)]
    pub vlan: bool,

    /// Send nothing that other targets hear
    #[arg(long)]
    pub no_broadcast: bool,

    /// Whether frames shorter than 60 bytes arrive as they are sent [default: on virtual interfaces]
    #[arg(long, value_name = "YES|NO", value_parser = parse_yes_no)]
    pub short_frames: Option<bool>,

    /// A shell command that does something to the target: restart, crash, revive, link (down and
    /// up) or mtu (to `$COWBLADE_MTU`); repeat for several
    #[arg(long, value_name = "NAME=COMMAND", value_parser = parse_action)]
    pub action: Vec<(ActionName, String)>,

    /// Ask at the terminal for what no command does
    #[arg(long)]
    pub interactive: bool,
}

/// How long to wait.
#[derive(Debug, Args)]
#[command(next_help_heading = "Times")]
pub struct TimingArgs {
    /// Wait so long for an answer before the request is sent again, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.4", value_parser = parse_seconds)]
    pub answer_time: Duration,

    /// Send a request so many times before it counts as unanswered
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub tries: u8,

    /// Wait so long for an answer that must not come, after a later request was answered
    #[arg(long, value_name = "SECONDS", default_value = "0.04", value_parser = parse_seconds)]
    pub grace_time: Duration,

    /// Wait so long for an answer that must not come, if nothing else proves it
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub silence_time: Duration,

    /// Wait so long for an advertisement
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub advertisement_time: Duration,

    /// With --clients: when a request counts as unanswered
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = parse_seconds)]
    pub client_time: Duration,

    /// Let a command of --action take so long
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub action_time: Duration,

    /// Where the tags of requests begin [default: a random number]
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
}

/// What is told.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// List every case, not only those that failed
    #[arg(short, long)]
    pub verbose: bool,

    /// Count a failed "should" as a failure
    #[arg(long)]
    pub strict: bool,

    /// Write the report as JSON, with --list the cases, `-` for standard output
    #[arg(long, value_name = "FILE", conflicts_with = "explain")]
    pub json: Option<PathBuf>,

    /// Write the report as `JUnit` XML, `-` for standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "explain"])]
    pub junit: Option<PathBuf>,
}

/// How much a case matters at least.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum SeverityWord {
    /// Some real client does not work otherwise
    Must,
    /// The protocol or good sense asks for it
    Should,
    /// Worth knowing
    Note,
}

impl From<SeverityWord> for Severity {
    fn from(word: SeverityWord) -> Self {
        match word {
            SeverityWord::Must => Self::Must,
            SeverityWord::Should => Self::Should,
            SeverityWord::Note => Self::Note,
        }
    }
}

/// State of a target that may be altered.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum StateWord {
    /// The config string
    Config,
    /// The MAC mask list
    Mask,
    /// The reservation
    Reservation,
    /// All three
    All,
}

/// Where writes are permitted, as it is typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WindowWord {
    /// From this sector on, so many.
    At(u64, u16),
    /// So many, up to the end of the disk.
    End(u16),
}

/// A second address, as it is typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SecondMac {
    /// One derived from the first.
    Auto,
    /// This one.
    Is(Mac),
}

fn parse_topic(text: &str) -> core::result::Result<Topic, ValueError> {
    let found = Topic::ALL.iter().copied().find(|topic| topic.word() == text);
    found.ok_or_else(|| {
        let words: Vec<&str> = Topic::ALL.iter().map(|topic| topic.word()).collect();
        ValueError::new(format!("`{text}` is not a topic; there are {}", words.join(", ")))
    })
}

fn parse_window(text: &str) -> core::result::Result<WindowWord, ValueError> {
    let malformed = || {
        ValueError::new(format!(
            "`{text}` is not a window; write LBA+SECTORS, such as 2048+64, or end-64, with at most \
             65535 sectors"
        ))
    };
    let count = |text: &str| text.parse().ok().filter(|count| *count > 0).ok_or_else(malformed);
    if let Some(sectors) = text.strip_prefix("end-") {
        return Ok(WindowWord::End(count(sectors)?));
    }
    let (lba, sectors) = text.split_once('+').ok_or_else(malformed)?;
    Ok(WindowWord::At(lba.parse().map_err(|_| malformed())?, count(sectors)?))
}

fn parse_second_mac(text: &str) -> core::result::Result<SecondMac, ValueError> {
    if text == "auto" {
        return Ok(SecondMac::Auto);
    }
    let mac = parse_mac(text)?;
    if mac.is_unicast() {
        Ok(SecondMac::Is(mac))
    } else {
        Err(ValueError::new(format!("`{text}` is not the address of one machine")))
    }
}

fn parse_yes_no(text: &str) -> core::result::Result<bool, ValueError> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(ValueError::new(format!("`{text}` is neither yes nor no"))),
    }
}

fn parse_action(text: &str) -> core::result::Result<(ActionName, String), ValueError> {
    let malformed = || {
        let words: Vec<&str> = ActionName::ALL.iter().map(|(word, _)| *word).collect();
        ValueError::new(format!(
            "`{text}` is not an action; write NAME=COMMAND with one of {}",
            words.join(", ")
        ))
    };
    let (word, command) = text.split_once('=').ok_or_else(malformed)?;
    let found = ActionName::ALL.iter().find(|(name, _)| *name == word).ok_or_else(malformed)?;
    Ok((found.1, command.to_owned()))
}

/// Does what was asked for.
pub(super) fn run(args: &ConformArgs) -> Result<Exit> {
    if args.choice.list {
        return show::list(args);
    }
    if let Some(id) = &args.choice.explain {
        return show::explain_case(id);
    }
    if args.restore {
        return restore::restore(args);
    }
    if args.clients {
        return clients::run(args);
    }
    run::run(args)
}

impl ConformArgs {
    fn interface(&self) -> Result<&str> {
        self.interface.as_deref().ok_or_else(|| {
            HostError::usage("examine a target", "nothing says on which interface it is")
                .advice("add -i IFACE")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        assert_eq!(parse_window("2048+64").unwrap(), WindowWord::At(2048, 64));
        assert_eq!(parse_window("end-48").unwrap(), WindowWord::End(48));
        for wrong in ["", "64", "1+0", "end-0", "1+65536", "-1+3", "end+3", "1+2+3"] {
            assert!(parse_window(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn actions_and_addresses() {
        let (name, command) = parse_action("mtu=ip link set x mtu=$COWBLADE_MTU").unwrap();
        assert_eq!((name, command.as_str()), (ActionName::Mtu, "ip link set x mtu=$COWBLADE_MTU"));
        assert!(parse_action("reboot=now").is_err() && parse_action("restart").is_err());
        assert_eq!(parse_second_mac("auto").unwrap(), SecondMac::Auto);
        assert!(parse_second_mac("ff:ff:ff:ff:ff:ff").is_err());
        assert_eq!(parse_topic("vlan").unwrap(), Topic::Vlan);
        assert!(parse_topic("VLAN").unwrap_err().to_string().contains("addressing, header"));
        assert!(parse_yes_no("maybe").is_err());
    }
}
