//! From blocks to verdicts.
//!
//! A system's figure is divided by the baseline's of the same turn, so that disturbances of the machine
//! cancel out. The result is the median of the logarithms of these ratios, with its interval.

use serde::Serialize;

use super::block::Block;
use super::meaning::{Better, Meaning, meaning};
use crate::statistics::{ENOUGH, interval, median};

/// A figure of all systems.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) scenario: &'static str,
    pub(super) figure: String,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    /// In the order of the systems.
    pub(super) cells: Vec<Cell>,
}

/// A figure of one system.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    pub(super) points: Vec<Point>,
    /// Median of the points that count.
    pub(super) median: Option<f64>,
    /// None for the baseline, and where no turn can be compared.
    pub(super) against_baseline: Option<Against>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Point {
    pub(super) turn: u32,
    pub(super) value: f64,
    pub(super) counts: bool,
}

/// A figure compared with the baseline's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Against {
    /// Median of the ratios to the baseline.
    pub(super) ratio: f64,
    /// The ends of its 95 % interval.
    pub(super) low: f64,
    pub(super) high: f64,
    /// Number of ratios.
    pub(super) ratios: usize,
    pub(super) judgement: Judgement,
    /// The judgement in a word.
    pub(super) verdict: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Judgement {
    Better,
    /// Different, where no direction is better.
    Different,
    NoDifference,
    TooFewBlocks,
    Worse,
}

/// A row for every figure of a scenario, in the order of their first appearance.
pub(super) fn rows(blocks: &[Block], systems: &[&str], baseline: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for block in blocks {
        let Some(system) = systems.iter().position(|name| *name == block.system) else { continue };
        let mut after = None;
        for figure in &block.outcome.figures {
            let known =
                rows.iter().position(|row| row.scenario == block.scenario && row.figure == figure.name);
            let at = known.unwrap_or_else(|| {
                // A figure that earlier blocks lacked goes beside its neighbours.
                let at = after.map_or(rows.len(), |after: usize| after + 1);
                rows.insert(at, Row::new(block.scenario, &figure.name, figure.unit, systems.len()));
                at
            });
            let point = Point { turn: block.turn, value: figure.value, counts: block.counts };
            rows[at].cells[system].points.push(point);
            after = Some(at);
        }
    }
    for row in &mut rows {
        row.judge(baseline);
    }
    rows
}

impl Row {
    fn new(scenario: &'static str, figure: &str, unit: &'static str, systems: usize) -> Self {
        let empty = Cell { points: Vec::new(), median: None, against_baseline: None };
        let better = meaning(figure, unit).better;
        Self { scenario, figure: figure.to_owned(), unit, better, cells: vec![empty; systems] }
    }

    fn judge(&mut self, baseline: usize) {
        let base: Vec<Point> = self.cells[baseline].points.clone();
        let meaning = meaning(&self.figure, self.unit);
        for (at, cell) in self.cells.iter_mut().enumerate() {
            let values: Vec<f64> =
                cell.points.iter().filter(|point| point.counts).map(|point| point.value).collect();
            cell.median = median(&values);
            if at != baseline {
                cell.against_baseline = Against::of(&log_ratios(&cell.points, &base), meaning);
            }
        }
    }
}

/// Logarithms of the ratios of points of the same turn, of those points that are positive.
fn log_ratios(points: &[Point], base: &[Point]) -> Vec<f64> {
    let usable = |point: &&Point| point.counts && point.value > 0.0 && point.value.is_finite();
    points
        .iter()
        .filter(usable)
        .filter_map(|point| {
            let base = base.iter().filter(usable).find(|base| base.turn == point.turn)?;
            Some((point.value / base.value).ln())
        })
        .collect()
}

