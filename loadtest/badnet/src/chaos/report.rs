//! The table, the figures as JSON, and the scores.

use std::path::Path;

use measuring_kit::{Score, ScoreArgs, say, write_json};
use serde::Serialize;

use super::judge::Row;

/// Memory and files of the server.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Usage {
    /// Resident memory, in MiB.
    pub(crate) memory_mb: f64,
    pub(crate) files: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) rows: Vec<Row>,
    /// Before the first canary, and after the last.
    pub(crate) before: Usage,
    pub(crate) after: Usage,
}

impl Report {
    /// Whether an event has done harm that it should not.
    pub(crate) fn is_bad(&self) -> bool {
        self.keeps_files() || self.rows.iter().any(|row| row.lost > 0 || !row.faults.is_empty())
    }

    fn keeps_files(&self) -> bool {
        self.after.files > self.before.files
    }

    pub(crate) fn deliver(&self, json: Option<&Path>, scores: &ScoreArgs) -> anyhow::Result<()> {
        say("| event | s | canaries | may end | ended | lost | dials | failed | elsewhere | dials back s | \
             others' gap s | server MiB | files | |");
        say("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|");
        for row in &self.rows {
            say(&line(row, self.after));
        }
        let Self { before, after, .. } = self;
        say(&format!(
            "server before and after all canaries: {:.1} and {:.1} MiB, {} and {} files",
            before.memory_mb, after.memory_mb, before.files, after.files
        ));
        for row in &self.rows {
            let name = row.event.map_or("the end", |kind| kind.what());
            row.failure.iter().for_each(|why| say(&format!("{name}: first failed dial: {why}")));
            row.faults.iter().for_each(|fault| say(&format!("{name}: {fault}")));
        }
        if self.keeps_files() {
            say("the server does not close its files");
        }
        if let Some(path) = json {
            write_json(path, self)?;
        }
        scores.write(self.rows.iter().filter_map(score))
    }
}

fn line(row: &Row, after: Usage) -> String {
    let usage = row.usage.unwrap_or(after);
    format!(
        "| {} | {:.1} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {} | {} |",
        row.event.map_or("the end", |kind| kind.what()),
        row.seconds,
        row.canaries,
        row.may_end,
        row.ended,
        row.lost,
        row.dials,
        row.failed,
        row.failed_elsewhere,
        row.back_s.map_or_else(|| "-".to_owned(), |back| format!("{back:.1}")),
        row.gap_s,
        usage.memory_mb,
        usage.files,
        row.note.as_deref().unwrap_or_default(),
    )
}

/// An event that did not happen has none.
fn score(row: &Row) -> Option<Score> {
    let kind = row.event?;
    if row.missing {
        return None;
    }
    let tried = (row.canaries - row.may_end) as u64;
    Some(Score { what: format!("canaries: {}", kind.what()), tried, lost: row.lost as u64 })
}
