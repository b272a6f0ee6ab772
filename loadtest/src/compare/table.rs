//! A comparison for a terminal: for each system, how it differs from the
//! baseline.

use super::analysis::{Cell, Row};
use super::comparison::Comparison;
use crate::report::number;

/// Figures of the client itself are in the JSON only.
const CLIENT: [&str; 2] = ["cpu loadtest", "memory loadtest"];

/// The lines of the table.
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
        lines.extend(aligned(&table));
    }
    lines
}

/// Whether a figure is of interest to those who look at systems.
pub(super) fn is_shown(row: &Row) -> bool {
    !CLIENT.iter().any(|own| row.figure.contains(own))
}

/// A ratio, with one more digit where the side of 1 it is on would not show.
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

/// Words to the left, numbers to the right.
fn aligned(table: &[Vec<String>]) -> Vec<String> {
    let columns = table.first().map_or(0, Vec::len);
    let width = |at: usize| table.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let pad = |(at, cell): (usize, &String)| {
        let width = widths[at];
        if at < 2 || at + 1 == columns { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    };
    let line = |cells: &Vec<String>| cells.iter().enumerate().map(pad).collect::<Vec<_>>().join("  ");
    table.iter().map(|cells| line(cells).trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::{block, comparison, figure};

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