impl Against {
    fn of(log_ratios: &[f64], meaning: Meaning) -> Option<Self> {
        let (ratio, (low, high)) = (median(log_ratios)?.exp(), interval(log_ratios)?);
        let (low, high) = (low.exp(), high.exp());
        let up = low > 1.0;
        let judgement = match meaning.better {
            _ if log_ratios.len() < ENOUGH => Judgement::TooFewBlocks,
            _ if low <= 1.0 && high >= 1.0 => Judgement::NoDifference,
            Better::Neither => Judgement::Different,
            Better::Higher if up => Judgement::Better,
            Better::Lower if !up => Judgement::Better,
            Better::Higher | Better::Lower => Judgement::Worse,
        };
        let verdict = match judgement {
            Judgement::Better => meaning.words.better,
            Judgement::Worse => meaning.words.worse,
            Judgement::Different if up => meaning.words.better,
            Judgement::Different => meaning.words.worse,
            Judgement::NoDifference => "no difference",
            Judgement::TooFewBlocks => "too few blocks",
        };
        Some(Self { ratio, low, high, ratios: log_ratios.len(), judgement, verdict })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::compare::tests::{block, figure};

    /// Blocks of two systems on a machine that gets slower all the time.
    fn drifting(ratio: f64, noise: f64, unit: &'static str) -> Vec<Block> {
        let mut blocks = Vec::new();
        for turn in 0..10 {
            let speed = 1000.0 * 0.9_f64.powi(turn);
            let wobble = if turn % 3 == 0 { 1.0 + noise } else { 1.0 - noise };
            let turn = u32::try_from(turn).unwrap();
            blocks.push(block("old", turn, vec![figure("it", speed, unit)]));
            blocks.push(block("new", turn, vec![figure("it", speed * ratio * wobble, unit)]));
        }
        blocks
    }

    fn judge(blocks: &[Block]) -> Against {
        let rows = rows(blocks, &["old", "new"], 0);
        assert_eq!(rows[0].cells[0].against_baseline, None);
        rows[0].cells[1].against_baseline.unwrap()
    }

    #[test]
    fn a_difference_is_found_through_a_drift_that_is_larger() {
        let found = judge(&drifting(1.2, 0.02, "MB/s"));
        assert!(found.low > 1.1 && found.low <= found.ratio && found.ratio <= found.high && found.high < 1.3);
        assert_eq!((found.judgement, found.verdict, found.ratios), (Judgement::Better, "faster", 10));
        assert_eq!(judge(&drifting(0.8, 0.02, "MB/s")).verdict, "slower");
        assert_eq!(judge(&drifting(0.8, 0.02, "us")).verdict, "faster");
        assert_eq!(judge(&drifting(0.8, 0.02, "CPU-s/GB")).verdict, "cheaper");
        assert_eq!(judge(&drifting(1.2, 0.02, "KB/connection")).verdict, "costlier");
        assert_eq!(judge(&drifting(1.2, 0.02, "bananas")).judgement, Judgement::Different);
    }

    #[test]
    fn there_is_no_verdict_where_the_interval_holds_one() {
        let found = judge(&drifting(1.0, 0.05, "MB/s"));
        assert!(found.low < 1.0 && found.high > 1.0);
        assert_eq!(found.judgement, Judgement::NoDifference);
        let few: Vec<Block> = drifting(2.0, 0.01, "MB/s").into_iter().take(10).collect();
        assert_eq!(judge(&few).judgement, Judgement::TooFewBlocks);
    }

    #[test]
    fn only_turns_that_count_on_both_sides_are_compared() {
        let mut blocks = drifting(1.5, 0.0, "MB/s");
        blocks[0].counts = false;
        blocks[3].counts = false;
        blocks[3].outcome.figures[0].value = 1e9;
        blocks[4].outcome.figures[0].value = 0.0;
        let row = &rows(&blocks, &["old", "new"], 0)[0];
        let found = row.cells[1].against_baseline.unwrap();
        assert_eq!(found.ratios, 7);
        assert!((found.ratio - 1.5).abs() < 1e-9);
        assert_eq!(row.cells[1].points.len(), 10);
        assert!(row.cells[1].median.unwrap() < 1e6);
    }

    #[test]
    fn figures_of_one_system_alone_have_no_ratio() {
        let blocks = [
            block("old", 0, vec![figure("both", 1.0, "us"), figure("last", 1.0, "us")]),
            block(
                "new",
                0,
                vec![figure("both", 2.0, "us"), figure("new", 3.0, "us"), figure("last", 2.0, "us")],
            ),
        ];
        let rows = rows(&blocks, &["old", "new"], 1);
        let names: Vec<&str> = rows.iter().map(|row| row.figure.as_str()).collect();
        assert_eq!(names, ["both", "new", "last"]);
        assert_eq!(rows[1].cells[0].median, None);
        assert_eq!(rows[1].cells[0].against_baseline, None);
        assert_eq!(rows[0].cells[0].against_baseline.unwrap().ratio, 0.5);
    }
}
