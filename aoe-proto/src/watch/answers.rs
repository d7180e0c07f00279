//! What an answer is: to which request it belongs, and what it tells about its target.

use super::answer::{self, STATUS_ERR, Said};
use super::exchange::{Asked, Exchange, State};
use super::request::length;
use super::rule::{Detail, Judge, Rule};
use super::{Advertised, Captured, InitiatorRecord, Kind, TargetRecord, Watch, page, pair, record};
use crate::ata::command::AtaCommand;
use crate::ata::identify::Page;
use crate::sectors::SECTOR_BYTES;
use crate::wire::{Address, AtaArg, Header, Mac};

impl Watch<'_> {
    pub(super) fn answer(
        &mut self,
        header: &Header,
        argument: &[u8],
        captured: &Captured<'_>,
        young: bool,
        judge: &mut Judge<'_>,
    ) -> Kind {
        let said = answer::check(header, argument, captured, self.config.mtu, judge);
        let exact = header.address.exact();
        let paired = self.pair(header, captured);
        if paired.is_none() && self.is_forged(header, captured) {
            return self.unmatched(header, &said, captured, young, judge);
        }
        let disk_sectors = self.told(header, captured, &said, judge);
        let Some((exchange, before)) = paired else {
            return self.unmatched(header, &said, captured, young, judge);
        };
        pair::check(header, &said, &exchange, captured, disk_sectors, judge);
        if let Some(page) = pair::identify_page(&said, &exchange) {
            self.identified(captured.vlan, exact, page, header.dst, judge);
        }
        let after_ns = captured.at_ns.saturating_sub(exchange.sent_last_ns);
        let duplicate = exchange.answers > exchange.sends && exchange.address.exact().is_some();
        judge.flag(duplicate, Rule::DuplicateAnswer);
        let kind = match before {
            _ if duplicate => Kind::DuplicateAnswer,
            State::Superseded | State::Closed => Kind::LateAnswer { after_ns },
            State::Waiting | State::Answered => Kind::Answer { after_ns },
        };
        if before == State::Waiting {
            self.leave(exchange.vlan, exchange.address.exact());
        }
        self.count_answer(header, &said, &exchange, kind);
        kind
    }

    /// The request that an answer belongs to, as it is now, and its state before.
    fn pair(&mut self, header: &Header, captured: &Captured<'_>) -> Option<(Exchange, State)> {
        let exact = header.address.exact();
        let rank = |e: &Exchange| (e.state == State::Waiting, e.sent_last_ns);
        let found = self
            .exchanges
            .with_tag(captured.vlan, header.dst, header.tag)
            .filter(|e| exact.map_or(e.address == header.address, |a| e.address.matches(a)))
            .max_by_key(|e| (e.command == header.command, rank(e)))?;
        // An unsolicited answer carries tag 0, and so does Linux's last discovery.
        let age = captured.at_ns.saturating_sub(found.sent_last_ns);
        let over = match found.address.exact() {
            Some(_) => found.state != State::Waiting && found.answers >= found.sends,
            None => age > self.config.lost_after_ns,
        };
        if over && answer::is_advertisement(header) {
            return None;
        }
        let before = found.state;
        found.answers = found.answers.saturating_add(1);
        if found.address.exact().is_some() && matches!(before, State::Waiting) {
            found.state = State::Answered;
        }
        Some((*found, before))
    }

    /// Whether an answer that belongs to no request comes from a machine that asks: it is no second
    /// server, but somebody who examines the target, or who sends its own requests back.
    pub(super) fn is_forged(&self, header: &Header, captured: &Captured<'_>) -> bool {
        let vlan = captured.vlan;
        let asks = |record: &InitiatorRecord| {
            let key = record.key == Some((vlan, header.src));
            key && record.traffic.requests.total() > 0
        };
        let serves = |record: &TargetRecord| {
            let key = record
                .key
                .is_some_and(|(on, address)| on == vlan && header.address.exact() == Some(address));
            key && record.answerers().any(|answerer| answerer.mac == header.src)
        };
        !answer::is_advertisement(header)
            && self.initiators.iter().any(asks)
            && !self.targets.iter().any(serves)
    }

    /// Remembers what a target says about itself, and who speaks for it. Tells its disk's size.
    fn told(
        &mut self,
        header: &Header,
        captured: &Captured<'_>,
        said: &Said<'_>,
        judge: &mut Judge<'_>,
    ) -> Option<u64> {
        let address = header.address.exact()?;
        let Some(record) = record::target(self.targets, (captured.vlan, address)) else {
            self.unrecorded = self.unrecorded.saturating_add(1);
            return None;
        };
        if let Some(other) = record.answered_by(header.src) {
            judge.say(Rule::DuplicateAddress, Detail::Machine(other));
        }
        if let Said::Config { arg, .. } = said {
            record.advertised = Some(Advertised {
                buffer_count: arg.buffer_count,
                sector_count: arg.sector_count,
                firmware: arg.firmware,
            });
        }
        // Another initiator may see another disk at the same address.
        record.identified.filter(|page| page.initiator == header.dst).map(|page| page.sectors)
    }

    fn identified(
        &mut self,
        vlan: u16,
        address: Option<Address>,
        page: &Page,
        initiator: Mac,
        judge: &mut Judge<'_>,
    ) {
        let new = page::check(page, initiator, judge);
        let Some(address) = address else { return };
        let key = Some((vlan, address));
        if let Some(own) = self.targets.iter().find(|record| record.key == key) {
            page::compare_serials(self.targets, own, &new, judge);
        }
        if let Some(record) = self.targets.iter_mut().find(|record| record.key == key) {
            if let Some(old) = record.identified {
                page::compare(&old, &new, judge);
            }
            record.identified = Some(new);
        }
    }

    /// What may have gone wrong with an answer that belongs to no request.
    fn unmatched(
        &mut self,
        header: &Header,
        said: &Said<'_>,
        captured: &Captured<'_>,
        young: bool,
        judge: &mut Judge<'_>,
    ) -> Kind {
        let config = matches!(said, Said::Config { .. });
        if config && answer::is_advertisement(header) {
            return Kind::Advertisement;
        }
        if self.is_forged(header, captured) {
            let key = (captured.vlan, header.src);
            if let Some(record) = record::initiator(self.initiators, key) {
                record.traffic.unmatched = record.traffic.unmatched.saturating_add(1);
            }
        } else if let Some(address) = header.address.exact()
            && let Some(record) = record::target(self.targets, (captured.vlan, address))
        {
            record.traffic.unmatched = record.traffic.unmatched.saturating_add(1);
        }
        let key = Some((captured.vlan, header.dst));
        let asks = self.initiators.iter().any(|record| record.key == key);
        let grace_ns = self.config.grace_ns;
        let recent = |at_ns: u64| captured.at_ns.saturating_sub(at_ns) < grace_ns;
        let gapped = self.missed_ns.is_some_and(recent);
        match self.astray(header, said, captured) {
            // Perhaps its own request was not heard, and another one waits.
            Some((Rule::WrongTag, _)) if gapped => {}
            Some((rule, detail)) => judge.say(rule, detail),
            None if young || gapped => {}
            None if asks => judge.flag(true, Rule::AnswerWithoutRequest),
            None => judge.flag(true, Rule::AnswerToStranger),
        }
        Kind::UnmatchedAnswer
    }

    /// Looks for the waiting request that an answer was meant for.
    fn astray(
        &mut self,
        header: &Header,
        said: &Said<'_>,
        captured: &Captured<'_>,
    ) -> Option<(Rule, Detail)> {
        let registers = match said {
            Said::Ata { arg, .. } => Some(arg.lba),
            _ => None,
        };
        let mut best = None;
        for request in self.exchanges.all() {
            if request.initiator != header.dst || request.state != State::Waiting {
                continue;
            }
            let here = request.vlan == captured.vlan;
            let same_tag = request.tag == header.tag;
            let same_address = header.address.exact().is_some_and(|a| request.address.matches(a));
            let same_registers = match (request.asked, registers) {
                (Asked::Ata(AtaArg { lba, .. }), Some(answered)) => lba == answered,
                _ => request.command == header.command,
            };
            let queried = request.tag.0 == [0; 4];
            let found = match (here, same_tag, same_address) {
                (false, true, true) => (
                    Rule::VlanCrossed,
                    Detail::Expected { found: captured.vlan.into(), expected: request.vlan.into() },
                ),
                (true, true, false) if !queried => {
                    (Rule::WrongAddress, Detail::Address(request.address))
                }
                (true, false, true) if same_registers && request.command == header.command => {
                    let [found, expected] =
                        [header.tag, request.tag].map(|tag| u32::from_be_bytes(tag.0));
                    let detail =
                        Detail::Expected { found: found.into(), expected: expected.into() };
                    (Rule::WrongTag, detail)
                }
                _ => continue,
            };
            best = best.or(Some(found));
        }
        best
    }

    fn count_answer(&mut self, header: &Header, said: &Said<'_>, exchange: &Exchange, kind: Kind) {
        let failed = match said {
            Said::Ata { arg, .. } => arg.command_status & STATUS_ERR != 0,
            _ => false,
        };
        let moved = match exchange.asked {
            Asked::Ata(arg) if !failed && header.error.is_none() => {
                let bytes = length(usize::from(arg.count).saturating_mul(SECTOR_BYTES));
                match AtaCommand::decode(arg.command_status) {
                    AtaCommand::Read(_) => (bytes, 0),
                    AtaCommand::Write { .. } => (0, bytes),
                    _ => (0, 0),
                }
            }
            _ => (0, 0),
        };
        let refused = header.error.is_some();
        if let Some(address) = header.address.exact()
            && let Some(record) = record::target(self.targets, (exchange.vlan, address))
            && let Some(answerer) = record.answerer(header.src)
        {
            answerer.aoe_errors = answerer.aoe_errors.saturating_add(refused.into());
            answerer.ata_errors = answerer.ata_errors.saturating_add(failed.into());
        }
        let once = exchange.sends == 1;
        self.count(exchange.vlan, exchange.initiator, header.address.exact(), |traffic| {
            traffic.answers = traffic.answers.saturating_add(1);
            let counter = match kind {
                Kind::DuplicateAnswer => &mut traffic.duplicates,
                Kind::LateAnswer { .. } => &mut traffic.late,
                Kind::Answer { after_ns } => {
                    if once {
                        traffic.latency.record(after_ns);
                    }
                    traffic.bytes_read = traffic.bytes_read.saturating_add(moved.0);
                    traffic.bytes_written = traffic.bytes_written.saturating_add(moved.1);
                    &mut 0
                }
                _ => &mut 0,
            };
            *counter = counter.saturating_add(1);
            if refused {
                traffic.aoe_errors = traffic.aoe_errors.saturating_add(1);
            }
            if failed {
                traffic.ata_errors = traffic.ata_errors.saturating_add(1);
            }
        });
    }
}
