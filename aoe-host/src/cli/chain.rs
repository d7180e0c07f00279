//! `cowblade convert`, `merge`, `rebase`, `compare`, `snapshot`: whole chains on this machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::image::{
    ParentsArgs, chain as typed, confirm, enter_log, format_parser, gate, key_value, proof, tell,
    with_bar,
};
use crate::error::{Exit, HostError, Result};
use crate::image::Format;
use crate::tools::{self, ChainName, KeepOverlay};

/// `cowblade convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The image, or the chain TOP,...,BASE
    #[arg(value_name = "CHAIN")]
    pub source: OsString,

    /// The image to make; must not exist
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,

    /// Take the first image for this format, whatever it looks like
    #[arg(short = 'f', long, value_name = "FORMAT", value_parser = format_parser(Format::all()))]
    pub from: Option<Format>,

    /// Format of TARGET
    #[arg(
        short = 'O', long = "to", value_name = "FORMAT",
        value_parser = format_parser(Format::creatable()), default_value_t = Format::RAW
    )]
    pub to: Format,

    /// An option of the format; a wrong one lists them all
    #[arg(short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub option: Vec<(String, String)>,

    /// Put only what differs from this image, or chain, into TARGET, which lies on it
    #[arg(short = 'B', long, value_name = "CHAIN")]
    pub backing: Option<OsString>,

    /// Replace TARGET, when the new one is complete
    #[arg(long)]
    pub force: bool,

    /// TARGET is a block device; whatever it holds is lost
    #[arg(long)]
    pub onto_device: bool,

    /// Which parents are looked at
    #[command(flatten)]
    pub parents: ParentsArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade merge`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct MergeArgs {
    /// The overlay and what lies below it, TOP,...,BASE
    #[arg(value_name = "CHAIN")]
    pub chain: OsString,

    /// Write the whole disk into this new image; the chain stays as it is
    #[arg(
        short,
        long,
        value_name = "NEW",
        required_unless_present = "in_place",
        conflicts_with = "in_place"
    )]
    pub output: Option<PathBuf>,

    /// Write what the overlay holds into its parent, for good
    #[arg(long)]
    pub in_place: bool,

    /// Format of NEW
    #[arg(
        short = 'O', long = "to", value_name = "FORMAT", requires = "output",
        value_parser = format_parser(Format::creatable()), default_value_t = Format::RAW
    )]
    pub to: Format,

    /// Replace NEW, when the new one is complete
    #[arg(long, requires = "output")]
    pub force: bool,

    /// What becomes of the overlay afterwards [default: leave]
    #[arg(long, value_name = "HOW", requires = "in_place", value_parser = keep_parser())]
    pub keep_overlay: Option<KeepOverlay>,

    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,

    /// Which parents are looked at
    #[command(flatten)]
    pub parents: ParentsArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Reads what becomes of an overlay.
fn keep_parser() -> impl TypedValueParser<Value = KeepOverlay> {
    let ways = [
        PossibleValue::new("leave").help("It stays as it is, over the new content"),
        PossibleValue::new("empty").help("It is emptied, over the new content"),
        PossibleValue::new("delete").help("It is removed"),
    ];
    PossibleValuesParser::new(ways).map(|word| match &*word {
        "empty" => KeepOverlay::Empty,
        "delete" => KeepOverlay::Delete,
        _ => KeepOverlay::Leave,
    })
}

/// `cowblade compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// An image, or a chain TOP,...,BASE
    #[arg(value_name = "CHAIN")]
    pub first: OsString,

    /// Another one
    #[arg(value_name = "CHAIN")]
    pub second: OsString,

    /// Disks of different size differ; otherwise zeros at the end of one do not count
    #[arg(long)]
    pub strict: bool,

    /// Which parents are looked at
    #[command(flatten)]
    pub parents: ParentsArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade rebase`.
#[derive(Debug, Args)]
pub struct RebaseArgs {
    /// The overlay and what lies below it now, TOP,...,BASE
    #[arg(value_name = "CHAIN")]
    pub chain: OsString,

    /// What lies below it from then on; blank:SIZE for nothing
    #[arg(long, value_name = "CHAIN")]
    pub parent: OsString,

    /// Copy nothing: the new parent has the same content as the old one. As `rebind`
    #[arg(long)]
    pub metadata_only: bool,

    /// Compare the new parent with the one that the overlay was made over, byte by byte
    #[arg(long, value_name = "IMAGE", requires = "metadata_only", conflicts_with = "trust")]
    pub original: Option<PathBuf>,

    /// Compare length and samples only. If the rest differs, the disk is damaged for good
    #[arg(long, requires = "metadata_only")]
    pub trust: bool,

    /// Which parents are looked at
    #[command(flatten)]
    pub parents: ParentsArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    /// The overlay that is written so far
    #[arg(value_name = "TOP")]
    pub top: PathBuf,

    /// The overlay that is written from then on; must not exist
    #[arg(value_name = "NEW")]
    pub new: PathBuf,

    /// Format of NEW
    #[arg(long, value_parser = format_parser(Format::creatable()), default_value_t = Format::NATIVE)]
    pub format: Format,

    /// An option of the format; a wrong one lists them all
    #[arg(short, value_name = "KEY=VALUE", value_parser = key_value)]
    pub option: Vec<(String, String)>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn convert(args: &ConvertArgs) -> Result<Exit> {
    let source = typed(&args.source)?;
    let source = match args.from {
        Some(format) => source.forced(format),
        None => source,
    };
    enter_log(source.top())?;
    let request = tools::ConvertRequest {
        source,
        gate: gate(&args.parents),
        target: args.target.clone(),
        format: args.to,
        options: args.option.iter().cloned().collect(),
        backing: args.backing.as_deref().map(typed).transpose()?,
        replace: args.force,
        onto_device: args.onto_device,
    };
    let converted = with_bar(args.json, |progress| tools::convert(&request, progress))?;
    tell(&converted, args.json)
}

pub(super) fn merge(args: &MergeArgs) -> Result<Exit> {
    let chain = typed(&args.chain)?;
    if let Some(target) = &args.output {
        enter_log(chain.top())?;
        let request = tools::ConvertRequest {
            source: chain,
            gate: gate(&args.parents),
            target: target.clone(),
            format: args.to,
            replace: args.force,
            ..tools::ConvertRequest::default()
        };
        let converted = with_bar(args.json, |progress| tools::convert(&request, progress))?;
        return tell(&converted, args.json);
    }
    if let (false, false, Some(overlay)) = (args.yes, tools::is_merge_cut(&chain), chain.top()) {
        let question = format!(
            "Write what `{}` holds into its parent for good? Every other overlay of the parent will \
             be refused from then on.",
            overlay.display()
        );
        confirm("merge", overlay, &question)?;
    }
    enter_log(chain.top())?;
    let keep = args.keep_overlay;
    let request = tools::MergeRequest { chain, gate: gate(&args.parents), keep };
    let merged = with_bar(args.json, |progress| tools::merge(&request, progress))?;
    tell(&merged, args.json)
}

pub(super) fn rebase(args: &RebaseArgs) -> Result<Exit> {
    let (chain, parent) = (typed(&args.chain)?, typed(&args.parent)?);
    [&chain, &parent].into_iter().try_for_each(|chain| enter_log(chain.top()))?;
    if args.metadata_only {
        return rebind_chain(&chain, &parent, args);
    }
    let request = tools::RebaseRequest { chain, parent, gate: gate(&args.parents) };
    let rebased = with_bar(args.json, |progress| tools::rebase(&request, progress))?;
    tell(&rebased, args.json)
}

fn rebind_chain(chain: &ChainName, parent: &ChainName, args: &RebaseArgs) -> Result<Exit> {
    let image = |chain: &ChainName| {
        chain.top().map(Path::to_owned).ok_or_else(|| {
            HostError::usage("rebase --metadata-only", "blank:SIZE is no image")
                .advice("leave --metadata-only out")
        })
    };
    let request = tools::RebindRequest {
        path: image(chain)?,
        parent: image(parent)?,
        proof: proof(args.original.as_deref(), args.trust),
    };
    let rebound = with_bar(args.json, |progress| tools::rebind(&request, progress))?;
    tell(&rebound, args.json)
}

pub(super) fn snapshot(args: &SnapshotArgs) -> Result<Exit> {
    enter_log(Some(&args.top))?;
    let request = tools::SnapshotRequest {
        path: args.top.clone(),
        new: args.new.clone(),
        format: args.format,
        options: args.option.iter().cloned().collect(),
    };
    tell(&tools::snapshot(&request)?, args.json)
}

/// Ends with 1 if the disks differ, as `cmp` does, so that no failure may end with that.
pub(super) fn compare(args: &CompareArgs) -> Result<Exit> {
    let compared = || {
        let (first, second) = (typed(&args.first)?, typed(&args.second)?);
        [&first, &second].into_iter().try_for_each(|chain| enter_log(chain.top()))?;
        let request =
            tools::CompareRequest { first, second, gate: gate(&args.parents), strict: args.strict };
        let compared = with_bar(args.json, |progress| tools::compare(&request, progress))?;
        tell(&compared, args.json)?;
        Ok(if compared.is_equal { Exit::Success } else { Exit::Failure })
    };
    compared().map_err(|error: HostError| match error.exit() {
        Exit::Failure => error.ending_with(Exit::NotCompared),
        _ => error,
    })
}
