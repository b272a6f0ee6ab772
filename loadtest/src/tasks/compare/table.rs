//! A comparison for a terminal: each system against the baseline.

use super::analysis::{Cell, Row};
use super::comparison::Comparison;
use crate::report::{aligned, number};

/// The client's own figures, which only the JSON has.
const CLIENT: [&str; 2] = ["cpu loadtest", "memory loadtest"];

pub(super) fn lines(comparison: &Comparison) -> Vec<String> {
    let mut lines = heading(comparison);
    let baseline = comparison.baseline();
    for (at, system) in comparison.systems.iter().enumerate().filter(|(at, _)| *at != baseline) {
        lines.push(String::new());
        lines.push(format!("{} against {}", system.name, comparison.baseline));
        let titles =
            ["", "unit", &comparison.baseline, &system.name, "ratio", "95 % interval", "n", "verdict"];
        let mut table = vec![titles.map(str::to_owned).to_vec()];
        table.extend(comparison.rows.iter().filter(|row| is_shown(row)).map(|row| cells(row, baseline, at)));
        lines.extend(aligned(&table, 1));
    }
    lines
}

/// Whether a figure is the systems', and not the client's.
pub(super) fn is_shown(row: &Row) -> bool {
    !CLIENT.iter().any(|own| row.figure.contains(own))
}

/// A ratio, with one more digit near 1.
pub(super) fn ratio(value: f64) -> String {
    if (0.9..1.1).contains(&value) { format!("{value:.3}") } else { number(value) }
}

fn heading(comparison: &Comparison) -> Vec<String> {
    let circumstances = &comparison.circumstances;
    let (cpus, kernel, seconds) =
        (circumstances.cpus, &circumstances.kernel, comparison.plan.seconds().as_secs_f64());
    let mut lines = vec![format!(
        "loadtest {}, {cpus} CPUs, Linux {kernel}, {seconds} s per measurement, {} blocks per system",
        circumstances.version, comparison.schedule.blocks
    )];
    lines.extend(comparison.notes.iter().map(|note| format!("note: {note}")));
    lines
}

fn cells(row: &Row, baseline: usize, system: usize) -> Vec<String> {
    let value = |cell: &Cell| cell.median.map(number).unwrap_or_default();
    let cell = &row.cells[system];
    let mut line = vec![format!("{}: {}", row.scenario, row.figure), row.unit.to_owned()];
    line.extend([value(&row.cells[baseline]), value(cell)]);
    line.extend(match &cell.against_baseline {
        Some(against) => [
            format!("x{}", ratio(against.ratio)),
            format!("{} .. {}", ratio(against.low), ratio(against.high)),
            against.ratios.to_string(),
            against.verdict.to_owned(),
        ],
        None => ["", "", "", ""].map(str::to_owned),
    });
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::compare::tests::{block, comparison, figure};

    #[test]
    fn every_figure_has_a_line_with_its_verdict() {
        let mut blocks = Vec::new();
        for turn in 0..6 {
            blocks.push(block("old", turn, vec![figure("round trip p50", 400.0, "us")]));
            let figures = vec![figure("round trip p50", 200.0, "us"), figure("cpu loadtest", 1.0, "CPU-us")];
            blocks.push(block("new", turn, figures));
        }
        let lines = lines(&comparison(blocks));
        let table: Vec<&String> = lines.iter().skip_while(|line| !line.contains("against")).collect();
        assert_eq!(table[0], "new against old");
        assert_eq!(table[1], "                      unit  old  new  ratio  95 % interval  n  verdict");
        assert_eq!(table[2], "ping: round trip p50  us    400  200  x0.50   0.50 .. 0.50  6  faster");
        assert_eq!(table.len(), 3);
        assert_eq!([0.5, 0.996, 1.0, 1.2].map(ratio), ["0.50", "0.996", "1.000", "1.20"]);
    }
}
