//! All figures of one scenario, with their intervals and their blocks.

use super::super::analysis::{Against, Row};
use super::super::comparison::Comparison;
use super::super::table::{is_shown, ratio};
use super::chart::{self, Scale};
use super::parts::{class, direction, escape};
use crate::report::number;

pub(super) fn section(comparison: &Comparison, scenario: &str) -> String {
    let rows: Vec<&Row> =
        comparison.rows.iter().filter(|row| row.scenario == scenario && is_shown(row)).collect();
    if rows.is_empty() {
        return format!(
            "<section>\n<h2>{scenario}</h2>\n<p>No figures: every block failed.</p>\n</section>\n"
        );
    }
    let all = rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.against_baseline);
    let scale = Scale::of(all.flat_map(|against| [against.low, against.high]));
    let body: String = rows.iter().map(|row| figure(comparison, row, &scale)).collect();
    format!(
        "<section>\n<h2>{scenario}</h2>\n<div class=\"wide\"><table class=\"figures\">\n<thead><tr><th>figure</th><th>system</th>\
         <th class=\"n\">median</th><th class=\"n\">ratio</th><th class=\"n\">95 % interval</th>\
         <th class=\"chart\">{}</th><th>verdict</th><th class=\"chart\">blocks, in time</th></tr></thead>\n{body}</table></div>\n</section>\n",
        chart::axis(&scale)
    )
}

fn figure(comparison: &Comparison, row: &Row, scale: &Scale) -> String {
    let systems = comparison.systems.len();
    let mut body = String::new();
    for (at, (system, cell)) in comparison.systems.iter().zip(&row.cells).enumerate() {
        body.push_str("<tr>");
        if at == 0 {
            body.push_str(&format!(
                "<th rowspan=\"{systems}\" scope=\"rowgroup\">{}<small>{}{}</small></th>",
                escape(&row.figure),
                escape(row.unit),
                direction(row.better)
            ));
        }
        let median = cell.median.map(number).unwrap_or_default();
        body.push_str(&format!(
            "<td class=\"system\"><i class=\"dot s{at}\"></i>{}</td><td class=\"n\">{median}</td>",
            escape(&system.name)
        ));
        body.push_str(&comparison_cells(cell.against_baseline.as_ref(), at == comparison.baseline(), scale));
        if at == 0 {
            body.push_str(&format!("<td rowspan=\"{systems}\" class=\"chart\">{}</td>", chart::strip(row)));
        }
        body.push_str("</tr>\n");
    }
    format!("<tbody>\n{body}</tbody>\n")
}

fn comparison_cells(against: Option<&Against>, is_baseline: bool, scale: &Scale) -> String {
    let picture = chart::forest(against, scale);
    let Some(against) = against else {
        let word = if is_baseline { "baseline" } else { "" };
        return format!("<td></td><td></td><td class=\"chart\">{picture}</td><td class=\"none\">{word}</td>");
    };
    format!(
        "<td class=\"n\">×{}</td><td class=\"n\">{} – {}</td><td class=\"chart\">{picture}</td>\
         <td class=\"{}\" title=\"{} ratios\">{}</td>",
        ratio(against.ratio),
        ratio(against.low),
        ratio(against.high),
        class(against.judgement),
        against.ratios,
        against.verdict
    )
}
