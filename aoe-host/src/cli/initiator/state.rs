//! `cowblade config`, `mask`, `reserve`: what the network may change about a target.

use aoe_proto::initiator::{Answer, Completion, Failure, Request};
use aoe_proto::wire::{AoeError, ConfigCommand, Directive, DirectiveCommand};
use serde::Serialize;

use super::connect::with_session;
use super::{
    ConfigAction, ConfigArgs, MaskAction, MaskArgs, ReserveAction, ReserveArgs, TargetArgs,
};
use crate::cli::output::{print_json, print_line};
use crate::error::{ErrorKind, Exit, HostError, Result};
use crate::initiator::Session;
use crate::values::{Address, Mac, serde_text};

/// A config string, as JSON shows it.
#[derive(Debug, Serialize)]
struct ConfigAnswer {
    #[serde(serialize_with = "serde_text::address::serialize")]
    address: Address,
    #[serde(serialize_with = "serde_text::mac::serialize")]
    server: Mac,
    config_string: String,
}

/// A list of addresses, as JSON shows it.
#[derive(Debug, Serialize)]
struct MacList {
    #[serde(serialize_with = "serde_text::address::serialize")]
    address: Address,
    #[serde(serialize_with = "serde_text::macs::serialize")]
    macs: Vec<Mac>,
}

pub(in crate::cli) fn config(args: &ConfigArgs) -> Result<Exit> {
    let (address, target, op, request) = match &args.action {
        ConfigAction::Get { address, target } => {
            (*address, target, "read the config string", Request::ConfigRead)
        }
        ConfigAction::Set { address, string, target } => {
            (*address, target, "set the config string", change(ConfigCommand::Set, string))
        }
        ConfigAction::Force { address, string, target } => {
            (*address, target, "set the config string", change(ConfigCommand::ForceSet, string))
        }
        ConfigAction::Test { address, string, prefix, target } => {
            let test = if *prefix { ConfigCommand::TestPrefix } else { ConfigCommand::TestExact };
            (*address, target, "find a target with that config string", change(test, string))
        }
    };
    let answer = with_session(target, address, |session| {
        session.ask(op, request, |completion| match completion.result? {
            Answer::Config(found) => Ok(ConfigAnswer {
                address,
                server: found.mac,
                config_string: String::from_utf8_lossy(found.string).into_owned(),
            }),
            _ => Err(Failure::Malformed),
        })
    });
    let answer = answer.map_err(|error| explain_refusal(error, op, address))?;
    if target.json {
        print_json(&answer)?;
    } else {
        print_line(&answer.config_string)?;
    }
    Ok(Exit::Success)
}

pub(in crate::cli) fn mask(args: &MaskArgs) -> Result<Exit> {
    let (address, target, request) = match &args.action {
        MaskAction::List { address, target } => (*address, target, Request::MaskRead),
        MaskAction::Add { address, macs, target } => {
            (*address, target, edit(DirectiveCommand::Add, macs))
        }
        MaskAction::Remove { address, macs, target } => {
            (*address, target, edit(DirectiveCommand::Delete, macs))
        }
    };
    let macs = with_session(target, address, |session| {
        ask_macs(session, "use the MAC mask list", request)
    })?;
    print_macs(target, address, macs, "everybody is admitted")
}

pub(in crate::cli) fn reserve(args: &ReserveArgs) -> Result<Exit> {
    let (address, target, request) = match &args.action {
        ReserveAction::Show { address, target } => (*address, target, Request::ReserveRead),
        ReserveAction::Set { address, macs, target } => (*address, target, hold(macs, false)),
        ReserveAction::Force { address, macs, target } => (*address, target, hold(macs, true)),
        ReserveAction::Release { address, target } => (*address, target, hold(&[], false)),
    };
    let macs =
        with_session(target, address, |session| ask_macs(session, "use the reservation", request))?;
    print_macs(target, address, macs, "not reserved")
}

fn change(command: ConfigCommand, string: &str) -> Request<Vec<u8>> {
    Request::Config { command, string: string.as_bytes().to_vec() }
}

fn edit(command: DirectiveCommand, macs: &[Mac]) -> Request<Vec<u8>> {
    let directive = |mac: &Mac| Directive { command, mac: *mac }.to_bytes();
    Request::MaskEdit { directives: macs.iter().flat_map(directive).collect() }
}

fn hold(macs: &[Mac], force: bool) -> Request<Vec<u8>> {
    Request::ReserveSet { macs: macs.iter().flat_map(|mac| mac.0).collect(), force }
}

fn ask_macs(session: &mut Session<'_>, op: &str, request: Request<Vec<u8>>) -> Result<Vec<Mac>> {
    let macs_of = |completion: Completion<'_, Vec<u8>>| match completion.result? {
        Answer::Mask(directives) => Ok(directives.map(|directive| directive.mac).collect()),
        Answer::Reserve(macs) => Ok(macs.collect()),
        _ => Err(Failure::Malformed),
    };
    session.ask(op, request, macs_of)
}

fn print_macs(target: &TargetArgs, address: Address, macs: Vec<Mac>, none: &str) -> Result<Exit> {
    if target.json {
        print_json(&MacList { address, macs })?;
    } else if macs.is_empty() {
        print_line(none)?;
    } else {
        print_line(&macs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Exit::Success)
}

/// "Config string present" is a refusal by somebody, not a failure of something.
fn explain_refusal(error: HostError, op: &str, address: Address) -> HostError {
    let refused = Failure::Aoe(AoeError::ConfigStringPresent).to_string();
    if error.context().detail.as_deref() == Some(&refused) {
        return HostError::new(ErrorKind::AlreadyExists, op)
            .export(address)
            .detail("another one is set")
            .advice("`config get` prints it, `config force` replaces it");
    }
    error
}
