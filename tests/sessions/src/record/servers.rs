//! Servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use http::Response;
use tunnel::drain::Drain;
use tunnel::messages::{Messages, control_messages, greeting};
use tunnel::transport::{Tunnel, h2 as link};
use tunnel_proto::message::{
    Control, Dial, Drain as DrainNotice, Pong, Rejection, RejectionKind, Renew, Suspect, VERSION, Welcome,
    encode_control,
};
use tunnel_proto::packet::Packet;
use tunnel_tests::grpc::Call;
use tunnel_tests::spawn;

use super::Story;
use super::tape::Tap;
use crate::marks::{NUMBER, TARGET};
use crate::peers::PING;
use crate::session::Step;

/// The server's id.
const ID: &str = "server-played";

/// Longest message of an echo.
const LONGEST: usize = 64;

fn welcome() -> Control {
    Control::Welcome(Welcome {
        version: VERSION,
        server_id: ID.to_owned(),
        server_count: 1,
        software: "tunnel-server/0.0.0".to_owned(),
        ..Welcome::default()
    })
}

fn rejection() -> Control {
    Control::Rejection(Rejection {
        code: RejectionKind::Unavailable.code(),
        text: "rejected in the recording".to_owned(),
        ..Rejection::default()
    })
}

/// Messages that a server may send later on its control stream.
fn notices() -> Vec<Control> {
    vec![
        Control::Suspect(Suspect { silent_ms: 15_000 }),
        Control::Renew(Renew { reason: "the recording ends".to_owned() }),
        Control::Drain(DrainNotice { reason: "the recording ends".to_owned(), taken: None }),
    ]
}

fn dial() -> anyhow::Result<Dial> {
    let target = TARGET.parse().ok().context("a target")?;
    Ok(Dial { target, timeout: Duration::from_secs(5), connection_id: 1, measure: true })
}

fn pong() -> Control {
    Control::Pong(Pong { number: 1, ..Pong::default() })
}

/// The session on QUIC.
pub(super) fn on_quic(story: Story) -> anyhow::Result<Vec<Step>> {
    let control = |control| encode_control(control).map(Vec::from);
    if story == Story::Refuses {
        return Ok(vec![Step::send(1, 0, control(rejection())?), Step::finish(1, 0)]);
    }
    let mut steps = vec![Step::send(1, 0, control(welcome())?), Step::send(1, 0, control(pong())?)];
    if story == Story::AtOnce {
        steps.push(Step::send(1, 1, [&dial()?.encode()[..], PING].concat()));
        steps.push(Step::finish(1, 1));
        steps.push(Step::finish(3, 0));
        return Ok(steps);
    }
    steps.extend([Step::send(1, 1, dial()?.encode()), Step::send(2, 1, PING), Step::finish(2, 1)]);
    for notice in notices() {
        steps.push(Step::send(3, 0, control(notice)?));
    }
    steps.push(Step::finish(3, 0));
    Ok(steps)
}

/// The session on h2, with the product's own link.
pub(super) async fn on_h2(tap: Tap, story: Story) -> anyhow::Result<()> {
    let drain = Drain::new();
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let (tunnel, control) = link::accept(tap, from, &drain).await?;
    let (tunnel, mut control) = (Tunnel::H2(tunnel), control_messages(control));
    let hello = greeting(&mut control).await?;
    anyhow::ensure!(matches!(hello, Control::Hello(_)), "{hello:?}");
    if story == Story::Refuses {
        control.send(encode_control(rejection())?).await?;
        control.finish().await?;
        // The agent leaves then.
        let _ = control.recv().await;
        return Ok(());
    }
    control.send(encode_control(welcome())?).await?;
    control.recv().await?.context("no ping")?;
    control.send(encode_control(pong())?).await?;
    let reached = tunnel.dial(&dial()?, None, || {}).await?;
    let mut stream = Messages::new(reached.stream, LONGEST);
    stream.send(PING.into()).await?;
    stream.recv().await?.context("no echo")?;
    stream.finish().await?;
    anyhow::ensure!(stream.recv().await?.is_none(), "more than an echo");
    for notice in notices() {
        control.send(encode_control(notice)?).await?;
    }
    drain.kill();
    Ok(())
}

/// The session on konnectivity, with the h2 library.
pub(super) async fn on_konnectivity(tap: Tap, story: Story) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(tap).await?;
    let (request, mut respond) = connection.accept().await.context("no call")??;
    let driver = spawn(async move { while connection.accept().await.is_some() {} });
    let response = Response::builder().header("content-type", "application/grpc");
    if story == Story::Refuses {
        let text = "refused in the recording";
        let refusal = response.header("grpc-status", 16).header("grpc-message", text).body(())?;
        respond.send_response(refusal, true)?;
        // The agent leaves then.
        driver.join().await;
        return Ok(());
    }
    let welcome = response.header("serverid", ID).header("servercount", "1").body(())?;
    let mut call = Call::new(respond.send_response(welcome, false)?, request.into_body());
    let ask = |address: &str, random| Packet::DialRequest {
        protocol: "tcp".to_owned(),
        address: address.to_owned(),
        random,
    };
    call.packet(&ask(TARGET, 5)).await;
    let answer = call.next().await;
    anyhow::ensure!(matches!(answer, Some(Packet::DialResponse { random: 5, .. })), "{answer:?}");
    call.packet(&Packet::Data { connect_id: NUMBER, data: PING.into() }).await;
    let echo = call.next().await;
    anyhow::ensure!(matches!(echo, Some(Packet::Data { .. })), "{echo:?}");
    call.packet(&Packet::CloseRequest { connect_id: NUMBER }).await;
    let closed = call.next().await;
    anyhow::ensure!(matches!(closed, Some(Packet::CloseResponse { .. })), "{closed:?}");
    // Nobody listens there.
    call.packet(&ask("127.0.0.1:1", 6)).await;
    let refused = call.next().await;
    anyhow::ensure!(matches!(refused, Some(Packet::DialResponse { random: 6, .. })), "{refused:?}");
    call.packet(&Packet::CloseDial { random: 6 }).await;
    call.say.status(0, "");
    Ok(())
}
