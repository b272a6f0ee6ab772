//! A comparison as one page with charts, without a script, a font or any other file.

mod cards;
mod chart;
mod parts;
mod scenario;

use super::comparison::{Comparison, Failure, Shown};
use chart::Limits;
use parts::escape;

const STYLE: &str = include_str!("html/style.css");

pub(super) fn page(comparison: &Comparison) -> String {
    let names: Vec<&str> = comparison.systems.iter().map(|system| system.name.as_str()).collect();
    let others: Vec<&str> = names.iter().copied().filter(|name| *name != comparison.baseline).collect();
    let title = escape(&format!("{} against {}", others.join(", "), comparison.baseline));
    let parts = [
        heading(comparison, &title),
        systems(comparison),
        remarks(comparison),
        cards::glance(comparison),
        comparison.scenarios().iter().map(|name| scenario::section(comparison, name)).collect(),
        machine(comparison),
        method(comparison),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        parts.concat()
    )
}

fn heading(comparison: &Comparison, title: &str) -> String {
    let it = &comparison.circumstances;
    let facts = [
        format!("{} to {}", it.started, it.ended.split(' ').nth(1).unwrap_or_default()),
        format!("{} CPUs, {}", it.cpus, it.cpu_model),
        format!("Linux {}", it.kernel),
        format!("load {} at the start", it.load_at_start),
        format!("{} blocks per system and scenario", comparison.schedule.blocks),
        format!("{} s per measurement", comparison.plan.seconds().as_secs_f64()),
        format!("loadtest {}", it.version),
    ];
    let facts: String = facts.iter().map(|fact| format!("<li>{}</li>", escape(fact))).collect();
    format!("<header>\n<h1>{title}</h1>\n<ul class=\"facts\">{facts}</ul>\n</header>\n")
}

fn systems(comparison: &Comparison) -> String {
    let system = |(at, system): (usize, &Shown)| {
        let baseline = if system.name == comparison.baseline { " <em>baseline</em>" } else { "" };
        let lines: String =
            system.processes.iter().map(|line| format!("<code>{}</code>", escape(line))).collect();
        let processes = match system.processes.len() {
            0 => String::new(),
            count => format!("<details><summary>{count} processes</summary>{lines}</details>"),
        };
        let (name, frontend) = (escape(&system.name), escape(&system.frontend));
        format!("<li><i class=\"dot s{at}\"></i><b>{name}</b> {frontend}{baseline}{processes}</li>\n")
    };
    let list: String = comparison.systems.iter().enumerate().map(system).collect();
    format!("<ul class=\"systems\">\n{list}</ul>\n")
}

/// Failures and notes.
fn remarks(comparison: &Comparison) -> String {
    let note = |note: &String| format!("<li>{}</li>\n", escape(note));
    let failure = |failure: &Failure| {
        let Failure { system, scenario, blocks, such_as } = failure;
        let (first, rest) = such_as.split_once('\n').unwrap_or((such_as, ""));
        let log = match rest {
            "" => String::new(),
            rest => format!("<details><summary>log</summary><pre>{}</pre></details>", escape(rest)),
        };
        let text = escape(&format!("{system}, {scenario}: failures in {blocks} blocks, such as: {first}"));
        format!("<li class=\"failure\">{text}{log}</li>\n")
    };
    let list: String =
        comparison.failures.iter().map(failure).chain(comparison.notes.iter().map(note)).collect();
    if list.is_empty() { list } else { format!("<ul class=\"remarks\">\n{list}</ul>\n") }
}

fn machine(comparison: &Comparison) -> String {
    let limits = Limits { steal: comparison.schedule.max_steal, foreign: comparison.schedule.max_foreign };
    let chart = chart::machine(&comparison.blocks, &limits);
    let rows: String = comparison
        .blocks
        .iter()
        .enumerate()
        .filter_map(|(at, block)| {
            let why = escape(block.disturbed.as_ref()?);
            let done = if block.counts { "counted" } else { "left out" };
            let (scenario, system) = (block.scenario, escape(&block.system));
            Some(format!(
                "<tr><td>{}</td><td>{scenario}</td><td>{system}</td><td>{why}</td><td>{done}</td></tr>\n",
                at + 1
            ))
        })
        .collect();
    let table = if rows.is_empty() {
        "<p>No block was beyond a limit.</p>\n".to_owned()
    } else {
        format!(
            "<details><summary>Blocks beyond a limit</summary><table class=\"plain\">\n<tr><th>block</th>\
             <th>scenario</th><th>system</th><th>why</th><th></th></tr>\n{rows}</table></details>\n"
        )
    };
    format!(
        "<section>\n<h2>The machine meanwhile</h2>\n<p>Part of its CPU time, block by block in the order of \
         the run: <i class=\"dot foreign\"></i> used by programs that have no part in this, \
         <i class=\"dot steal\"></i> taken by the hypervisor. Dashed: the limits, {} % and {} %.</p>\n\
         {chart}{table}</section>\n",
        limits.foreign, limits.steal
    )
}

fn method(comparison: &Comparison) -> String {
    let order: Vec<String> = {
        let systems = comparison.systems.len();
        let first = comparison.blocks.iter().take(systems * 2).map(|block| escape(&block.system));
        first.collect()
    };
    format!(
        "<section>\n<h2>How to read this</h2>\n<p>One client ran every scenario through every system in turn, \
         mirrored: {}, and so on. A ratio is a system's figure divided by that of {} in the same turn, so that \
         what the machine did to both cancels out. Shown is the median of the ratios, and the interval that \
         holds it in 95 of 100 cases (percentile bootstrap, 10,000 resamples). There is a verdict only where \
         that interval leaves out 1. Of twenty figures that do not differ, one may get a verdict by \
         chance.</p>\n<p>CPU time is counted by the scheduler, in nanoseconds, for the named processes; \
         private memory is what each has written and shares with no other, at the end of a block. Hollow \
         points are blocks that do not count.</p>\n</section>\n",
        order.join(", "),
        escape(&comparison.baseline)
    )
}
