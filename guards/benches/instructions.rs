//! How many instructions each operation takes, counted by valgrind's callgrind,
//! which gives the same number on a busy machine as on an idle one.
//!
//! Not a benchmark of time: the program runs itself under valgrind, once for
//! each operation, and compares. The crate's documentation says how to read a
//! failure. With an argument, only operations with that in their name run.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a guard that cannot set up its world has to stop, and the figures are what it is for"
)]

use std::env;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use tunnel_guards::destinations::Destinations;
use tunnel_guards::ends::{Connections, Relayed};
use tunnel_guards::packets::PacketStream;
use tunnel_guards::routing::Routing;
use tunnel_guards::wire::Wire;

/// Operations in one measurement: enough that a random choice or an allocation
/// now and then weighs the same each time.
const OPS: usize = 1000;

/// Bytes in a data packet. Less than packets have, so that what is done per
/// packet is not lost in the copying, whose instructions depend on the
/// processor; the guards of allocations notice a new copy.
const PACKET: usize = 1024;

/// How far an operation may be above its figure, in per cent. Random seeds of
/// maps and different processors make one; a new compiler may make more, and is
/// a reason to move figures.
const ABOVE: f64 = 3.0;

/// How far below it is said to be a gain, which is to be written down, or the next
/// change may eat it. That fails nothing: another machine has taken 6 % fewer for
/// the routes, with the same program.
const BELOW: f64 = 6.0;

/// The argument with which the program runs an operation instead of all guards.
const MEASURED: &str = "--measured";

/// One operation and its figure.
struct Guard {
    name: &'static str,
    /// Instructions per operation when somebody looked last.
    figure: f64,
    /// Makes what the operation needs, and the operation: so many times.
    make: fn() -> Box<dyn FnMut(usize)>,
}

