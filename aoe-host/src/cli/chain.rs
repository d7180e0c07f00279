//! `cowblade convert`, `merge`, `rebase`, `compare`, `snapshot`: whole chains on this machine.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::image::{confirm, format_parser, gate, key_value, tell, with_bar};
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

    /// Follow the names of parents that the images record
    #[arg(long)]
    pub parents: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cowblade merge`.
#[derive(Debug, Args)]
#[group(id = "where", required = true, multiple = false, args = ["output", "in_place"])]
pub struct MergeArgs {
    /// The overlay and what lies below it, TOP,...,BASE
    #[arg(value_name = "CHAIN")]
    pub chain: OsString,

    /// Write the whole disk into this new image; the chain stays as it is
    #[arg(short, long, value_name = "NEW")]
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

    /// Follow the names of parents that the images record
    #[arg(long)]
    pub parents: bool,

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

    /// Follow the names of parents that the images record
    #[arg(long)]
    pub parents: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) fn convert(args: &ConvertArgs) -> Result<Exit> {
    let source = ChainName::parse(&args.source)?;
    let request = tools::ConvertRequest {
        source: match args.from {
            Some(format) => source.forced(format),
            None => source,
        },
        gate: gate(args.parents),
        target: args.target.clone(),
        format: args.to,
        options: args.option.iter().cloned().collect(),
        backing: args.backing.as_deref().map(ChainName::parse).transpose()?,
        replace: args.force,
        onto_device: args.onto_device,
    };
    let converted = with_bar(args.json, |progress| tools::convert(&request, progress))?;
    tell(&converted, args.json)
}

pub(super) fn merge(args: &MergeArgs) -> Result<Exit> {
    let chain = ChainName::parse(&args.chain)?;
    if let Some(target) = &args.output {
        let request = tools::ConvertRequest {
            source: chain,
            gate: gate(args.parents),
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
    let keep = args.keep_overlay;
    let request = tools::MergeRequest { chain, gate: gate(args.parents), keep };
    let merged = with_bar(args.json, |progress| tools::merge(&request, progress))?;
    tell(&merged, args.json)
}

/// Ends with 1 if the disks differ, as `cmp` does, so that no failure may end with that.
pub(super) fn compare(args: &CompareArgs) -> Result<Exit> {
    let compared = || {
        let request = tools::CompareRequest {
            first: ChainName::parse(&args.first)?,
            second: ChainName::parse(&args.second)?,
            gate: gate(args.parents),
            strict: args.strict,
        };
        let compared = with_bar(args.json, |progress| tools::compare(&request, progress))?;
        tell(&compared, args.json)?;
        Ok(if compared.is_equal { Exit::Success } else { Exit::Failure })
    };
    compared().map_err(|error: HostError| match error.exit() {
        Exit::Failure => error.ending_with(Exit::NotCompared),
        _ => error,
    })
}
