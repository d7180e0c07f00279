//! Every `cowblade` command line in the documents is one that the program understands.

use std::path::Path;

use aoe_host::cli::{Cli, Command};
use clap::Parser;
use clap::error::ErrorKind;

/// `docs/CLI.md` has a test of its own, beside the command line.
const DOCUMENTS: [&str; 5] =
    ["README.md", "CHANGELOG.md", "docs/BOOTING.md", "docs/DESIGN.md", "docs/THREAT-MODEL.md"];

/// Words that stand for something the reader knows, and what they might be.
const PLACEHOLDERS: [(&str, &str); 2] = [("MAC", "52:54:00:12:34:56"), ("NAME", "lab1")];

/// Command lines: in fenced parts marked `console`, and between backticks.
fn command_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fence = None;
    // A span between backticks may go over the end of a line, but not out of its paragraph.
    let mut prose = String::new();
    for line in text.lines() {
        match (line.strip_prefix("```"), fence) {
            (Some(mark), None) => fence = Some(mark),
            (Some(_), Some(_)) => fence = None,
            (None, Some("console")) => {
                lines.extend(line.split("&&").map(|part| part.trim().to_owned()));
            }
            (None, Some(_)) => {}
            (None, None) if line.is_empty() => prose.push('\n'),
            (None, None) => {
                prose.push_str(line);
                prose.push(' ');
            }
        }
    }
    for paragraph in prose.lines() {
        lines.extend(paragraph.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    let commands = lines.iter().filter_map(|line| {
        let line = line.strip_prefix("sudo ").unwrap_or(line);
        let line = line.split(" # ").next().unwrap_or(line).trim();
        line.starts_with("cowblade ").then(|| line.to_owned())
    });
    // The shell's way to say that a line goes on is not used in these documents.
    commands.collect()
}

fn check(document: &str, line: &str) {
    let words = line.split_whitespace().map(|word| {
        let known = PLACEHOLDERS.iter().find(|(placeholder, _)| *placeholder == word);
        known.map_or(word, |(_, example)| example)
    });
    match Cli::try_parse_from(words) {
        Ok(Cli { command: Command::Serve(args) }) if args.config.is_none() => {
            args.resolve().unwrap_or_else(|error| panic!("{document}: {line}: {error}"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {}
        // A command that is only mentioned by its name.
        Err(error)
            if error.kind() == ErrorKind::MissingRequiredArgument
                && line.split_whitespace().count() == 2 => {}
        Err(error) => panic!("{document}: {line}: {error}"),
    }
}

#[test]
fn every_command_line_in_the_documents_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for line in command_lines(&text) {
            if line == "cowblade serve" {
                continue; // the name of the command
            }
            check(document, &line);
        }
    }
}

#[test]
fn command_lines_are_found() {
    let text = "One `cowblade ping` and `cowblade\nserve x`.\n\n```console\nsudo cowblade a    # why\n\
                make && cowblade b\n```\n```text\ncowblade c\n```\n";
    assert_eq!(
        command_lines(text),
        ["cowblade a", "cowblade b", "cowblade ping", "cowblade serve x"]
    );
}

#[test]
#[should_panic(expected = "no-such-option")]
fn a_wrong_command_line_is_noticed() {
    check("none", "cowblade serve golden.img -i eth0 --no-such-option");
}
