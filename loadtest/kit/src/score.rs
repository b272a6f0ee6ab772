//! Records of trials, from which docs/SCORECARD.md is made.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A flag for a file of records.
#[derive(Debug, Clone, Default, Args)]
pub struct ScoreArgs {
    /// Append records of the trials to this file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
}

/// How many trials of a kind were made, and how many were lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// The kind of trial. A later record of the same kind replaces an earlier one.
    pub what: String,
    /// Trials.
    pub tried: u64,
    /// Trials that failed.
    pub lost: u64,
}

/// A score, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The score.
    #[serde(flatten)]
    pub score: Score,
    /// The command that made it, without directories.
    pub command: String,
    /// The day in UTC, as `2006-01-02`.
    pub date: String,
}

impl ScoreArgs {
    /// Appends scores of the command that runs, if a file was named.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, scores: impl IntoIterator<Item = Score>) -> anyhow::Result<()> {
        let Some(path) = &self.scores else { return Ok(()) };
        let (command, date) = (command(std::env::args(), path), Timestamp::now().strftime("%F").to_string());
        let mut lines = String::new();
        for score in scores {
            let record = Record { score, command: command.clone(), date: date.clone() };
            lines += &(serde_json::to_string(&record)? + "\n");
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .with_context(|| format!("write {}", path.display()))
    }
}

/// The command line without `--scores`, and without directories.
fn command(args: impl Iterator<Item = String>, scores: &Path) -> String {
    let scores = scores.display().to_string();
    let is_ours = |arg: &String| *arg == "--scores" || *arg == scores || *arg == format!("--scores={scores}");
    let name = |arg: String| match arg.rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => arg,
    };
    args.filter(|arg| !is_ours(arg)).map(name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_written_as_a_reader_types_it() {
        let args = ["/x/badnet", "cut", "--scores", "/y/s.jsonl", "up", "--scores=/y/s.jsonl", "--strict"];
        let args = args.into_iter().map(str::to_owned);
        assert_eq!(command(args, Path::new("/y/s.jsonl")), "badnet cut up --strict");
    }

    #[test]
    fn records_are_appended_as_lines() {
        let dir = tempfile::tempdir().unwrap();
        let args = ScoreArgs { scores: Some(dir.path().join("scores")) };
        let score = |what: &str| Score { what: what.to_owned(), tried: 3, lost: 1 };
        args.write([score("a")]).unwrap();
        args.write([score("b")]).unwrap();
        let text = std::fs::read_to_string(dir.path().join("scores")).unwrap();
        let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            records.iter().map(|record| &record.score).collect::<Vec<_>>(),
            [&score("a"), &score("b")]
        );
        assert_eq!(records[0].date.len(), "2006-01-02".len());
    }
}
