//! What a request is: new, sent again with its own tag or another one, or a stale copy.

use super::exchange::{Asked, Exchange, Hash, State};
use super::record::{self, RequestCounts};
use super::request;
use super::rule::{Judge, Rule};
use super::{Captured, Kind, Watch, WatchConfig};
use crate::ata::command::AtaCommand;
use crate::wire::{AddressPattern, Command, Header};

impl Watch<'_> {
    pub(super) fn request(
        &mut self,
        header: &Header,
        argument: &[u8],
        captured: &Captured<'_>,
        judge: &mut Judge<'_>,
    ) -> Kind {
        let exact = header.address.exact();
        let known = exact.and_then(|address| {
            let key = Some((captured.vlan, address));
            self.targets.iter().find(|record| record.key == key)
        });
        let sectors_max = known.and_then(|record| record.advertised).map(|a| a.sectors_max());
        let verdict = request::check(header, argument, captured, sectors_max, judge);
        let mut new = Exchange {
            vlan: captured.vlan,
            initiator: header.src,
            dst: header.dst,
            tag: header.tag,
            address: header.address,
            command: header.command,
            asked: verdict.asked,
            content: content(header, argument),
            flaw: verdict.flaw,
            target_known: known.is_some_and(|record| record.answerers().next().is_some()),
            version: header.version,
            sent_first_ns: captured.at_ns,
            sent_last_ns: captured.at_ns,
            sends: 1,
            copies: 1,
            answers: 0,
            state: State::Waiting,
        };
        let kind = self.same_tag(&new, judge).unwrap_or_else(|| {
            let kind = self.new_tag(&mut new);
            self.start(new, kind, judge);
            kind
        });
        self.count(captured.vlan, header.src, exact, |traffic| match kind {
            Kind::Request => count_request(&mut traffic.requests, &new),
            Kind::Resent { .. } => traffic.resent = traffic.resent.saturating_add(1),
            _ => {}
        });
        kind
    }

    /// Looks for the request under its own tag; `None` if it is new there.
    fn same_tag(&mut self, new: &Exchange, judge: &mut Judge<'_>) -> Option<Kind> {
        let WatchConfig { twin_ns, lost_after_ns, .. } = self.config;
        let mut reused = false;
        let mut kind = None;
        let mut answered_at = None;
        for old in self.exchanges.with_tag(new.vlan, new.initiator, new.tag) {
            let after_ns = new.sent_first_ns.saturating_sub(old.sent_last_ns);
            let same = old.content == new.content;
            // Discovery uses one tag for ever.
            let query = old.command == Command::Config && new.command == Command::Config;
            reused |= !same && !query && old.state == State::Waiting;
            if !same {
                continue;
            }
            // An answer in between makes it another request, however soon it comes.
            let unanswered = old.state == State::Waiting && old.answers == 0;
            if unanswered && after_ns < twin_ns {
                kind = Some(Kind::Twin);
            } else if old.state == State::Waiting && old.address.exact().is_some() {
                old.sends = old.sends.saturating_add(1);
                old.copies = old.copies.saturating_add(1);
                old.sent_last_ns = new.sent_first_ns;
                kind = Some(Kind::Resent { same_tag: true, after_ns, sends: old.copies });
            } else if old.state != State::Waiting && !query && after_ns < lost_after_ns {
                old.sends = old.sends.saturating_add(1);
                answered_at = Some(old.sent_last_ns);
                old.sent_last_ns = new.sent_first_ns;
                kind = Some(Kind::Repeated { after_ns });
            } else {
                // A new round of a discovery, or a counter that came round.
                old.state = State::Closed;
            }
        }
        judge.flag(reused, Rule::TagReused);
        judge.flag(kind == Some(Kind::Twin), Rule::TwinFrame);
        if let Some(answered_at) = answered_at {
            self.stale_write(new, answered_at, judge);
        }
        kind
    }

    /// An answered write that comes again behind a newer one. `[AoE 9 item 1]`
    fn stale_write(&mut self, new: &Exchange, since_ns: u64, judge: &mut Judge<'_>) {
        let Some(range) = written(new) else { return };
        let newer = self.exchanges.all().any(|other| {
            other.sent_last_ns > since_ns
                && other.content != new.content
                && (other.vlan, other.initiator, other.address)
                    == (new.vlan, new.initiator, new.address)
                && written(other).is_some_and(|o| o.start < range.end && range.start < o.end)
        });
        judge.flag(newer, Rule::StaleWrite);
    }

    /// Looks for the request under another tag: Linux retransmits with new ones. `[AoE 2.6]`
    fn new_tag(&mut self, new: &mut Exchange) -> Kind {
        let found = self.exchanges.tag_of(new.vlan, new.initiator, new.content);
        let Some(tag) = found.filter(|tag| *tag != new.tag) else { return Kind::Request };
        let age = |old: &Exchange| new.sent_first_ns.saturating_sub(old.sent_last_ns);
        let resend_min_ns = self.config.resend_min_ns;
        let old = self.exchanges.with_tag(new.vlan, new.initiator, tag).find(|old| {
            let waiting = old.state == State::Waiting && old.content == new.content;
            waiting && old.address.exact().is_some() && age(old) >= resend_min_ns
        });
        let Some(old) = old else { return Kind::Request };
        old.state = State::Superseded;
        let after_ns = age(old);
        new.copies = old.copies.saturating_add(1);
        let kind = Kind::Resent { same_tag: false, after_ns, sends: new.copies };
        self.leave(new.vlan, new.address.exact());
        kind
    }

    /// Remembers a request that waits from now on.
    fn start(&mut self, new: Exchange, kind: Kind, judge: &mut Judge<'_>) {
        if let Some(old) = self.exchanges.insert(new) {
            self.forgotten = self.forgotten.saturating_add(1);
            self.leave(old.vlan, old.address.exact());
        }
        let Some(address) = new.address.exact() else { return };
        let Some(record) = record::target(self.targets, (new.vlan, address)) else { return };
        record.outstanding = record.outstanding.saturating_add(1);
        let Some(advertised) = record.advertised else { return };
        let limit = u32::from(advertised.buffer_count);
        if record.outstanding > limit && !record.over_window && kind == Kind::Request {
            record.over_window = true;
            judge.expected(true, Rule::WindowExceeded, record.outstanding, limit);
        } else if record.outstanding <= limit / 2 {
            record.over_window = false;
        }
    }
}

