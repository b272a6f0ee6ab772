//! Decides what each event has cost, and what of that it should not. No sockets and no clock.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::RETURN;
use super::board::PerAgent;
use super::event::{Kind, Outcome};
use super::load::{Dial, Life};
use super::report::Usage;
use super::world::AGENTS;

/// An event, until it is calm again.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) kind: Kind,
    pub(crate) began: Instant,
    /// When the event itself was over.
    pub(crate) over: Instant,
    pub(crate) seconds: f64,
    /// Canaries that sang at the beginning.
    pub(crate) alive: PerAgent<usize>,
    /// Canaries that were not heard after the event.
    pub(crate) silent: PerAgent<usize>,
    pub(crate) gaps: PerAgent<Duration>,
    pub(crate) usage: Usage,
    pub(crate) outcome: Outcome,
}

/// A line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// None for the time until the end, and the end.
    pub(crate) event: Option<Kind>,
    pub(crate) seconds: f64,
    pub(crate) canaries: usize,
    /// Those that may end.
    pub(crate) may_end: usize,
    pub(crate) ended: usize,
    /// Those that have ended and may not, or are silent or not whole.
    pub(crate) lost: usize,
    pub(crate) dials: usize,
    pub(crate) failed: usize,
    /// Why the first of them did.
    pub(crate) failure: Option<String>,
    /// Of those, dials to agents that no event touched.
    pub(crate) failed_elsewhere: usize,
    /// From the end of the event until a dial to each agent has worked.
    pub(crate) back_s: Option<f64>,
    /// Longest silence of a canary of an agent that was not touched.
    pub(crate) gap_s: f64,
    pub(crate) usage: Option<Usage>,
    pub(crate) note: Option<String>,
    /// The event did not happen; the note says why.
    pub(crate) missing: bool,
    pub(crate) faults: Vec<String>,
}

/// The rows of all events, and one of the end.
pub(crate) fn judge(windows: &[Window], lives: &[Life], dials: &[Dial]) -> Vec<Row> {
    let ends = windows.iter().skip(1).map(|next| Some(next.began)).chain([None]);
    let rows = windows.iter().zip(ends).map(|(window, end)| {
        let is_within = |at: Instant| at >= window.began && end.is_none_or(|end| at < end);
        let cut = lives.iter().filter(|life| life.song.cut.is_some() && is_within(life.ended));
        // A failure belongs to the event that caused it.
        let at = |dial: &Dial| if dial.outcome.is_ok() { dial.began } else { dial.ended };
        let own = dials.iter().filter(|dial| is_within(at(dial)));
        row(windows, window, &cut.collect::<Vec<_>>(), &own.collect::<Vec<_>>())
    });
    rows.chain([last(windows, lives)]).collect()
}

fn row(windows: &[Window], window: &Window, cut: &[&Life], dials: &[&Dial]) -> Row {
    let Window { kind, over, seconds, alive, silent, gaps, usage, outcome, .. } = window;
    let spared = |agent: &usize| !kind.may_end(*agent);
    let sum = |of: &PerAgent<usize>, is: &dyn Fn(&usize) -> bool| -> usize {
        (0..AGENTS.len()).filter(is).map(|agent| of[agent]).sum()
    };
    let lost = cut.iter().filter(|life| spared(&life.agent) || life.song.bad > 0).count();
    let failed: Vec<_> = dials.iter().filter(|dial| dial.outcome.is_err()).collect();
    let elsewhere: Vec<_> = failed.iter().filter(|dial| !is_touched(windows, dial)).collect();
    let backs = (0..AGENTS.len()).map(|agent| back(dials, agent, *over));
    let back = backs.collect::<Option<Vec<_>>>().map(|backs| backs.into_iter().max().unwrap_or_default());
    let mut faults = outcome.faults.clone();
    faults.extend(cut.iter().find(|life| spared(&life.agent)).map(|life| {
        format!(
            "a canary of {} ended: {}",
            AGENTS[life.agent].id,
            life.song.cut.as_deref().unwrap_or_default()
        )
    }));
    faults.extend(elsewhere.first().map(|dial| format!("a dial failed: {}", reason(dial))));
    if back.is_none_or(|back| back > RETURN) {
        faults.push(format!("dials do not work after {RETURN:?}"));
    }
    match silent.iter().sum() {
        0 => {}
        count => faults.push(format!("{count} canaries were silent for {RETURN:?}")),
    }
    match cut.iter().map(|life| life.song.bad).sum() {
        0 => {}
        bad => faults.push(format!("{bad} lines lost, repeated or changed before an end")),
    }
    let untouched = (0..AGENTS.len()).filter(|agent| !kind.touches(*agent));
    Row {
        event: Some(*kind),
        seconds: *seconds,
        canaries: alive.iter().sum(),
        may_end: sum(alive, &|agent| !spared(agent)),
        ended: cut.len(),
        lost: lost + sum(silent, &spared),
        dials: dials.len(),
        failed: failed.len(),
        failure: failed.first().map(|dial| reason(dial)),
        failed_elsewhere: elsewhere.len(),
        back_s: back.map(|back| back.as_secs_f64()),
        gap_s: untouched.map(|agent| gaps[agent].as_secs_f64()).fold(0.0, f64::max),
        usage: Some(*usage),
        note: outcome.note.clone(),
        missing: outcome.missing,
        faults,
    }
}

fn reason(dial: &Dial) -> String {
    let why = dial.outcome.as_ref().err().map_or("", String::as_str);
    format!("{} after {:.1} s: {why}", AGENTS[dial.agent].id, (dial.ended - dial.began).as_secs_f64())
}

