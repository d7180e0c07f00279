//! The command line: what can be typed, one file per family of commands, and where it leads.

use clap::{Parser, Subcommand};

use crate::error::{Exit, Result};

pub mod bench;
pub mod chain;
pub mod clients;
pub mod completion;
pub mod conform;
pub mod demo;
pub mod image;
pub mod initiator;
pub mod serve;
pub mod status;
pub mod watch;

mod output;

/// What the codes mean that the program ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: input/output, network, no room
  2  the arguments or the configuration file make no sense; nothing was touched
  3  a check or a comparison ran to its end and found problems
  4  a file, interface, target or client does not exist or does not answer
  5  refused: locked, in use, not permitted, damaged, or not the recorded parent
  6  `compare` could not compare; there 1 means that the disks differ";

/// Serve one golden disk image to many diskless machines over ATA-over-Ethernet, each with a
/// private copy-on-write overlay.
#[derive(Debug, Parser)]
#[command(name = "cowblade", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a golden image, or other disks, on a network
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<serve::ServeArgs>),
    /// Show it all in memory: eight clients, one golden image, no network, no privileges
    Demo(demo::DemoArgs),

    /// Make an overlay
    Create(image::CreateArgs),
    /// Tell what an image is
    Info(image::InfoArgs),
    /// Look for damage; changes nothing
    Check(image::CheckArgs),
    /// List what an overlay holds
    Map(image::MapArgs),
    /// Forget everything in an overlay
    Rollback(image::RollbackArgs),
    /// Make an overlay a read-only layer for others
    Freeze(image::FreezeArgs),
    /// Copy a disk, or a whole chain, into a new image of any format
    Convert(chain::ConvertArgs),
    /// Write an overlay into its parent, or a chain into one new image
    Merge(chain::MergeArgs),
    /// Put another parent under an overlay whose disk stays the same
    Rebase(chain::RebaseArgs),
    /// Keep an overlay as it is, and make a new one on it
    Snapshot(chain::SnapshotArgs),
    /// Tell whether two disks are the same
    Compare(chain::CompareArgs),
    /// Accept another file of the same content as an overlay's parent
    Rebind(image::RebindArgs),

    /// Ask a running server how it is
    Status(status::StatusArgs),
    /// See and manage the clients of a running server
    Clients(clients::ClientsArgs),

    /// Find the targets on a network
    Discover(initiator::DiscoverArgs),
    /// Measure the way to a target
    Ping(initiator::PingArgs),
    /// Read or change a target's config string
    Config(initiator::ConfigArgs),
    /// Read or change a target's MAC mask list
    Mask(initiator::MaskArgs),
    /// Read or change a target's reservation
    Reserve(initiator::ReserveArgs),
    /// Copy from a target into a file
    Read(initiator::ReadArgs),
    /// Copy a file to a target
    Write(initiator::WriteArgs),

    /// Put a load on targets and measure them
    #[command(after_help = bench::NOTES)]
    Bench(Box<bench::BenchArgs>),
    /// Examine a target: does it keep to the protocol?
    #[command(after_help = conform::NOTES)]
    Conform(Box<conform::ConformArgs>),

    /// Listen to AoE traffic and point out what is wrong with it
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::WatchArgs),

    /// Print a completion script for a shell
    Completions(completion::CompletionsArgs),
    /// Write the manual pages
    Man(completion::ManArgs),
}

/// Does what was asked for.
///
/// # Errors
/// Those of the command; see [`HostError::exit`](crate::error::HostError::exit) for the code to
/// end with.
pub fn run(cli: Cli) -> Result<Exit> {
    match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Demo(args) => demo::run(&args),
        Command::Create(args) => image::create(&args),
        Command::Info(args) => image::info(&args),
        Command::Check(args) => image::check(&args),
        Command::Map(args) => image::map(&args),
        Command::Rollback(args) => image::rollback(&args),
        Command::Freeze(args) => image::freeze(&args),
        Command::Convert(args) => chain::convert(&args),
        Command::Merge(args) => chain::merge(&args),
        Command::Rebase(args) => chain::rebase(&args),
        Command::Snapshot(args) => chain::snapshot(&args),
        Command::Compare(args) => chain::compare(&args),
        Command::Rebind(args) => image::rebind(&args),
        Command::Status(args) => status::run(&args),
        Command::Clients(args) => clients::run(&args),
        Command::Discover(args) => initiator::discover(&args),
        Command::Ping(args) => initiator::ping(&args),
        Command::Config(args) => initiator::config(&args),
        Command::Mask(args) => initiator::mask(&args),
        Command::Reserve(args) => initiator::reserve(&args),
        Command::Read(args) => initiator::read(&args),
        Command::Write(args) => initiator::write(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Conform(args) => conform::run(&args),
        Command::Completions(args) => completion::completions(&args),
        Command::Man(args) => completion::man(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    const DOCUMENT: &str = include_str!("../../../docs/CLI.md");

    /// The lines inside fenced parts of the document that are marked `kind`.
    fn fenced(kind: &str) -> Vec<&'static str> {
        let mut inside = false;
        let mut lines = Vec::new();
        for line in DOCUMENT.lines() {
            match line.strip_prefix("```") {
                Some(mark) => inside = mark == kind,
                None if inside => lines.push(line),
                None => {}
            }
        }
        lines
    }

    /// The words of a line as a shell takes it: quotes keep spaces together.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quote = None;
        for character in line.chars() {
            match (quote, character) {
                (None, '\'' | '"') => quote = Some(character),
                (Some(open), close) if open == close => quote = None,
                (None, ' ') => words.push(String::new()),
                _ => words.last_mut().unwrap().push(character),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn every_command_line_of_the_document_is_understood() {
        let lines = fenced("console");
        for line in &lines {
            let cli =
                Cli::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
            if let Command::Serve(args) = cli.command
                && args.config.is_none()
            {
                args.resolve().unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let shown = DOCUMENT.contains(&format!("cowblade {name} ")) || name == "demo";
            assert!(shown, "{name} is not in the document");
        }
    }

    #[test]
    fn the_configuration_file_of_the_document_works() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cowblade.toml");
        std::fs::write(&path, fenced("toml").join("\n")).unwrap();
        let line = format!("cowblade serve --config {}", path.display());
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Serve(args) = cli.command else { panic!("{cli:?}") };
        let config = args.resolve().unwrap();
        assert_eq!(config.exports.len(), 3);
    }

    #[test]
    fn the_document_and_the_help_name_the_same_exit_codes() {
        for line in EXIT_CODES.lines().skip(1) {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            assert!(DOCUMENT.contains(&format!("| {code} | {meaning} |")), "{line}");
        }
    }
}
