//! The better direction of a figure, and the words for it. The unit decides, or else the name.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Better {
    Higher,
    Lower,
    /// A setting, or an unknown figure.
    Neither,
}

/// The meaning of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) better: Better,
    pub(super) words: Words,
}

/// The verdicts on a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) better: &'static str,
    pub(super) worse: &'static str,
}

const FAST: Words = Words { better: "faster", worse: "slower" };
const CHEAP: Words = Words { better: "cheaper", worse: "costlier" };
const GOOD: Words = Words { better: "better", worse: "worse" };
const SIZE: Words = Words { better: "higher", worse: "lower" };

/// Units of time.
const TIMES: [&str; 4] = ["ns", "us", "ms", "s"];

/// Units of memory, in front of `/` if there is one.
const MEMORY: [&str; 5] = ["B", "KB", "KiB", "MB", "MiB"];

/// Words in the names of figures where less is better.
const BAD: [&str; 11] = [
    "lost", "mixed", "failed", "failures", "errors", "dropped", "missed", "late", "dead", "stalls", "refused",
];

/// Words in the names of figures where more is better.
const WANTED: [&str; 7] = ["whole", "rate", "download", "upload", "throughput", "alive", "survived"];

pub(super) fn meaning(name: &str, unit: &str) -> Meaning {
    let (amount, per) = unit.split_once('/').unwrap_or((unit, ""));
    let has = |words: &[&str]| name.split([' ', ',', ':', '-']).any(|word| words.contains(&word));
    let (better, words) = if unit.starts_with("CPU") {
        (Better::Lower, CHEAP)
    } else if TIMES.contains(&unit) {
        (Better::Lower, FAST)
    } else if per == "s" {
        (Better::Higher, FAST)
    } else if MEMORY.contains(&amount) {
        (Better::Lower, CHEAP)
    } else if has(&BAD) {
        (Better::Lower, GOOD)
    } else if has(&WANTED) {
        (Better::Higher, GOOD)
    } else if unit == "x" && name.contains("ratio") {
        // A ratio of times; the name of a ratio of rates has a word above.
        (Better::Lower, GOOD)
    } else {
        (Better::Neither, SIZE)
    };
    Meaning { better, words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_of_the_scenarios_has_its_direction() {
        use Better::{Higher, Lower, Neither};
        for (name, unit, better, words) in [
            ("download x1", "MB/s", Higher, FAST),
            ("upload x16 cpu server", "CPU-s/GB", Lower, CHEAP),
            ("round trip p50", "us", Lower, FAST),
            ("cpu agent", "CPU-us/round trip", Lower, CHEAP),
            ("rate", "dials/s", Higher, FAST),
            ("cpu server", "CPU-ms/s", Lower, CHEAP),
            ("memory server", "KB/connection", Lower, CHEAP),
            ("memory server, 64 stalled clients", "MB", Lower, CHEAP),
            ("connections", "connections", Neither, SIZE),
            ("download, 64 stalled clients", "MB/s", Higher, FAST),
            ("download ratio, 64 stalled clients", "x", Higher, GOOD),
            ("round trip p99 ratio, 64 stalled clients", "x", Lower, GOOD),
            ("half-close, whole", "connections", Higher, GOOD),
            ("half-close, lost or mixed", "connections", Lower, GOOD),
            ("half-close, failed", "connections", Lower, GOOD),
        ] {
            assert_eq!(meaning(name, unit), Meaning { better, words }, "{name} {unit}");
        }
    }
}
