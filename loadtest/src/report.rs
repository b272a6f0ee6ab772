//! The figures of all scenarios, as a table, in Markdown or plain, and as one JSON object.

use std::fs;
use std::path::Path;

use measuring_kit::{Score, complain, say, write_json};
use serde::Serialize;

use crate::figures::Outcome;
use crate::plan::Plan;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    kernel: String,
    cpus: usize,
    /// None for fleets.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Plan>,
    results: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    frontend: String,
    /// Empty if unknown.
    link: String,
    scenario: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Entry {
    fn column(&self) -> String {
        if self.link.is_empty() { self.frontend.clone() } else { format!("{} {}", self.frontend, self.link) }
    }
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { plan: Some(plan.clone()), ..Self::bare() }
    }

    /// A report without a plan.
    pub(crate) fn bare() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            kernel: kernel(),
            cpus: cpus(),
            plan: None,
            results: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, frontend: &str, link: &str, scenario: &'static str, outcome: Outcome) {
        let (frontend, link) = (frontend.to_owned(), link.to_owned());
        self.results.push(Entry { frontend, link, scenario, outcome });
    }

    /// Prints the table and the failures, and writes the file. False when a check failed.
    pub(crate) fn deliver(&self, json: Option<&Path>, markdown: bool) -> anyhow::Result<bool> {
        let table = self.table();
        say(&self.circumstances());
        say("");
        for line in if markdown { table.markdown() } else { table.plain() } {
            say(&line);
        }
        for entry in &self.results {
            for failure in &entry.outcome.failures {
                complain(&format!("FAILED {} {}: {failure}", entry.column(), entry.scenario));
            }
        }
        if let Some(path) = json {
            write_json(path, self)?;
        }
        Ok(self.results.iter().all(|entry| entry.outcome.failures.is_empty()))
    }

    /// The trials of all entries, with the entries' names.
    pub(crate) fn scores(&self) -> Vec<Score> {
        let mut all = Vec::new();
        for entry in &self.results {
            all.extend(
                entry.outcome.scores.iter().map(|score| Score {
                    what: format!("{}, {}", score.what, entry.column()),
                    ..score.clone()
                }),
            );
        }
        all
    }

    fn circumstances(&self) -> String {
        let (cpus, kernel) = (self.cpus, &self.kernel);
        let text = format!("loadtest {}, {cpus} CPUs, Linux {kernel}", self.version);
        match &self.plan {
            Some(plan) => format!("{text}, {} s per measurement", plan.seconds().as_secs_f64()),
            None => text,
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::default();
        for entry in &self.results {
            for figure in &entry.outcome.figures {
                let label = format!("{}: {}", entry.scenario, figure.name);
                table.put(&label, figure.unit, &entry.column(), number(figure.value));
            }
        }
        table
    }
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// Three significant digits, and all digits in front of the point.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// One row per figure, one column per frontend and link, in the order of their first appearance.
#[derive(Debug, Default)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    label: String,
    unit: &'static str,
    /// By column; the last ones may be missing.
    cells: Vec<String>,
}

impl Table {
    fn put(&mut self, label: &str, unit: &'static str, column: &str, value: String) {
        let at = self.columns.iter().position(|known| known == column).unwrap_or_else(|| {
            self.columns.push(column.to_owned());
            self.columns.len() - 1
        });
        let row = self.rows.iter().position(|row| row.label == label).unwrap_or_else(|| {
            self.rows.push(Row { label: label.to_owned(), unit, cells: Vec::new() });
            self.rows.len() - 1
        });
        let cells = &mut self.rows[row].cells;
        cells.resize(cells.len().max(at + 1), String::new());
        cells[at] = value;
    }

    /// Heading and rows; the unit is behind the label.
    fn cells(&self) -> Vec<Vec<String>> {
        let mut lines = vec![[vec![String::new(), "unit".into()], self.columns.clone()].concat()];
        for row in &self.rows {
            let mut line = vec![row.label.clone(), row.unit.to_owned()];
            line.extend(row.cells.iter().cloned());
            line.resize(self.columns.len() + 2, String::new());
            lines.push(line);
        }
        lines
    }

    fn markdown(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.cells().iter().map(|cells| format!("| {} |", cells.join(" | "))).collect();
        lines.insert(1, format!("|---|---|{}", "---:|".repeat(self.columns.len())));
        lines
    }

    fn plain(&self) -> Vec<String> {
        aligned(&self.cells(), 0)
    }
}

/// The lines of a table. The first two columns and the last `words` ones are aligned to the left.
pub(crate) fn aligned(table: &[Vec<String>], words: usize) -> Vec<String> {
    let columns = table.first().map_or(0, Vec::len);
    let width = |at: usize| table.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let pad = |(at, cell): (usize, &String)| {
        let width = widths[at];
        if at < 2 || at + words >= columns { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    };
    let line = |cells: &Vec<String>| cells.iter().enumerate().map(pad).collect::<Vec<_>>().join("  ");
    table.iter().map(|cells| line(cells).trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_per_figure_and_a_column_per_way() {
        let mut report = Report::new(&Plan::short());
        let mut outcome = Outcome::default();
        outcome.add("download", 1234.5, "MB/s");
        report.add("connect-uds", "h2", "bulk", outcome.clone());
        outcome.add("upload", 1.234, "MB/s");
        report.add("grpc-uds", "h2", "bulk", outcome);
        let markdown = report.table().markdown();
        assert_eq!(markdown[0], "|  | unit | connect-uds h2 | grpc-uds h2 |");
        assert_eq!(markdown[1], "|---|---|---:|---:|");
        assert_eq!(markdown[2], "| bulk: download | MB/s | 1234 | 1234 |");
        assert_eq!(markdown[3], "| bulk: upload | MB/s |  | 1.23 |");
        let plain = report.table().plain();
        assert_eq!(plain[1], "bulk: download  MB/s            1234         1234");
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in
            [(0.0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123")]
        {
            assert_eq!(number(value), text);
        }
    }
}
