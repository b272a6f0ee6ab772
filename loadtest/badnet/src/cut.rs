//! New dials and old streams where packets vanish or the path moves: a matrix of cells, each with a network of its
//! own. The agent chooses its link, so this measures the choice.
//!
//! A cell holds if dials work again within twenty seconds, streams on QUIC go on, and the agent makes no more tunnels
//! than its growing pauses allow.

mod cells;
mod trial;

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{Programs, Score, ScoreArgs, complain, say, write_json};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::line_args::{LineArgs, time};
use cells::{Cell, Kind};
use trial::Outcome;

/// Megabits per second of each direction, unless told otherwise: bulk of many cells at once leaves time for the
/// processor.
const RATE: u64 = 20;

#[derive(Debug, Clone, Args)]
pub(crate) struct CutArgs {
    /// Cells whose names contain one of these texts, such as `idle/quic` or `1200-up`; all by default.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    only: Vec<String>,
    /// Cells at a time.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=100))]
    jobs: u32,
    /// Length of each cell, and of its cut where a path is left.
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = time)]
    time: Duration,
    /// Fails if a cell does not hold.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    line: LineArgs,
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    scores: ScoreArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    cell: String,
    #[serde(skip)]
    of: Cell,
    #[serde(flatten)]
    outcome: Outcome,
}

/// True unless `--strict` does not hold.
pub(crate) async fn run(args: &CutArgs) -> anyhow::Result<bool> {
    let is_asked = |cell: &Cell| {
        let name = cell.name();
        args.only.is_empty() || args.only.iter().any(|text| name.contains(text))
    };
    let cells: Vec<Cell> = cells::all().into_iter().filter(is_asked).collect();
    anyhow::ensure!(!cells.is_empty(), "no cell has such a name");
    let (mut waiting, mut running, mut rows) = (cells.iter(), JoinSet::new(), Vec::new());
    let began = Instant::now();
    loop {
        while running.len() < args.jobs as usize
            && let Some(cell) = waiting.next()
        {
            running.spawn(measure(args.clone(), *cell));
        }
        let Some(row) = running.join_next().await else { break };
        rows.push(row??);
    }
    rows.sort_by_key(|row| cells.iter().position(|cell| *cell == row.of));
    complain(&format!("{} cells in {:.0} s", rows.len(), began.elapsed().as_secs_f64()));
    report(args, &rows)
}

async fn measure(args: CutArgs, cell: Cell) -> anyhow::Result<Row> {
    let (mut line, mut programs) = (args.line, args.programs);
    line.rate.get_or_insert(RATE);
    programs.agent_arg.push("--transport=auto".to_owned());
    let name = cell.name();
    let outcome = trial::run(cell, line.network(0.0)?, &programs, args.time).await;
    Ok(Row { outcome: outcome.with_context(|| name.clone())?, cell: name, of: cell })
}

fn report(args: &CutArgs, rows: &[Row]) -> anyhow::Result<bool> {
    say(
        "| cell | dials | failed | longest outage s | old streams | tunnels quic | tunnels h2 | at most | holds |",
    );
    say("|---|---:|---:|---:|---|---:|---:|---:|---|");
    for Row { cell, of: _, outcome } in rows {
        let Outcome { dials, failed, outage_s, streams_live, tunnels_quic, tunnels_h2, most_tunnels, holds } =
            outcome;
        let old = match streams_live {
            Some(true) => "live",
            Some(false) => "lost",
            None => "-",
        };
        let holds = if *holds { "yes" } else { "NO" };
        say(&format!(
            "| {cell} | {dials} | {failed} | {outage_s:.1} | {old} | {tunnels_quic} | {tunnels_h2} | \
             {most_tunnels} | {holds} |"
        ));
    }
    if let Some(path) = &args.line.json {
        write_json(path, &rows)?;
    }
    args.scores.write(Kind::ALL.iter().filter_map(|kind| score(*kind, rows)))?;
    Ok(!args.strict || rows.iter().all(|row| row.outcome.holds))
}

/// The score of the cells of a kind, if there are some.
fn score(kind: Kind, rows: &[Row]) -> Option<Score> {
    let of = || rows.iter().filter(|row| row.of.kind() == kind);
    let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
    let (tried, lost) = (count(of().count()), count(of().filter(|row| !row.outcome.holds).count()));
    (tried > 0).then(|| Score { what: kind.label().to_owned(), tried, lost })
}
