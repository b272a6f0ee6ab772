//! The charts, as SVG inside the page. The page's style sheet has their colours, for light and dark.

use std::fmt::Write as _;

use super::super::analysis::{Against, Row};
use super::super::block::Block;
use super::super::table::ratio;
use super::parts::{class, escape};
use crate::report::number;

/// Width of a forest plot, in pixels, and height of one row of a table.
const FOREST: f64 = 230.0;
const ROW: f64 = 26.0;

/// Width of the blocks' strip.
const STRIP: f64 = 150.0;

/// Ratios beyond this, or below its inverse, are drawn at the edge.
const MOST: f64 = 100.0;

/// A logarithmic axis of ratios with 1 on it.
#[derive(Debug)]
pub(super) struct Scale {
    /// Logarithms of the ends.
    low: f64,
    high: f64,
}

impl Scale {
    /// A scale that holds all these ratios.
    pub(super) fn of(ratios: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (0.8_f64, 1.25_f64);
        for ratio in ratios.filter(|ratio| ratio.is_finite() && *ratio > 0.0) {
            (low, high) = (low.min(ratio), high.max(ratio));
        }
        let (low, high) = (low.max(1.0 / MOST), high.min(MOST));
        let margin = (high / low).ln() * 0.04;
        Self { low: low.ln() - margin, high: high.ln() + margin }
    }

    fn x(&self, ratio: f64) -> f64 {
        let part = (ratio.max(f64::MIN_POSITIVE).ln() - self.low) / (self.high - self.low);
        part.clamp(0.0, 1.0) * FOREST
    }

    /// The ratios with a line: few enough for their numbers to fit.
    fn ticks(&self) -> Vec<f64> {
        let fine = [0.8, 0.9, 1.0, 1.1, 1.25];
        let normal = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
        let coarse = [0.01, 0.1, 1.0, 10.0, 100.0];
        let span = self.high - self.low;
        let all: &[f64] = if span < 1.0 {
            &fine
        } else if span < 5.0 {
            &normal
        } else {
            &coarse
        };
        all.iter().copied().filter(|tick| (self.low..=self.high).contains(&tick.ln())).collect()
    }
}

/// The numbers above the forest plots.
pub(super) fn axis(scale: &Scale) -> String {
    let mut svg = open(FOREST, 18.0, "ratio to the baseline");
    for tick in scale.ticks() {
        let x = scale.x(tick).clamp(12.0, FOREST - 12.0);
        let _ = write!(svg, "<text x=\"{x:.1}\" y=\"13\" text-anchor=\"middle\">×{tick}</text>");
    }
    svg + "</svg>"
}

/// One ratio with its interval, on the lines of the axis.
pub(super) fn forest(against: Option<&Against>, scale: &Scale) -> String {
    let label = against.map_or(String::new(), |it| {
        format!("×{}, from {} to {}", ratio(it.ratio), ratio(it.low), ratio(it.high))
    });
    let mut svg = open(FOREST, ROW, &label);
    for tick in scale.ticks() {
        let class = if tick == 1.0 { "one" } else { "tick" };
        let x = scale.x(tick);
        let _ = write!(svg, "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{ROW}\"/>");
    }
    if let Some(against) = against {
        let (low, x, high) = (scale.x(against.low), scale.x(against.ratio), scale.x(against.high));
        let (class, y) = (class(against.judgement), ROW / 2.0);
        let _ = write!(
            svg,
            "<g class=\"{class}\"><line class=\"reach\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y}\" y2=\"{y}\"/>\
             <circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4.5\"/></g>"
        );
    }
    svg + "</svg>"
}

/// Every block of every system, in the order of their turns.
pub(super) fn strip(row: &Row) -> String {
    let height = ROW * row.cells.len().max(2) as f64 - 2.0;
    let points = || row.cells.iter().flat_map(|cell| &cell.points);
    let values = || points().map(|point| point.value);
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let last = points().map(|point| point.turn).max().unwrap_or(0).max(1);
    let span = if high > low { high - low } else { 1.0 };
    let x = |turn: u32| 6.0 + f64::from(turn) / f64::from(last) * (STRIP - 12.0);
    let y = |value: f64| height - 6.0 - (value - low) / span * (height - 12.0);
    let mut svg = open(STRIP, height, "values by block");
    for (at, cell) in row.cells.iter().enumerate() {
        let counted = cell.points.iter().filter(|point| point.counts);
        let line: Vec<String> =
            counted.map(|point| format!("{:.1},{:.1}", x(point.turn), y(point.value))).collect();
        let _ = write!(svg, "<g class=\"series s{at}\"><polyline points=\"{}\"/>", line.join(" "));
        for point in &cell.points {
            let hollow = if point.counts { "" } else { " class=\"hollow\"" };
            let (x, y) = (x(point.turn), y(point.value));
            let title = format!("block {}: {} {}", point.turn + 1, number(point.value), row.unit);
            let _ = write!(
                svg,
                "<circle{hollow} cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"><title>{}</title></circle>",
                escape(&title)
            );
        }
        svg.push_str("</g>");
    }
    svg + "</svg>"
}

