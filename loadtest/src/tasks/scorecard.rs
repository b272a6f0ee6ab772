//! `loadtest scorecard`: the records of trials as a document. A section whose command left no record says so.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{Record, say};

#[derive(Debug, Args)]
pub(crate) struct ScorecardArgs {
    /// Records of trials, one JSON object per line.
    #[arg(value_name = "FILE", default_value = "docs/scorecard.jsonl")]
    records: PathBuf,
}

/// Trials that one command makes.
struct Section {
    title: &'static str,
    /// The command, or its beginning, by which its records are known.
    command: &'static str,
    /// The meaning of a trial, and of a lost one.
    trial: &'static str,
}

/// All trials that there should be.
const SECTIONS: [Section; 9] = [
    Section {
        title: "Bytes of connections that end in every way",
        command: "loadtest matrix",
        trial: "A trial is a connection whose bytes are hashed at both ends. It is lost when a byte is missing, wrong or another\n\
                connection's, or the connection fails.",
    },
    Section {
        title: "Rolling upgrade",
        command: "loadtest roll",
        trial: "Three servers and six agents are replaced one after the other. A trial is a dial, or a stream that ends within the\n\
                drain; it is lost when it fails or a byte is wrong.",
    },
    Section {
        title: "Paths that are cut, one-way, narrow or moved",
        command: "badnet cut",
        trial: "A trial is a network of its own, with a fault of one kind at one time. It is lost when 20 seconds pass without a dial\n\
                that works although a path is left, a stream that can survive ends, or the agent makes more tunnels than its growing\n\
                pauses allow.",
    },
    Section {
        title: "Streams across a blackout, an address change and a NAT rebinding",
        command: "badnet survive",
        trial: "A trial is a stream on QUIC. It is lost when it ends, or a line is lost, repeated or wrong.",
    },
    Section {
        title: "Chaos",
        command: "badnet chaos",
        trial: "A trial is a stream whose every byte both ends know. It is lost when it ends, though its agent was not killed, or a\n\
                byte is wrong.",
    },
    Section {
        title: "Floods",
        command: "loadtest siege",
        trial: "A trial is a stream, dial or join of an agent beside a flood, or a flood. A stream is lost when it ends, is silent\n\
                for ten seconds, or a byte is wrong; a dial or join when it fails; a flood when anything beside it takes too long.\n\
                Memory is lost when a server has a tenth more a minute after all floods than before, and files when it has one more.",
    },
    Section {
        title: "Fuzzing of parsers",
        command: "fuzz/run",
        trial: "A trial is an input of libFuzzer. It is lost when a parser panics or breaks a promise.",
    },
    Section {
        title: "Fuzzing of sessions",
        command: "tunnel-sessions run",
        trial: "A trial is a recorded session that was changed. It is lost when the program under test panics, leaves the peer without\n\
                an end, keeps anything of it, or harms a stream beside it.",
    },
    Section {
        title: "Model of routing",
        command: "HISTORIES=",
        trial: "A trial is a random history of tunnels. It is lost when an answer differs from the model's.",
    },
];

/// Prints the document.
pub(crate) fn run(args: &ScorecardArgs) -> anyhow::Result<bool> {
    let name = args.records.display();
    let text = fs::read_to_string(&args.records).with_context(|| format!("read {name}"))?;
    say(document(&text).with_context(|| format!("{name}"))?.trim_end());
    Ok(true)
}

fn document(records: &str) -> anyhow::Result<String> {
    let records = latest(records)?;
    let mut text = String::from(
        "# Scorecard\n\nHow many trials were made, and how many were lost. The programs append records with\n\
         `--scores docs/scorecard.jsonl`, and `loadtest scorecard` makes this document of them. The latest record of a kind\n\
         counts.\n",
    );
    for Section { title, command, trial } in SECTIONS {
        text += &format!("\n## {title}\n\n{trial}\n\n");
        let of: Vec<_> = records.iter().filter(|record| record.command.starts_with(command)).collect();
        if of.is_empty() {
            text += &format!("Not run: `{command}`\n");
            continue;
        }
        text += "| kind | tried | lost | date | command |\n|---|---:|---:|---|---|\n";
        for Record { score, command, date } in of {
            let (what, tried, lost) = (&score.what, score.tried, score.lost);
            text += &format!("| {what} | {tried} | {lost} | {date} | `{command}` |\n");
        }
    }
    Ok(text)
}

/// The latest record of each kind, in the order of the first ones.
fn latest(records: &str) -> anyhow::Result<Vec<Record>> {
    let mut latest: Vec<Record> = Vec::new();
    for (line, number) in records.lines().zip(1..) {
        let record: Record = serde_json::from_str(line).with_context(|| format!("line {number}"))?;
        let known = |section: &Section| record.command.starts_with(section.command);
        anyhow::ensure!(SECTIONS.iter().any(known), "line {number}: no section for {:?}", record.command);
        match latest.iter_mut().find(|one| one.score.what == record.score.what) {
            Some(earlier) => *earlier = record,
            None => latest.push(record),
        }
    }
    Ok(latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: &str, tried: u64, command: &str) -> String {
        format!(r#"{{"what":"{what}","tried":{tried},"lost":1,"command":"{command}","date":"2026-01-02"}}"#)
    }

    #[test]
    fn the_latest_record_of_a_kind_counts_and_sections_without_any_say_so() {
        let records = [line("up", 7, "badnet cut"), line("up", 9, "badnet cut --strict")].join("\n");
        let text = document(&records).unwrap();
        assert!(text.contains("| up | 9 | 1 | 2026-01-02 | `badnet cut --strict` |"), "{text}");
        assert!(!text.contains("| up | 7 |"), "{text}");
        assert_eq!(text.matches("Not run: ").count(), SECTIONS.len() - 1);
    }

    #[test]
    fn a_record_of_an_unknown_command_is_refused() {
        let error = document(&line("a", 1, "elsewhere")).unwrap_err();
        assert_eq!(error.to_string(), "line 1: no section for \"elsewhere\"");
    }

    #[test]
    fn the_document_is_that_of_its_records() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
        let read = |name: &str| fs::read_to_string(format!("{docs}/{name}")).unwrap();
        assert_eq!(
            document(&read("scorecard.jsonl")).unwrap(),
            read("SCORECARD.md"),
            "`loadtest scorecard >docs/SCORECARD.md` makes it anew"
        );
    }
}
