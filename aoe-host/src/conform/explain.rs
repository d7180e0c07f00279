//! What a case does, in words.

use aoe_proto::ata::command;
use aoe_proto::conformance::{
    ALL, Answer, Argument, Ata, Case, Cut, Data, Exchange, Needs, Part, Proof, Shape, Step,
    Stimulus, Tail, Who,
};

/// The case called `id`.
pub fn find_case(id: &str) -> Option<&'static Case> {
    ALL.iter().copied().flatten().find(|case| case.id == id)
}

/// What a case needs, in words that resemble the options that permit it.
pub fn needs_words(needs: Needs) -> Vec<&'static str> {
    const WORDS: [(Needs, &str); 15] = [
        (Needs::WRITES, "window"),
        (Needs::CONFIG, "config"),
        (Needs::MASK, "mask"),
        (Needs::RESERVATION, "reservation"),
        (Needs::BEYOND_END, "beyond-end"),
        (Needs::SECOND_MAC, "second-mac"),
        (Needs::FORGERY, "forge"),
        (Needs::VLAN, "vlan"),
        (Needs::ACTION, "action"),
        (Needs::BROADCAST, "broadcast"),
        (Needs::JUMBO, "jumbo"),
        (Needs::SHORT_FRAMES, "short-frames"),
        (Needs::LBA48, "lba48"),
        (Needs::TRIM, "trim"),
        (Needs::SMART, "smart"),
    ];
    WORDS.iter().filter(|(need, _)| needs.contains(*need)).map(|(_, word)| *word).collect()
}

/// Everything about a case.
pub fn explain(case: &Case) -> String {
    let mut lines = vec![
        format!("{} ({}, {}, [{}])", case.id, case.severity, case.topic.title(), case.section),
        format!("  {}", case.purpose),
        format!("  otherwise: {}", case.consequence),
        format!("  needs: {}", case.needs),
    ];
    for (number, step) in (1..).zip(case.steps) {
        lines.push(String::new());
        lines.push(format!("step {number}: {}", headline(step)));
        explain_step(step, &mut lines);
    }
    lines.join("\n")
}

fn headline(step: &Step) -> String {
    match step {
        Step::Ask(exchange) if exchange.silence.is_some() => {
            format!("ask, or find silence: {}", request(&exchange.send))
        }
        Step::Ask(exchange) => format!("ask: {}", request(&exchange.send)),
        Step::Burst(list) => format!("send {} requests back to back", list.len()),
        Step::Flood { exchange, times } => {
            format!("send back to back, {times} times: {}", request(&exchange.send))
        }
        Step::Silence { send, proof: Proof::Query } => {
            format!("no answer, and a query behind it is answered: {}", request(send))
        }
        Step::Silence { send, proof: Proof::Time } => {
            format!("no answer for a while: {}", request(send))
        }
        Step::Act(action) => format!("the tester: {}", action.instruction()),
        Step::Advertisement { action, .. } => {
            format!("the tester: {}; it advertises itself", action.instruction())
        }
    }
}

fn explain_step(step: &Step, lines: &mut Vec<String>) {
    match step {
        Step::Ask(exchange) | Step::Flood { exchange, .. } => explain_exchange(exchange, lines),
        Step::Burst(list) => {
            for exchange in *list {
                lines.push(format!("  {}", request(&exchange.send)));
                explain_exchange(exchange, lines);
            }
        }
        Step::Advertisement { accept, .. } => explain_answers(accept, lines),
        Step::Silence { .. } | Step::Act(_) => {}
    }
}

fn explain_exchange(exchange: &Exchange, lines: &mut Vec<String>) {
    explain_answers(exchange.accept, lines);
    if let Some(remark) = exchange.silence {
        lines.push(format!("  accepts silence, with a remark: {remark}"));
    }
    if exchange.exactly_once {
        lines.push("  exactly one answer".to_owned());
    }
}

fn explain_answers(accept: &[Answer], lines: &mut Vec<String>) {
    for answer in accept {
        let remark = answer.difference.map_or(String::new(), |why| format!(" (remark: {why})"));
        lines.push(format!("  accepts {}{remark}", answer.label));
        let label_says_it = !matches!(answer.shape, Shape::Any);
        let checks = answer.all_checks().count() - answer.checks.len();
        let skip = if label_says_it { checks } else { 0 };
        lines.extend(answer.all_checks().skip(skip).map(|check| format!("    {check}")));
    }
}

/// A stimulus in words: the request, then everything that is not as usual.
fn request(stimulus: &Stimulus) -> String {
    let mut parts = vec![argument(stimulus)];
    parts.extend(addresses(stimulus));
    parts.extend(header(stimulus));
    match stimulus.tail {
        Tail::Pad => {}
        Tail::None => parts.push("not padded".to_owned()),
        Tail::Junk(len) => parts.push(format!("{len} bytes of junk behind it")),
    }
    match stimulus.cut {
        Cut::Nowhere => {}
        Cut::At(len) => parts.push(format!("cut after {len} bytes")),
        Cut::Short(len) => parts.push(format!("cut {len} bytes before its end")),
    }
    parts.join(", ")
}

