//! From what was typed to the plan of a run.

use core::time::Duration;

use aoe_proto::conformance::{ALL, Facts, Needs, RunConfig, Timing, Window, matches};

use super::{ChoiceArgs, ConformArgs, PermitArgs, SecondMac, StateWord, TimingArgs, WindowWord};
use crate::conform::Choice;
use crate::error::{ErrorKind, HostError, Result};
use crate::link::probe::Probe;
use crate::values::{Address, Mac};

/// Which cases are wanted.
///
/// # Errors
/// `Usage` if a pattern fits no case at all, or all of them together leave none.
pub(super) fn choose(args: &ChoiceArgs) -> Result<Choice> {
    for pattern in args.case.iter().chain(&args.except) {
        let fits = ALL.iter().copied().flatten().any(|case| matches(pattern, case.id));
        if !fits {
            return Err(HostError::usage(
                format!("find cases like {pattern}"),
                "no case has such a name",
            )
            .advice("`cowblade conform --list` shows all"));
        }
    }
    let choice = Choice {
        ids: args.case.clone(),
        except: args.except.clone(),
        topics: args.topic.clone(),
        least: args.severity.into(),
    };
    if choice.cases().is_empty() {
        return Err(HostError::usage("find cases", "no case has all the properties asked for"));
    }
    Ok(choice)
}

/// What is known before anybody is asked.
///
/// # Errors
/// `Usage` if addresses collide, and what the system says to a random number.
pub(super) fn config(args: &ConformArgs, address: Address, probe: &Probe) -> Result<RunConfig> {
    // Everybody on the loopback interface has the address 0: to be told apart we need another.
    let own = if probe.is_loopback() { second_of(Mac([2, 0, 0, 0, 0, 0])) } else { probe.mac() };
    let second = match args.permit.second_mac {
        Some(SecondMac::Auto) => Some(second_of(own)),
        Some(SecondMac::Is(mac)) => Some(mac),
        None => None,
    };
    if second == Some(own) {
        return Err(HostError::usage("use --second-mac", "it is the interface's own address"));
    }
    let mtu = u16::try_from(probe.mtu()).unwrap_or(u16::MAX - MTU_ROOM);
    Ok(RunConfig {
        second_mac: second,
        tag_seed: args.timing.seed.map_or_else(random_seed, Ok)?,
        timing: timing(&args.timing),
        ..RunConfig::new(address, own, mtu.min(u16::MAX - MTU_ROOM))
    })
}

/// Headers and a VLAN tag have to fit 16 bits, too.
const MTU_ROOM: u16 = 64;

fn timing(args: &TimingArgs) -> Timing {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Timing {
        answer_ms: ms(args.answer_time).max(1),
        tries: args.tries,
        grace_ms: ms(args.grace_time),
        silence_ms: ms(args.silence_time),
        advertisement_ms: ms(args.advertisement_time),
    }
}

/// Late answers to an earlier run must not match; it takes no more than that.
fn random_seed() -> Result<u32> {
    use rustix::rand::{GetRandomFlags, getrandom};

    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(|errno| HostError::io(errno.into(), "choose tags"))?;
    Ok(u32::from_be_bytes(bytes))
}

/// Another address like `mac`, locally administered.
fn second_of(mac: Mac) -> Mac {
    let [first, .., last] = mac.0;
    let mut second = mac;
    second.0[0] = first & 0xfe | 0x02;
    second.0[5] = last ^ 0x5c;
    second
}

/// Where writes are permitted, now that the size of the disk is known.
///
/// # Errors
/// `Usage` if it lies beyond the end of the disk.
pub(super) fn window(word: Option<WindowWord>, facts: &Facts) -> Result<Option<Window>> {
    let Some(word) = word else { return Ok(None) };
    let Some(size) = facts.sectors else {
        return Err(HostError::new(ErrorKind::Protocol, "use --write-window")
            .detail("the target does not tell the size of its disk"));
    };
    let (lba, sectors) = match word {
        WindowWord::At(lba, sectors) => (Some(lba), sectors),
        WindowWord::End(sectors) => (size.checked_sub(sectors.into()), sectors),
    };
    let end = lba.and_then(|lba| lba.checked_add(sectors.into()));
    match (lba, end) {
        (Some(lba), Some(end)) if end <= size => Ok(Some(Window { lba, sectors })),
        _ => Err(HostError::usage("use --write-window", format!("the disk has {size} sectors"))),
    }
}

/// What may be done.
pub(super) fn permitted(permit: &PermitArgs, probe: &Probe) -> Needs {
    let mut needs = Needs::OFFERS | Needs::JUMBO;
    let mut add = |wanted: bool, what: Needs| {
        if wanted {
            needs = needs | what;
        }
    };
    let state = |word| permit.state.contains(&word) || permit.state.contains(&StateWord::All);
    add(state(StateWord::Config), Needs::CONFIG);
    add(state(StateWord::Mask), Needs::MASK);
    add(state(StateWord::Reservation), Needs::RESERVATION);
    add(permit.write_window.is_some(), Needs::WRITES);
    add(permit.beyond_end, Needs::BEYOND_END);
    add(permit.second_mac.is_some(), Needs::SECOND_MAC);
    add(permit.forge, Needs::FORGERY);
    add(permit.vlan, Needs::VLAN);
    add(!permit.no_broadcast, Needs::BROADCAST);
    add(permit.interactive || !permit.action.is_empty(), Needs::ACTION);
    add(permit.short_frames.unwrap_or_else(|| probe.keeps_short_frames()), Needs::SHORT_FRAMES);
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_address_is_another_one_that_nobody_was_given() {
        for mac in [[0x52, 0x54, 0, 0x12, 0x34, 0x56], [2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]] {
            let second = second_of(Mac(mac));
            assert!(second.is_unicast() && second != Mac(mac));
            assert_eq!(second.0[0] & 3, 2, "{second}");
        }
    }
}
