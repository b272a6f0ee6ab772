//! Peers that say too much, on tunnels in memory.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::duplex;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::message::{
    Hello, MAX_CONTROL, Ping, Pong, Suspect, Welcome, decode_control, encode_control,
};

use super::*;
use crate::drain::Drain;
use crate::messages::control_messages;
use crate::transport::h2;

/// A judged end, and the control stream and the tunnel of its peer.
struct Pair {
    liveness: Liveness,
    peer: Messages,
    tunnels: [Tunnel; 2],
    drain: Drain,
}

impl Pair {
    async fn of(judge: Party) -> Self {
        let (drain, (near, far)) = (Drain::new(), duplex(1 << 20));
        let addr = "192.0.2.1:1".parse().unwrap();
        let (server, agent) = tokio::join!(h2::accept(near, addr, &drain), h2::connect(far, addr, &drain));
        let ((server, of_server), (agent, of_agent)) = (server.unwrap(), agent.unwrap());
        let tunnels = [Tunnel::H2(server), Tunnel::H2(agent)];
        let (own, own_control, peers_control) = match judge {
            Party::Server => (&tunnels[0], of_server, of_agent),
            Party::Agent => (&tunnels[1], of_agent, of_server),
        };
        let control = Some(control_messages(own_control));
        let (liveness, _) = Liveness::new(own.clone(), control, judge, Patience::default(), Arc::default());
        Self { liveness, peer: control_messages(peers_control), tunnels, drain }
    }

