//! The command line: what can be typed, one file per family of commands, and where it leads.

use clap::{Parser, Subcommand};

use crate::error::{ErrorKind, Exit, HostError, Result};

pub mod clients;
pub mod completion;
pub mod demo;
pub mod image;
pub mod initiator;
pub mod serve;
pub mod status;

mod output;

/// What the codes mean that the program ends with.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: input/output, network, no room
  2  the arguments or the configuration file make no sense; nothing was touched
  3  a check or a comparison ran to its end and found problems
  4  a file, interface, target or client does not exist or does not answer
  5  refused: locked, in use, not permitted, damaged, or not the recorded parent";

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
        Command::Status(args) => status::run(&args),
        Command::Clients(args) => clients::run(&args),
        Command::Discover(args) => initiator::discover(&args),
        Command::Ping(args) => initiator::ping(&args),
        Command::Config(args) => initiator::config(&args),
        Command::Mask(args) => initiator::mask(&args),
        Command::Reserve(args) => initiator::reserve(&args),
        Command::Read(args) => initiator::read(&args),
        Command::Write(args) => initiator::write(&args),
        Command::Completions(args) => completion::completions(&args),
        Command::Man(args) => completion::man(&args),
    }
}

fn not_built_yet(command: &str) -> HostError {
    HostError::new(ErrorKind::Unsupported, format!("run `{command}`"))
        .detail("this build does not have it yet")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_documentation_is_understood() {
        for line in [
            "serve golden.img -i eth0",
            "serve --config /etc/cowblade.toml",
            "demo --clients 4 --json",
            "create lab1.cow --backing golden.img",
            "create disk.cow --size 4G --json",
            "info lab1.cow --json",
            "check lab1.cow lab2.cow",
            "map lab1.cow --offset 1M --length 4K",
            "rollback lab1.cow --yes",
            "freeze lab1.cow",
            "status golden.img",
            "status --control /run/c.sock --json",
            "clients list golden.img",
            "clients adopt 52:54:00:12:34:56 lab1 --control /run/c.sock",
            "clients name lab1 lab2 --overlays d",
            "clients remove lab1 --control c",
            "discover -i eth0 --json",
            "ping 0.1 -i eth0 --count 5",
            "config get 0.1 -i eth0",
            "config set 0.1 hello -i eth0",
            "config force 0.1 hello -i eth0",
            "config test 0.1 hel --prefix -i eth0",
            "mask list 0.1 -i eth0",
            "mask add 0.1 020000000001 020000000002 -i eth0",
            "mask remove 0.1 020000000001 -i eth0",
            "reserve show 0.1 -i eth0",
            "reserve set 0.1 020000000001 -i eth0",
            "reserve force 0.1 020000000001 -i eth0",
            "reserve release 0.1 -i eth0",
            "read 0.1 -i eth0 --offset 1M --length 64K -o part.img",
            "write 0.1 -i eth0 --offset 1M --verify part.img",
            "completions bash",
            "man out",
        ] {
            let arguments = core::iter::once("cowblade").chain(line.split_whitespace());
            if let Err(error) = Cli::try_parse_from(arguments) {
                panic!("{line}: {error}");
            }
        }
    }
}
