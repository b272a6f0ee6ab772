//! The headline figures of every scenario, as bars.

use super::super::analysis::{Judgement, Row};
use super::super::comparison::Comparison;
use super::super::meaning::Better;
use super::super::table::is_shown;
use super::chart;
use super::parts::{direction, escape};

/// The sums that every scenario shows.
const SUMS: [&str; 2] = ["cpu ", "memory "];

/// Most cards of one scenario, beside sums.
const MOST: usize = 4;

/// Cards for every scenario, and how often each system was better.
pub(super) fn glance(comparison: &Comparison) -> String {
    let cards: String = comparison
        .scenarios()
        .iter()
        .flat_map(|name| headlines(comparison, name))
        .map(|row| card(comparison, row))
        .collect();
    format!(
        "<section>\n<h2>At a glance</h2>\n{}<div class=\"cards\">\n{cards}</div>\n</section>\n",
        tally(comparison)
    )
}

/// The scenario's own ratios, or else the first figure of each kind; and the first sums of CPU time and
/// memory.
fn headlines<'a>(comparison: &'a Comparison, scenario: &str) -> Vec<&'a Row> {
    let is_measured =
        |row: &Row| row.better != Better::Neither && row.cells.iter().any(|cell| cell.median.is_some());
    let rows = comparison.rows.iter().filter(|row| row.scenario == scenario && is_shown(row));
    let rows: Vec<&Row> = rows.filter(|row| is_measured(row)).collect();
    let is_sum_of = |row: &Row, what: &str| row.figure.contains(what) && row.figure.contains('+');
    let has_ratios = rows.iter().any(|row| row.unit == "x");
    let mut found: Vec<&Row> = Vec::new();
    for row in rows.iter().filter(|row| !SUMS.iter().any(|what| row.figure.contains(what))) {
        let is_new = !found.iter().any(|known| kind(known) == kind(row));
        if found.len() < MOST && (if has_ratios { row.unit == "x" } else { is_new }) {
            found.push(row);
        }
    }
    // Private memory depends on the scenarios before.
    let lasting = |row: &Row| row.figure.starts_with("private");
    let sum = |what| rows.iter().find(|row| is_sum_of(row, what) && !lasting(row)).copied();
    found.extend(SUMS.into_iter().filter_map(sum));
    found
}

/// The kind of a figure: its first word.
fn kind(row: &Row) -> &str {
    row.figure.split([' ', ',']).next().unwrap_or_default()
}

fn card(comparison: &Comparison, row: &Row) -> String {
    let names: Vec<&str> = comparison.systems.iter().map(|system| system.name.as_str()).collect();
    format!(
        "<article>\n<h3>{}: {}</h3>\n<p>{}{}</p>\n{}</article>\n",
        row.scenario,
        escape(&row.figure),
        escape(row.unit),
        direction(row.better),
        chart::bars(row, &names)
    )
}

fn tally(comparison: &Comparison) -> String {
    let of = |at: usize, judgement: Judgement| {
        let all = comparison
            .rows
            .iter()
            .filter(|row| is_shown(row) && row.better != Better::Neither)
            .filter_map(|row| row.cells[at].against_baseline);
        all.filter(|against| against.judgement == judgement).count()
    };
    let line = |(at, name): (usize, &str)| {
        let counts =
            [Judgement::Better, Judgement::NoDifference, Judgement::Worse].map(|judgement| of(at, judgement));
        let few = match of(at, Judgement::TooFewBlocks) {
            0 => String::new(),
            few => format!(", {few} with too few blocks to tell"),
        };
        let [better, same, worse] = counts;
        format!(
            "<li><i class=\"dot s{at}\"></i><b>{}</b>: <span class=\"better\">{better} figures better</span>, \
             {same} without a difference, <span class=\"worse\">{worse} worse</span>{few}</li>\n",
            escape(name)
        )
    };
    let others = comparison.systems.iter().enumerate().filter(|(at, _)| *at != comparison.baseline());
    let lines: String = others.map(|(at, system)| line((at, system.name.as_str()))).collect();
    format!("<ul class=\"tally\">\n{lines}</ul>\n")
}