    /// The events while the peer sends `message` so many times.
    async fn events(self, message: Bytes, times: usize) -> Vec<Health> {
        let flood = async |peer: &mut Messages, _: &[Tunnel; 2]| {
            for _ in 0..times {
                // Fails once the judge has closed the tunnel.
                if peer.send(message.clone()).await.is_err() {
                    break;
                }
            }
        };
        let events = self.until(|event| matches!(event, Health::Dead(_)), flood).await;
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// The events up to the last, with their times, while `act` plays the peer.
    async fn until(
        self,
        is_last: impl Fn(&Health) -> bool,
        act: impl AsyncFnOnce(&mut Messages, &[Tunnel; 2]),
    ) -> Vec<(Duration, Health)> {
        let Self { mut liveness, mut peer, tunnels, drain } = self;
        let (began, mut all) = (Instant::now(), Vec::new());
        let acting = async {
            act(&mut peer, &tunnels).await;
            pending::<()>().await;
        };
        let judging = async {
            loop {
                let health = liveness.next().await;
                let ends = is_last(&health);
                all.push((began.elapsed(), health));
                if ends {
                    break;
                }
            }
        };
        tokio::select! {
            () = acting => {}
            () = judging => {}
        }
        drain.kill();
        all
    }
}

fn controls() -> [Control; 9] {
    [
        Control::Ping(Ping { number: 1, ..Ping::default() }),
        Control::Pong(Pong { number: 1, ..Pong::default() }),
        Control::Drain(DrainNotice { reason: "tired".to_owned(), taken: None }),
        Control::Token(Token { token: "token".to_owned() }),
        Control::Renew(Renew { reason: "old".to_owned() }),
        Control::Hello(Hello::default()),
        Control::Welcome(Welcome::default()),
        Control::Rejection(tunnel_proto::message::Rejection::default()),
        Control::Alive(tunnel_proto::message::Alive { next_ms: 1 }),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_any_message_ends_the_tunnel_with_a_reason() {
    let mut all: Vec<_> = controls().into_iter().map(|control| encode_control(control).unwrap()).collect();
    // A field of a newer version: number 100, of 0 bytes.
    all.push(Bytes::from_static(&[0, 3, 0xa2, 0x06, 0]));
    for party in [Party::Server, Party::Agent] {
        for message in &all {
            let events = Pair::of(party).await.events(message.clone(), 10_000).await;
            let dead = Health::Dead(ControlError::Flood.to_string());
            assert_eq!(events.last(), Some(&dead), "{party:?}: {message:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_repeated_is_one_event() {
    let notice =
        encode_control(Control::Drain(DrainNotice { reason: "tired".to_owned(), taken: None })).unwrap();
    for party in [Party::Server, Party::Agent] {
        let events = Pair::of(party).await.events(notice.clone(), 10_000).await;
        let drains = events.iter().filter(|event| matches!(event, Health::Draining { .. })).count();
        assert_eq!(drains, 1, "{party:?}: {events:?}");
    }
}

/// The events of an agent whose pings get no answer, and their times. `act` is called after `wait`.
async fn unanswered(
    wait: Duration,
    act: impl AsyncFnOnce(&mut Messages, &[Tunnel; 2]),
) -> Vec<(Duration, Health)> {
    let is_last = |event: &Health| matches!(event, Health::Dead(_) | Health::Suspect);
    let late = async |peer: &mut Messages, tunnels: &[Tunnel; 2]| {
        sleep(wait).await;
        act(peer, tunnels).await;
    };
    Pair::of(Party::Agent).await.until(is_last, late).await
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_proof_believes_that_its_server_does_not_hear_it() {
    let suspect = Patience::default().suspect;
    let told = async |peer: &mut Messages, _: &[Tunnel; 2]| {
        let silent_ms = u32::try_from(suspect.as_millis()).unwrap();
        peer.send(encode_control(Control::Suspect(Suspect { silent_ms })).unwrap()).await.unwrap();
    };
    for (told_after, suspects_after) in [(suspect / 4, suspect), (suspect * 2 / 3, suspect * 2 / 3)] {
        let events = unanswered(told_after, told).await;
        let [(at, Health::Suspect)] = events[..] else { panic!("{events:?}") };
        assert!(at >= suspects_after && at < suspects_after + suspect / 4, "{told_after:?}: {at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_ends_while_its_agent_waits_for_proof_ends_in_silence() {
    let suspect = Patience::default().suspect;
    let closed = async |_: &mut Messages, tunnels: &[Tunnel; 2]| tunnels[0].close("silent");
    let events = unanswered(suspect / 4, closed).await;
    assert!(matches!(events[..], [(_, Health::Dead(_))]), "{events:?}");
    let events = unanswered(suspect * 2 / 3, closed).await;
    let [(at, Health::Suspect)] = events[..] else { panic!("{events:?}") };
    assert!(at < suspect, "{at:?}");
}

/// An agent that does not read its answers. Its window has room for a part of one.
#[tokio::test(start_paused = true)]
async fn of_many_pings_that_wait_for_an_answer_only_the_last_gets_one() {
    const MANY: u64 = 100;
    let (drain, (near, far)) = (Drain::new(), duplex(1 << 20));
    let narrow = async {
        let mut builder = ::h2::server::Builder::new();
        let mut agent = builder.initial_window_size(64).handshake::<_, Bytes>(far).await.unwrap();
        let (request, mut respond) = agent.accept().await.unwrap().unwrap();
        drain.spawn("agent", async move { while agent.accept().await.is_some() {} });
        (request.into_body(), respond.send_response(http::Response::new(()), false).unwrap())
    };
    let server = h2::accept(near, "192.0.2.1:1".parse().unwrap(), &drain);
    let (server, (mut hear, mut say)) = tokio::join!(server, narrow);
    let (server, control) = server.unwrap();
    let (mut liveness, _peer) = Liveness::new(
        Tunnel::H2(server),
        Some(control_messages(control)),
        Party::Server,
        Patience::default(),
        Arc::default(),
    );
    let asking = async {
        for number in 1..=MANY {
            let ping = encode_control(Control::Ping(Ping { number, fill: true })).unwrap();
            say.send_data(ping, false).unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        let (mut answers, mut deframer) = (Vec::new(), Deframer::short(MAX_CONTROL));
        while answers.last() != Some(&MANY) {
            let data = hear.data().await.unwrap().unwrap();
            hear.flow_control().release_capacity(data.len()).unwrap();
            deframer.push(data);
            while let Some(message) = deframer.next().unwrap() {
                let Some(Control::Pong(Pong { number, .. })) = decode_control(message).unwrap() else {
                    panic!("no answer")
                };
                answers.push(number);
            }
        }
        answers
    };
    let answers = tokio::select! {
        answers = asking => answers,
        health = liveness.next() => panic!("{health:?}"),
    };
    assert_eq!(answers, [1, MANY], "the first was on its way");
    drain.kill();
}

/// The silence is over then, and has to be noticed once what was said meanwhile is read.
#[tokio::test(start_paused = true)]
async fn an_end_that_slept_through_its_alarm_looks_once_more_and_then_gives_the_peer_up() {
    let Pair { mut liveness, peer: _peer, tunnels: _tunnels, drain } = Pair::of(Party::Server).await;
    let asleep = async {
        for seconds in [17, 1] {
            yield_now().await;
            advance(Duration::from_secs(seconds)).await;
        }
        // Many more turns than the end needs.
        for _ in 0..1000 {
            yield_now().await;
        }
    };
    let health = tokio::select! {
        health = liveness.next() => Some(health),
        () = asleep => None,
    };
    assert_eq!(health, Some(Health::Dead("no sign of life for 15 seconds".to_owned())));
    drain.kill();
}