/// A bar per system, as long as its median.
pub(super) fn bars(row: &Row, names: &[&str]) -> String {
    const WIDTH: f64 = 300.0;
    const STEP: f64 = 38.0;
    let most = row.cells.iter().filter_map(|cell| cell.median).fold(0.0, f64::max);
    let mut svg = open(WIDTH, STEP * names.len() as f64, &row.figure);
    for (at, (cell, name)) in row.cells.iter().zip(names).enumerate() {
        let top = at as f64 * STEP;
        let _ = write!(svg, "<text x=\"0\" y=\"{:.0}\">{}</text>", top + 14.0, escape(name));
        let Some(median) = cell.median else {
            let _ = write!(svg, "<text class=\"value\" x=\"{WIDTH}\" y=\"{:.0}\">failed</text>", top + 14.0);
            continue;
        };
        let width = if most > 0.0 { (median.max(0.0) / most * WIDTH).max(1.5) } else { 1.5 };
        let value = escape(&number(median));
        let comparison = cell.against_baseline.map_or(String::new(), |against| {
            let (class, times) = (class(against.judgement), ratio(against.ratio));
            format!("<tspan class=\"{class}\">×{times}</tspan>  ")
        });
        let _ = write!(
            svg,
            "<text class=\"value\" x=\"{WIDTH}\" y=\"{:.0}\">{comparison}{value}</text>\
             <rect class=\"s{at}\" x=\"0\" y=\"{:.0}\" width=\"{width:.1}\" height=\"10\" rx=\"2\"/>",
            top + 14.0,
            top + 20.0
        );
    }
    svg + "</svg>\n"
}

/// Limits of the load of a block, in percent of the machine's CPU time.
pub(super) struct Limits {
    pub(super) steal: f64,
    pub(super) foreign: f64,
}

/// Foreign load and steal of every block.
pub(super) fn machine(blocks: &[Block], limits: &Limits) -> String {
    const WIDTH: f64 = 1000.0;
    const HEIGHT: f64 = 150.0;
    /// For the numbers at the left.
    const LEFT: f64 = 36.0;
    /// For the scenarios' names below.
    const BOTTOM: f64 = 22.0;
    let loads = || blocks.iter().filter_map(|block| block.machine);
    let sums = loads().map(|load| load.steal_percent + load.foreign_percent.unwrap_or(0.0));
    let top = sums.fold(limits.foreign.min(20.0) * 1.5, f64::max).clamp(5.0, 100.0);
    let plot = HEIGHT - BOTTOM;
    let y = |percent: f64| plot - (percent / top).min(1.0) * (plot - 10.0);
    let step = (WIDTH - LEFT) / blocks.len().max(1) as f64;
    let mut svg = open(WIDTH, HEIGHT, "foreign load and steal by block");
    for tick in [0.0, top / 2.0, top] {
        let y = y(tick);
        let _ =
            write!(svg, "<line class=\"tick\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.0} %</text>",
            LEFT - 5.0,
            y + 4.0
        );
    }
    let mut previous = "";
    for (at, block) in blocks.iter().enumerate() {
        let x = LEFT + at as f64 * step;
        if previous != block.scenario {
            previous = block.scenario;
            let _ =
                write!(svg, "<line class=\"tick\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{HEIGHT}\"/>");
            let _ =
                write!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", x + 4.0, HEIGHT - 5.0, block.scenario);
        }
        let Some(load) = block.machine else { continue };
        let (foreign, steal) = (load.foreign_percent.unwrap_or(0.0), load.steal_percent);
        let left_out = if block.counts { "" } else { " out" };
        let title = format!(
            "block {}, {} {}: foreign {foreign:.1} %, steal {steal:.1} %",
            at + 1,
            block.system,
            block.scenario
        );
        let _ = write!(svg, "<g class=\"bar{left_out}\"><title>{}</title>", escape(&title));
        for (class, from, to) in [("foreign", 0.0, foreign), ("steal", foreign, foreign + steal)] {
            let (x, y, height, width) = (x + step * 0.12, y(to), y(from) - y(to), step * 0.76);
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            );
        }
        svg.push_str("</g>");
    }
    for (class, limit) in [("foreign", limits.foreign), ("steal", limits.steal)] {
        if limit <= top {
            let y = y(limit);
            let _ = write!(
                svg,
                "<line class=\"limit {class}\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
        }
    }
    svg + "</svg>\n"
}

fn open(width: f64, height: f64, label: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"{}\">",
        escape(label)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_one_on_it_and_holds_what_it_was_made_of() {
        for ratios in [vec![], vec![4.0, 5.0], vec![0.1, 0.2], vec![1e-9, 1e9, f64::NAN]] {
            let scale = Scale::of(ratios.iter().copied());
            assert!(scale.ticks().contains(&1.0), "{ratios:?}");
            assert!((1.0..FOREST).contains(&scale.x(1.0)), "{ratios:?}");
            for ratio in ratios.into_iter().filter(|ratio| ratio.is_finite()) {
                assert!((0.0..=FOREST).contains(&scale.x(ratio)), "{ratio}");
            }
        }
    }
}
