//! Agents.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use tokio::sync::Mutex;
use tunnel::drain::Drain;
use tunnel::messages::{Messages, control_messages, greeting};
use tunnel::transport::{Tunnel, h2 as link};
use tunnel_proto::message::{Alive, Control, DialReply, Drain as DrainNotice, Ping, Token, encode_control};
use tunnel_proto::packet::Packet;
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_tests::grpc::Call;
use tunnel_tests::stock::CONNECT_PATH;
use tunnel_tests::{hello, spawn};

use super::Story;
use super::tape::Tap;
use crate::lane::Lane;
use crate::marks::NUMBER;
use crate::peers::PING;
use crate::session::Step;
use crate::world::World;

/// The bytes for a client that dials the agent.
pub(super) const SAYS: &str = "from the agent";

/// With what the agent refuses a dial.
pub(super) const REFUSES: &str = "refused in the recording";

/// The id of the agent.
const ID: &str = "agent-played";

/// Longest message of a client.
const LONGEST: usize = 64;

/// Number of the connection, in the words of a konnectivity agent.
const CONNECTION: i64 = 7;

/// An address for [`DialReply::Connected`].
const CONNECTED: ([u8; 4], u16) = ([127, 1, 0, 1], 80);

fn identifiers(lane: Lane) -> String {
    format!("ipv4={}", lane.served().unwrap_or_default())
}

fn refusal() -> Refusal {
    Refusal { kind: RefusalKind::Refused, text: REFUSES.to_owned() }
}

/// Messages that an agent may send later on its control stream.
fn notices() -> Vec<Control> {
    vec![
        Control::Alive(Alive { next_ms: 2400 }),
        Control::Token(Token { token: "a.b.c".to_owned() }),
        Control::Ping(Ping { number: 2, fill: true }),
        Control::Drain(DrainNotice { reason: "the recording ends".to_owned(), taken: Some(3) }),
    ]
}

/// The session on QUIC.
pub(super) fn on_quic(lane: Lane, story: Story) -> anyhow::Result<Vec<Step>> {
    let control = |control| encode_control(control).map(Vec::from);
    let mut steps = vec![
        Step::send(0, 0, control(Control::Hello(hello(ID, &identifiers(lane))))?),
        Step::send(1, 0, control(Control::Ping(Ping { number: 1, fill: false }))?),
    ];
    if story == Story::Serves {
        let connected =
            DialReply::Connected { address: SocketAddr::from(CONNECTED).to_string(), connect: None };
        steps.push(Step::send(2, 1, connected.encode()));
        steps.push(Step::send(2, 1, SAYS.as_bytes()));
        steps.push(Step::finish(2, 1));
    } else {
        steps.push(Step::send(2, 1, DialReply::Refused(refusal()).encode()));
        steps.push(Step::finish(2, 1));
        for notice in notices() {
            steps.push(Step::send(2, 0, control(notice)?));
        }
    }
    // The client, or the server in its place, ends its direction too.
    steps.push(Step::finish(if story == Story::Serves { 3 } else { 2 }, 0));
    Ok(steps)
}

/// The session on h2, with the product's own link.
pub(super) async fn on_h2(world: &World, lane: Lane, tap: Tap, story: Story) -> anyhow::Result<()> {
    let drain = Drain::new();
    let (tunnel, control) = link::connect(tap, world.server.agents, &drain).await?;
    let (tunnel, mut control) = (Tunnel::H2(tunnel), control_messages(control));
    control.send(encode_control(Control::Hello(hello(ID, &identifiers(lane))))?).await?;
    let welcome = greeting(&mut control).await?;
    anyhow::ensure!(matches!(welcome, Control::Welcome(_)), "{welcome:?}");
    control.send(encode_control(Control::Ping(Ping { number: 1, fill: false }))?).await?;
    control.recv().await?.context("no pong")?;
    let serve = async {
        let mut asked = tunnel.accept().await?;
        asked.dial().await.context("no dial")?.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
        if story == Story::Serves {
            let stream = asked.connected(CONNECTED.into(), None).await.context("the server left")?;
            let mut stream = Messages::new(stream, LONGEST);
            stream.send(SAYS.into()).await?;
            stream.recv().await?.context("no word of the client")?;
            stream.finish().await?;
            let rest = stream.recv().await?;
            anyhow::ensure!(rest.is_none(), "{rest:?}");
        } else {
            asked.refuse(refusal()).await;
            for notice in notices() {
                control.send(encode_control(notice)?).await?;
            }
            control.recv().await?.context("no second pong")?;
        }
        Ok(())
    };
    let served = Box::pin(dialled(world, lane, serve)).await;
    drain.kill();
    served
}

/// Dials the agent until it has served.
async fn dialled(
    world: &World,
    lane: Lane,
    serve: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let dials = Mutex::default();
    tokio::select! {
        served = serve => served,
        () = world.dial(lane.served().unwrap_or_default(), &dials) => Ok(()),
    }
}

/// The session on konnectivity, with the h2 library.
pub(super) async fn on_konnectivity(world: &World, lane: Lane, tap: Tap, story: Story) -> anyhow::Result<()> {
    let (requests, connection) = h2::client::handshake(tap).await?;
    let driver = spawn(connection);
    let request = Request::post(format!("https://{}{CONNECT_PATH}", world.server.agents))
        .header("content-type", "application/grpc")
        .header("user-agent", "grpc-go/1.83.0")
        .header("te", "trailers")
        .header("agentid", ID)
        .header("agentidentifiers", identifiers(lane))
        .body(())?;
    let (response, send) = requests.clone().ready().await?.send_request(request, false)?;
    let mut call = Call::new(send, response.await?.into_body());
    let serve = async {
        let asked = call.next().await;
        anyhow::ensure!(matches!(asked, Some(Packet::DialRequest { .. })), "{asked:?}");
        if story == Story::Refuses {
            let error = REFUSES.to_owned();
            call.packet(&Packet::DialResponse { error, connect_id: 0, random: NUMBER }).await;
            call.packet(&Packet::Drain).await;
            return Ok(());
        }
        let error = String::new();
        call.packet(&Packet::DialResponse { error, connect_id: CONNECTION, random: NUMBER }).await;
        call.packet(&Packet::Data { connect_id: CONNECTION, data: SAYS.into() }).await;
        let data = call.next().await;
        let expected = Packet::Data { connect_id: CONNECTION, data: Bytes::from_static(PING) };
        anyhow::ensure!(data.as_ref() == Some(&expected), "{data:?}");
        call.packet(&Packet::CloseResponse { error: String::new(), connect_id: CONNECTION }).await;
        Ok(())
    };
    Box::pin(dialled(world, lane, serve)).await?;
    call.finish();
    // The server answers with the status of the call.
    while call.next().await.is_some() {}
    drop((requests, driver));
    Ok(())
}
