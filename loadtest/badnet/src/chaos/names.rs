//! Names of targets, and the agents' resolver: files name those that are good, and for the others there is one that
//! says nothing. No look-up leaves the namespaces.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::event::Outcome;
use super::world::{AGENTS, World};
use crate::namespaces::Namespace;
use crate::rig::{Member, connecting};

/// The resolver of the agents.
pub(crate) const RESOLVER: &str = "127.0.0.53:53";

/// Look-ups through each agent: more than it makes at a time for dials (384).
const LOOK_UPS: usize = 500;

/// Dials at once, and the time after which one is given up. Its look-up goes on. More dials would take the server's files,
/// and longer ones would let look-ups end before the last has begun.
const AT_ONCE: usize = 200;
const PATIENCE: Duration = Duration::from_millis(250);

/// Time of a look-up without an answer, in seconds, in resolv.conf(5).
const SILENCE: u64 = 8;

/// Limit of a dial to a good name.
const LIMIT: Duration = Duration::from_secs(5);

/// Time until names are looked up again once all dead ones are over.
const RETURN: Duration = Duration::from_secs(SILENCE + 5);

fn good(member: &Member) -> String {
    format!("good.{}.test", member.id)
}

/// A good name that nobody has asked for before the event.
fn unknown(member: &Member) -> String {
    format!("unknown.{}.test", member.id)
}

fn dead(member: &Member) -> String {
    format!("dead.{}.test", member.id)
}

/// Writes the resolver's files to a directory.
pub(crate) fn write(dir: &Path) -> anyhow::Result<()> {
    let nameserver = RESOLVER.split(':').next().unwrap_or_default();
    let conf = format!("nameserver {nameserver}\noptions timeout:{SILENCE} attempts:1\n");
    fs::write(dir.join("resolv.conf"), conf).context("resolv.conf")?;
    let names = AGENTS.iter().map(|member| format!("{} {} {}\n", member.host, good(member), unknown(member)));
    fs::write(dir.join("hosts"), names.collect::<String>()).context("hosts")
}

/// An agent's program, with the files of a directory in place of the host's. `ip netns exec` gives it mounts of its own
/// (ip-netns(8)).
pub(crate) fn command(namespace: &Namespace, dir: &Path, program: &Path) -> Command {
    let script =
        "for file in resolv.conf hosts; do mount --bind \"$0/$file\" /etc/$file || exit; done; exec \"$@\"";
    let mut command = namespace.command(Path::new("sh"));
    command.args(["-c", script]).arg(dir).arg(program);
    command
}

/// Adds an agent's names to its identifiers.
pub(crate) fn claim(flags: Vec<String>, member: &Member) -> impl Iterator<Item = String> {
    let names = [good(member), unknown(member), dead(member)].map(|name| format!("&host={name}")).concat();
    flags.into_iter().map(move |flag| match flag.starts_with("--agent-identifiers=") {
        true => flag + &names,
        false => flag,
    })
}

pub(crate) async fn names(world: &World) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut dial_all = async |name: fn(&Member) -> String, when: &str| {
        for member in &AGENTS {
            if let Err(error) = echo(world, &name(member)).await {
                outcome.faults.push(format!("{} {when}: {error:#}", name(member)));
            }
        }
    };
    dial_all(good, "before").await;
    let began = Instant::now();
    let (mut answered, mut busy) = (0, None);
    // On a busy machine the first look-ups of a round may be over before its last begins. An unknown name is one once only.
    for member in &AGENTS {
        answered += look_up(world).await;
        // The last answer of a name is used while look-ups are taken.
        dial_all(good, "during look-ups of dead names").await;
        if echo(world, &unknown(member)).await.is_err() {
            busy = Some(member);
            break;
        }
    }
    let end = Instant::now() + RETURN;
    while let Some(member) = busy
        && Instant::now() < end
        && echo(world, &unknown(member)).await.is_err()
    {
        sleep(Duration::from_millis(200)).await;
    }
    dial_all(unknown, "after look-ups of dead names").await;
    if answered > 0 {
        outcome.faults.push(format!("{answered} dials to dead names were answered with success"));
    }
    if busy.is_none() {
        outcome.faults.push("look-ups of dead names left room for others".to_owned());
    }
    outcome.note = Some(format!("names are looked up after {:.1} s", began.elapsed().as_secs_f64()));
    Ok(outcome)
}

/// Dials to dead names through all agents, given up long before their answer. Returns how many got a connection.
async fn look_up(world: &World) -> usize {
    let (mut dialling, mut answered) = (JoinSet::new(), 0);
    for member in AGENTS.iter().cycle().take(AGENTS.len() * LOOK_UPS) {
        if dialling.len() >= AT_ONCE {
            answered += usize::from(matches!(dialling.join_next().await, Some(Ok(true))));
        }
        let dial = connecting(&world.frontend(), &dead(member), "echo");
        dialling.spawn(async move { matches!(timeout(PATIENCE, dial).await, Ok(Ok(_))) });
    }
    answered + dialling.join_all().await.into_iter().filter(|answered| *answered).count()
}

/// A connection to the target under a name.
async fn echo(world: &World, name: &str) -> anyhow::Result<()> {
    let dialled = timeout(LIMIT, connecting(&world.frontend(), name, "echo")).await;
    dialled.with_context(|| format!("no answer in {LIMIT:?}"))?.map(drop)
}
