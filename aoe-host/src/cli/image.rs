//! `cowblade create`, `info`, `check`, `map`, `rollback`, `freeze`, `rebind`: images on this machine.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write, stderr, stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::output::{print_json, print_line, progress_bar};
use crate::config::Window;
use crate::error::{Exit, HostError, Result};
use crate::image::{Format, FormatOptions, ImageName, enter_left, entered_words};
use crate::tools::{self, ChainName, Gate, MapRun, Proof, Repairs};
use crate::values::ByteSize;

/// Reads the word of one of these formats.
pub(super) fn format_parser(
    formats: impl Iterator<Item = Format>,
) -> impl TypedValueParser<Value = Format> {
    let word = |format: Format| PossibleValue::new(format.word()).help(format.about());
    PossibleValuesParser::new(formats.map(word))
        .map(|word| Format::named(&word).unwrap_or(Format::NATIVE))
}

/// Splits `KEY=VALUE`.
pub(super) fn key_value(word: &str) -> core::result::Result<(String, String), String> {
    let split = word.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((split.0.to_owned(), split.1.to_owned()))
}

/// `cowblade create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The overlay to make; must not exist
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// The image below it
    #[arg(value_name = "IMAGE", conflicts_with = "backing", required_unless_present_any = ["size", "backing"])]
    pub base: Option<PathBuf>,

    /// The image below it, in another way
    #[arg(long, value_name = "IMAGE")]
    pub backing: Option<PathBuf>,

    /// Size of the disk; without IMAGE a blank disk, else the size of IMAGE
    #[arg(long, value_name = "SIZE")]
    pub size: Option<ByteSize>,

    /// Format of the overlay
    #[arg(long, value_parser = format_parser(Format::creatable()), default_value_t = Format::NATIVE)]
    pub format: Format,

    /// An option of the format; a wrong one lists them all
    #[arg(short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub option: Vec<(String, String)>,

    /// Chunk size of a dm-snapshot overlay, as `-o chunk=SIZE` [default: 32K]
    #[arg(long, value_name = "SIZE")]
    pub chunk: Option<String>,

    /// Use IMAGE from this byte on, a multiple of 512 [default: 0]
    #[arg(long, value_name = "BYTES")]
    pub offset: Option<ByteSize>,

    /// Use this many bytes of IMAGE [default: to its end]
    #[arg(long, value_name = "BYTES")]
    pub length: Option<ByteSize>,

    /// A name to put into a native overlay, as `-o label=NAME`
    #[arg(long, value_name = "NAME")]
    pub label: Option<String>,

    /// Record the hash of the whole IMAGE, so that `rebind` can accept a copy of it later
    #[arg(long)]
    pub full_hash: bool,

    /// OVERLAY is a block device; whatever it holds is lost
    #[arg(long)]
    pub onto_device: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The image, or the chain TOP,...,BASE
    #[arg(value_name = "CHAIN")]
    pub image: OsString,

    /// Which parents are looked at
    #[command(flatten)]
    pub parents: ParentsArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The images, or chains TOP,...,BASE of images
    #[arg(value_name = "CHAIN", required = true)]
    pub images: Vec<OsString>,

    /// Repair what can be repaired without losing data, then check; enter what a killed server left in
    /// a commit log
    #[arg(long)]
    pub repair: bool,

    /// With --repair: go on without the commit log that the overlay names; what was acknowledged in
    /// its last seconds may be lost
    #[arg(long, requires = "repair")]
    pub log_lost: bool,

    /// Which parents are looked at
    #[command(flatten)]
    pub parents: ParentsArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade map`.
#[derive(Debug, Args)]
pub struct MapArgs {
    /// The overlay, or the chain TOP,...,BASE
    #[arg(value_name = "CHAIN")]
    pub chain: OsString,

    /// Begin at this byte of the disk
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub offset: ByteSize,

    /// Look at this many bytes [default: to the end]
    #[arg(long, value_name = "BYTES")]
    pub length: Option<ByteSize>,

    /// Which parents are looked at
    #[command(flatten)]
    pub parents: ParentsArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The overlay
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade freeze`.
#[derive(Debug, Args)]
pub struct FreezeArgs {
    /// The overlay
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade rebind`.
#[derive(Debug, Args)]
pub struct RebindArgs {
    /// The overlay
    #[arg(value_name = "OVERLAY")]
    pub overlay: PathBuf,

    /// The image that is its parent from now on
    #[arg(long, value_name = "IMAGE")]
    pub parent: PathBuf,

    /// Compare IMAGE with the parent that OVERLAY was made over, byte by byte
    #[arg(long, value_name = "IMAGE", conflicts_with = "trust")]
    pub original: Option<PathBuf>,

    /// Compare length and samples only. If the rest differs, the disk is damaged for good
    #[arg(long)]
    pub trust: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn create(args: &CreateArgs) -> Result<Exit> {
    let has_part = args.offset.is_some() || args.length.is_some();
    if has_part && args.backing.is_none() && args.base.is_none() {
        return Err(HostError::usage("use --offset and --length", "there is no image below"));
    }
    let request = tools::CreateRequest {
        path: args.overlay.clone(),
        backing: args.backing.clone().or_else(|| args.base.clone()),
        window: Window {
            offset_bytes: args.offset.map_or(0, ByteSize::bytes),
            len_bytes: args.length.map(ByteSize::bytes),
        },
        size_bytes: args.size.map(ByteSize::bytes),
        format: args.format,
        options: format_options(args),
        full_hash: args.full_hash,
        onto_device: args.onto_device,
    };
    let created = with_bar(args.json, |progress| tools::create(&request, progress))?;
    tell(&created, args.json)
}

/// All that is particular to the format, however it was said.
fn format_options(args: &CreateArgs) -> FormatOptions {
    let named = [("chunk", &args.chunk), ("label", &args.label)];
    let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
    named.chain(args.option.iter().cloned()).collect()
}

pub(super) fn info(args: &InfoArgs) -> Result<Exit> {
    tell(&tools::info_of_chain(&chain(&args.image)?, &gate(&args.parents))?, args.json)
}

/// Checks all images, then fails with the first that could not be checked.
pub(super) fn check(args: &CheckArgs) -> Result<Exit> {
    let (mut reports, mut exit, mut failure) = (Vec::new(), Exit::Success, None);
    let repairs = match (args.repair, args.log_lost) {
        (true, true) => Repairs::LogLost,
        (true, false) => Repairs::Lossless,
        (false, _) => Repairs::None,
    };
    for image in &args.images {
        let checked = chain(image).and_then(|chain| {
            let gate = gate(&args.parents);
            with_bar(args.json, |bar| tools::check_chain(&chain, &gate, repairs, bar))
        });
        match checked {
            Ok(checked) => {
                for report in &checked {
                    if report.exit() != Exit::Success {
                        exit = report.exit();
                    }
                    if !args.json {
                        print_line(report.to_string().trim_end())?;
                    }
                }
                reports.extend(checked);
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if args.json {
        print_json(&reports)?;
    }
    failure.map_or(Ok(exit), Err)
}

/// `map --json`.
#[derive(Serialize)]
struct MapAnswer {
    #[serde(flatten)]
    summary: tools::MapSummary,
    map: Vec<MapRun>,
}

pub(super) fn map(args: &MapArgs) -> Result<Exit> {
    let chain = chain(&args.chain)?;
    enter_log(chain.top())?;
    let request = tools::MapRequest {
        chain,
        gate: gate(&args.parents),
        offset_bytes: args.offset.bytes(),
        len_bytes: args.length.map(ByteSize::bytes),
    };
    let mut runs = Vec::new();
    let mut is_headed = false;
    let summary = tools::map(&request, &mut |run| {
        if args.json {
            runs.push(*run);
            return Ok(());
        }
        if !core::mem::replace(&mut is_headed, true) {
            print_line(MapRun::HEADING)?;
        }
        print_line(&run.to_string())
    })?;
    if args.json {
        print_json(&MapAnswer { summary, map: runs })?;
    } else {
        for (number, path) in summary.layers.iter().enumerate() {
            print_line(&format!("layer {number}: {}", path.display()))?;
        }
    }
    Ok(Exit::Success)
}

pub(super) fn rollback(args: &RollbackArgs) -> Result<Exit> {
    if !args.yes {
        // What cannot be done at all is said before a question is asked.
        let _it_is_there = tools::info(&args.overlay, &Gate::Closed)?;
        let overlay = args.overlay.display();
        let question = format!("Forget everything that was written to `{overlay}`?");
        confirm("roll back", &args.overlay, &question)?;
    }
    tell(&tools::rollback(&args.overlay)?, args.json)
}

pub(super) fn freeze(args: &FreezeArgs) -> Result<Exit> {
    enter_log(Some(&args.overlay))?;
    tell(&tools::freeze(&args.overlay)?, args.json)
}

pub(super) fn rebind(args: &RebindArgs) -> Result<Exit> {
    enter_log(Some(&args.overlay))?;
    let proof = proof(args.original.as_deref(), args.trust);
    let request =
        tools::RebindRequest { path: args.overlay.clone(), parent: args.parent.clone(), proof };
    let rebound = with_bar(args.json, |progress| tools::rebind(&request, progress))?;
    tell(&rebound, args.json)
}

/// Before an image is used as a whole: enters what a killed server left in its commit log, and says so.
pub(super) fn enter_log(image: Option<&Path>) -> Result<()> {
    let Some(path) = image else { return Ok(()) };
    if let Some(changes) = enter_left(&ImageName::parse(path))? {
        let _gone = writeln!(stderr(), "cowblade: {}", entered_words(path, changes));
    }
    Ok(())
}

/// A chain as it was typed, with a warning if it was read in another order.
pub(super) fn chain(typed: &OsStr) -> Result<ChainName> {
    let chain = ChainName::parse(typed)?;
    if let Some(warning) = chain.warning() {
        let _gone = writeln!(stderr(), "cowblade: warning: {warning}");
    }
    Ok(chain)
}

pub(super) fn proof(original: Option<&Path>, trust: bool) -> Proof {
    match original {
        Some(original) => Proof::Original(original.to_owned()),
        None if trust => Proof::Trust,
        None => Proof::RecordedHash,
    }
}

pub(super) fn gate(args: &ParentsArgs) -> Gate {
    if args.parents { Gate::Open } else { Gate::Within(args.follow.clone()) }
}

/// As far as paths that images name are followed.
#[derive(Debug, Args)]
pub struct ParentsArgs {
    /// Follow the paths of parents that images name wherever they lead
    #[arg(long)]
    pub parents: bool,

    /// Follow them into this directory, besides that of the image itself (repeat for several)
    #[arg(long, value_name = "DIR")]
    pub follow: Vec<PathBuf>,
}

/// Prints a report for whoever asked.
pub(super) fn tell<T: Serialize + core::fmt::Display>(report: &T, json: bool) -> Result<Exit> {
    if json {
        print_json(report)?;
    } else {
        print_line(report.to_string().trim_end())?;
    }
    Ok(Exit::Success)
}

pub(super) fn with_bar<T>(json: bool, work: impl FnOnce(&mut tools::Progress<'_>) -> T) -> T {
    let bar = progress_bar(0, !json);
    let answer = work(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    answer
}

/// Asks whoever sits at the terminal.
pub(super) fn confirm(op: &str, overlay: &Path, question: &str) -> Result<()> {
    let refused =
        |detail: &str| HostError::usage(op, detail).path(overlay).advice("say --yes to do it");
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return Err(refused("nobody is there to confirm it"));
    }
    let failed = |e| HostError::io(e, "ask");
    stderr().write_all(format!("{question} [y/N] ").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(failed)?;
    if answer.trim().eq_ignore_ascii_case("y") || answer.trim().eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    Err(refused("it was not confirmed"))
}