fn argument(stimulus: &Stimulus) -> String {
    let count = |name: &str, claims: Option<String>| {
        claims.map_or(String::new(), |claims| format!(" (the {name} says {claims})"))
    };
    match &stimulus.argument {
        Argument::Bytes(bytes) => {
            format!("command {} with {} bytes", stimulus.command, bytes.len())
        }
        Argument::Ata(ata) => ata_words(ata),
        Argument::Config(config) => {
            let name = match config.ccmd & 15 {
                0 => "read".to_owned(),
                1 => "test".to_owned(),
                2 => "test prefix".to_owned(),
                3 => "set if empty".to_owned(),
                4 => "force set".to_owned(),
                other => format!("CCmd {other}"),
            };
            let claims = count("length", config.claims.map(|len| len.to_string()));
            match config.text.len() {
                0 => format!("Query/Config {name}{claims}"),
                len => format!("Query/Config {name}, string of {len} bytes{claims}"),
            }
        }
        Argument::Mask(mask) => {
            let name = match mask.mcmd {
                0 => "read".to_owned(),
                1 => "edit".to_owned(),
                other => format!("MCmd {other}"),
            };
            let claims = count("count", mask.claims.map(|count| count.to_string()));
            format!("MAC mask list {name}, {} directives{claims}", mask.directives.len())
        }
        Argument::Reserve(reserve) => {
            let name = match reserve.rcmd {
                0 => "read".to_owned(),
                1 => "set".to_owned(),
                2 => "force set".to_owned(),
                other => format!("RCmd {other}"),
            };
            let claims = count("count", reserve.claims.map(|count| count.to_string()));
            format!("Reserve/Release {name}, {} addresses{claims}", reserve.holders.len())
        }
    }
}

fn ata_words(ata: &Ata) -> String {
    let name = command::name(ata.opcode)
        .map_or_else(|| format!("ATA opcode 0x{:02x}", ata.opcode), |name| format!("ATA {name}"));
    let data = match ata.data {
        Data::None => String::new(),
        Data::Pattern { seed, sectors } => format!(", {sectors} sectors of pattern {seed}"),
        Data::Zeros { sectors } => format!(", {sectors} sectors of zeros"),
        Data::Trim(ranges) => format!(", {} ranges", ranges.len()),
    };
    let feature = match ata.feature {
        0 => String::new(),
        feature => format!(", feature 0x{feature:02x}"),
    };
    format!(
        "{name}, lba {}, count {}, flags 0x{:02x}{feature}{data}",
        ata.lba, ata.count, ata.flags
    )
}

fn addresses(stimulus: &Stimulus) -> Vec<String> {
    let mut parts = Vec::new();
    if stimulus.to != Who::Target {
        parts.push(format!("to {}", stimulus.to.name()));
    }
    if stimulus.from != Who::Own {
        parts.push(format!("from {}", stimulus.from.name()));
    }
    if let Some(id) = stimulus.vlan {
        parts.push(format!("in VLAN {id}"));
    }
    for (name, part) in [("shelf", stimulus.shelf), ("slot", stimulus.slot)] {
        match part {
            Part::Own => {}
            Part::All => parts.push(format!("every {name}")),
            Part::Other => parts.push(format!("another {name}")),
        }
    }
    parts
}

fn header(stimulus: &Stimulus) -> Vec<String> {
    let mut parts = Vec::new();
    if stimulus.version != 1 {
        parts.push(format!("version {}", stimulus.version));
    }
    if stimulus.flags != 0 {
        parts.push(format!("flags 0x{:x}", stimulus.flags));
    }
    if stimulus.error != 0 {
        parts.push(format!("error byte {}", stimulus.error));
    }
    if let Some(tag) = stimulus.tag {
        parts.push(format!("tag 0x{tag:08x}"));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_can_be_explained() {
        for case in ALL.iter().copied().flatten() {
            let text = explain(case);
            assert!(text.contains(case.purpose) && text.contains("step 1: "), "{text}");
            assert!(!text.contains("  \n"), "{text}");
            assert_eq!(needs_words(case.needs).is_empty(), case.needs == Needs::NONE);
        }
    }

    #[test]
    fn one_case_in_words() {
        let text = explain(find_case("config.set-if-empty.second").unwrap());
        assert!(text.contains("Query/Config force set, string of 3 bytes"), "{text}");
        assert!(text.contains("accepts AoE error 4 (config string present)"), "{text}");
        assert!(text.contains("it shows the string of 3 bytes"), "{text}");
        assert!(text.contains("(remark: the refusal does not show"), "{text}");
        assert!(find_case("config").is_none());
    }
}