/// All of them. Figures of the dist profile on x86-64.
const GUARDS: &[Guard] = &[
    Guard { name: "relay/flow", figure: 197.4, make: || each_of(Relayed::warm(), Relayed::flow) },
    Guard { name: "relay/turn", figure: 839.0, make: || each_of(Relayed::warm(), Relayed::turns) },
    Guard { name: "relay/blocked", figure: 1657.0, make: || each_of(Relayed::warm(), Relayed::blocked) },
    Guard {
        name: "relay/connection",
        figure: 1336.1,
        make: || each(Connections::default(), Connections::one),
    },
    Guard { name: "connect/head", figure: 1528.3, make: || each(wire(), Wire::connect_head) },
    Guard {
        name: "connect/head_with_name",
        figure: 2581.3,
        make: || each(wire(), Wire::connect_head_with_name),
    },
    Guard { name: "dial/write", figure: 2364.2, make: || each(wire(), Wire::write_dial) },
    Guard { name: "dial/read", figure: 1681.1, make: || each(wire(), Wire::read_dial) },
    Guard { name: "dial/write_reply", figure: 623.0, make: || each(wire(), Wire::write_reply) },
    Guard { name: "dial/read_reply", figure: 1066.1, make: || each(wire(), Wire::read_reply) },
    Guard { name: "packet/read_dial", figure: 1618.1, make: || each(wire(), Wire::read_dial_packet) },
    Guard { name: "packet/write_data_head", figure: 219.0, make: || each(wire(), Wire::write_data_head) },
    Guard { name: "packet/write_data", figure: 1169.0, make: || each(wire(), Wire::write_data) },
    Guard { name: "packet/read_data", figure: 812.1, make: || each(wire(), Wire::read_data) },
    Guard {
        name: "packet/stream_receive",
        figure: 21641.7,
        make: || each_of(stream(), PacketStream::receive),
    },
    Guard { name: "packet/stream_send", figure: 24639.8, make: || each_of(stream(), PacketStream::send) },
    Guard { name: "route/by_host", figure: 720.5, make: || each(Routing::warm(), Routing::by_host) },
    Guard { name: "route/by_network", figure: 1031.4, make: || each(Routing::warm(), Routing::by_network) },
    Guard { name: "route/by_default", figure: 747.9, make: || each(Routing::warm(), Routing::by_default) },
    Guard {
        name: "policy/without_file",
        figure: 275.0,
        make: || each(Destinations::new(), Destinations::without_a_file),
    },
    Guard {
        name: "policy/chart",
        figure: 291.0,
        make: || each(Destinations::new(), Destinations::of_the_chart),
    },
    Guard {
        name: "policy/chart_with_name",
        figure: 1390.0,
        make: || each(Destinations::new(), Destinations::of_the_chart_with_name),
    },
    Guard {
        name: "policy/all_rules",
        figure: 90282.0,
        make: || each(Destinations::new(), Destinations::of_all_rules),
    },
    Guard {
        name: "policy/identities",
        figure: 736.0,
        make: || each(Destinations::new(), Destinations::of_identities),
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.as_slice() {
        [flag, name] if flag == MEASURED => {
            let guard = GUARDS.iter().find(|guard| guard.name == name.as_str()).unwrap();
            measured(&mut *(guard.make)());
            ExitCode::SUCCESS
        }
        [] => check(""),
        [part, ..] => check(part),
    }
}

/// The function that callgrind counts, by its name: see [`count`].
#[inline(never)]
fn measured(operation: &mut dyn FnMut(usize)) {
    operation(OPS);
}

fn check(part: &str) -> ExitCode {
    println!("{:<26}{:>12}{:>12}", "instructions", "figure", "now");
    let verdicts: Vec<Verdict> =
        GUARDS.iter().filter(|guard| guard.name.contains(part)).map(verdict).collect();
    let bad = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Above(_))).count();
    println!("{} operations, {bad} of them above their figures", verdicts.len());
    if bad == 0 && !verdicts.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn verdict(guard: &Guard) -> Verdict {
    let now = count(guard.name) / OPS as f64;
    let verdict = Verdict::of(guard.figure, now);
    println!("{:<26}{:>12.1}{now:>12.1}  {verdict}", guard.name, guard.figure);
    verdict
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Holds,
    /// By so many per cent.
    Above(f64),
    /// By so many per cent.
    Below(f64),
}

impl Verdict {
    fn of(figure: f64, now: f64) -> Self {
        let per_cent = (now / figure - 1.0) * 100.0;
        match per_cent {
            above if above > ABOVE => Self::Above(above),
            below if below < -BELOW => Self::Below(-below),
            _ => Self::Holds,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("holds"),
            Self::Above(by) => write!(f, "TOO MANY, by {by:.1} %: see the documentation of the crate"),
            Self::Below(by) => write!(f, "a gain of {by:.1} %: write the new figure down"),
        }
    }
}

/// Instructions of [`measured`], and what it calls, for one operation.
fn count(name: &str) -> f64 {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{}", name.replace('/', ".")));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*instructions*measured*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(env::current_exe().unwrap())
        .args([MEASURED, name])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => panic!("valgrind does not run ({error}); it is a package of that name"),
    };
    assert!(output.status.success(), "{name} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let profile = fs::read_to_string(&file).unwrap();
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: f64 = total.and_then(|total| total.trim().parse().ok()).unwrap();
    assert!(total > 0.0, "nothing was counted of {name}: is the program stripped of its symbols?");
    total
}

fn each<T: 'static>(mut state: T, operation: impl Fn(&mut T) + 'static) -> Box<dyn FnMut(usize)> {
    Box::new(move |times| (0..times).for_each(|_| operation(&mut state)))
}

fn each_of<T: 'static>(mut state: T, operation: impl Fn(&mut T, usize) + 'static) -> Box<dyn FnMut(usize)> {
    Box::new(move |times| operation(&mut state, times))
}

fn wire() -> Wire {
    Wire::new(PACKET)
}

fn stream() -> PacketStream {
    PacketStream::warm(PACKET)
}