/// From the end of the event to that of the first dial to an agent that began later and worked.
fn back(dials: &[&Dial], agent: usize, over: Instant) -> Option<Duration> {
    let mut later = dials.iter().filter(|dial| dial.agent == agent && dial.began >= over);
    later.find(|dial| dial.outcome.is_ok()).map(|dial| dial.ended - over)
}

/// Whether an event that touches the dial's agent happened during it, or was not long over.
fn is_touched(windows: &[Window], dial: &Dial) -> bool {
    let is_near = |window: &Window| window.began <= dial.ended && dial.began < window.over + RETURN;
    windows.iter().any(|window| window.kind.touches(dial.agent) && is_near(window))
}

/// The canaries that sang to the end, and those that ended before the first event.
fn last(windows: &[Window], lives: &[Life]) -> Row {
    let is_early = |life: &&Life| windows.first().is_none_or(|first| life.ended < first.began);
    let early = lives.iter().filter(|life| life.song.cut.is_some()).filter(is_early).count();
    let sang: Vec<_> = lives.iter().filter(|life| life.song.cut.is_none()).collect();
    let broken: Vec<_> = sang.iter().filter(|life| !life.song.whole || life.song.bad > 0).collect();
    let mut faults = Vec::new();
    if early > 0 {
        faults.push(format!("{early} canaries ended before any event"));
    }
    if let Some(life) = broken.first() {
        faults.push(format!("a canary of {} is not whole", AGENTS[life.agent].id));
    }
    Row {
        event: None,
        seconds: 0.0,
        canaries: sang.len(),
        may_end: 0,
        ended: early,
        lost: early + broken.len(),
        dials: 0,
        failed: 0,
        failure: None,
        failed_elsewhere: 0,
        back_s: None,
        gap_s: 0.0,
        usage: None,
        note: None,
        missing: false,
        faults,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canary::Song;

    const SECOND: Duration = Duration::from_secs(1);

    fn window(kind: Kind, began: Instant) -> Window {
        Window {
            kind,
            began,
            over: began + SECOND,
            seconds: 5.0,
            alive: [10; AGENTS.len()],
            silent: PerAgent::default(),
            gaps: PerAgent::default(),
            usage: Usage { memory_mb: 1.0, files: 1 },
            outcome: Outcome::default(),
        }
    }

    fn cut(agent: usize, ended: Instant) -> Life {
        Life { agent, ended, song: Song { cut: Some("gone".to_owned()), ..Song::default() } }
    }

    fn dial(agent: usize, began: Instant, outcome: Result<(), String>) -> Dial {
        Dial { agent, began, ended: began + SECOND / 10, outcome }
    }

    /// Dials that work a second after the window's end.
    fn later(window: &Window) -> Vec<Dial> {
        (0..AGENTS.len()).map(|agent| dial(agent, window.over + SECOND, Ok(()))).collect()
    }

    #[test]
    fn a_killed_agent_may_lose_its_own_canaries_and_dials_and_no_others() {
        let now = Instant::now();
        let windows = [window(Kind::Kill, now)];
        let mut dials = later(&windows[0]);
        dials.push(dial(0, now, Err("refused".to_owned())));
        let good = judge(&windows, &[cut(0, now + SECOND)], &dials);
        assert!(good[0].faults.is_empty(), "{:?}", good[0].faults);
        assert_eq!((good[0].canaries, good[0].may_end, good[0].ended, good[0].lost), (40, 20, 1, 0));
        assert_eq!((good[0].dials, good[0].failed, good[0].failed_elsewhere), (5, 1, 0));
        assert_eq!(good[0].back_s, Some(1.1));

        dials.push(dial(2, now, Err("refused".to_owned())));
        let bad = judge(&windows, &[cut(2, now + SECOND)], &dials);
        assert_eq!((bad[0].lost, bad[0].failed_elsewhere, bad[0].faults.len()), (1, 1, 2));
    }

    #[test]
    fn a_loss_belongs_to_the_event_in_which_it_shows() {
        let now = Instant::now();
        let windows = [window(Kind::Stop, now), window(Kind::Kill, now + 10 * SECOND)];
        let dials: Vec<_> = windows.iter().flat_map(later).collect();
        let rows = judge(&windows, &[cut(0, now + SECOND), cut(0, now + 10 * SECOND)], &dials);
        assert_eq!((rows[0].lost, rows[1].lost, rows[1].ended), (1, 0, 1));
        let rows = judge(&windows, &[cut(0, now - SECOND)], &dials);
        assert_eq!((rows[0].lost, rows[2].lost), (0, 1));
    }

    #[test]
    fn silence_and_dials_that_do_not_return_are_faults() {
        let now = Instant::now();
        let mut windows = [window(Kind::StopServer, now)];
        windows[0].silent[3] = 2;
        let rows = judge(&windows, &[], &[]);
        assert_eq!((rows[0].lost, rows[0].faults.len()), (2, 2));
    }

    #[test]
    fn a_canary_that_lost_a_line_is_lost_wherever_it_sang() {
        let now = Instant::now();
        let windows = [window(Kind::Kill, now)];
        let mut life = cut(0, now);
        life.song.bad = 1;
        assert_eq!(judge(&windows, &[life], &later(&windows[0]))[0].lost, 1);
        let whole = Song { whole: true, ..Song::default() };
        let to_the_end = |song: Song| Life { agent: 0, ended: now + SECOND, song };
        let rows = judge(&windows, &[to_the_end(whole), to_the_end(Song::default())], &later(&windows[0]));
        assert_eq!((rows[1].canaries, rows[1].lost), (2, 1));
    }
}