fn count_request(counts: &mut RequestCounts, request: &Exchange) {
    let counter = match request.asked {
        Asked::Ata(arg) => match AtaCommand::decode(arg.command_status) {
            AtaCommand::Read(_) => &mut counts.read,
            AtaCommand::Write { .. } => &mut counts.write,
            AtaCommand::Identify => &mut counts.identify,
            AtaCommand::Flush => &mut counts.flush,
            _ => &mut counts.ata_other,
        },
        _ => match request.command {
            Command::Ata => &mut counts.ata_other,
            Command::Config => &mut counts.config,
            Command::MacMask => &mut counts.mask,
            Command::Reserve => &mut counts.reserve,
            Command::Other(_) => &mut counts.other,
        },
    };
    *counter = counter.saturating_add(1);
}

/// The sectors that a sound write covers.
fn written(request: &Exchange) -> Option<core::ops::Range<u64>> {
    let Asked::Ata(arg) = request.asked else { return None };
    let AtaCommand::Write { width, .. } = AtaCommand::decode(arg.command_status) else {
        return None;
    };
    let lba = width.lba(&arg)?;
    Some(lba..lba.saturating_add(u64::from(arg.count)))
}

/// What makes two requests of one initiator the same, whatever their tags.
fn content(header: &Header, argument: &[u8]) -> u64 {
    let AddressPattern { shelf, slot } = header.address;
    let mut hash = Hash::new();
    let code = u8::from(header.command);
    hash.number(u64::from(shelf) << 16 | u64::from(slot) << 8 | u64::from(code));
    hash.bytes(argument);
    hash.finish()
}
