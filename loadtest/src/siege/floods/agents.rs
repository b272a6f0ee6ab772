//! Agents with a good certificate and bad manners.

use std::sync::Arc;

use bytes::Bytes;
use measuring_kit::Link;
use tunnel::tls::ALPN;
use tunnel::transport;
use tunnel_proto::message::{Control, Drain, encode_control};
use tunnel_proto::packet::Packet;
use tunnel_tests::stock::{Metadata, StockAgent};
use tunnel_tests::{Answer, FakeAgent};

use super::clients::dials;
use crate::siege::api::forged;
use crate::siege::attack::Attack;
use crate::siege::ground::Ground;
use crate::siege::guest::{AGENT, Guest, ping};

/// Bytes that are sent at once.
const BURST: usize = 16 * 1024;

/// The most identifiers of an agent.
pub(super) const IDENTIFIERS: usize = 512;

const LINKS: [Link; 2] = [Link::Quic, Link::H2];

/// Sends a message as fast as the window takes it, on a new tunnel whenever the server ends one.
async fn control(attack: Arc<Attack>, links: &'static [Link], message: Bytes) -> anyhow::Result<()> {
    let count = BURST / message.len();
    let burst = Bytes::from(message.repeat(count));
    attack
        .repeat(2, 10_000, move |attack, number| {
            let burst = burst.clone();
            async move {
                let link = links[number as usize % links.len()];
                let id = format!("floods-{number}");
                let mut guest = Box::pin(Guest::admitted(&attack.ground, link, &id, "")).await?;
                while guest.messages.send(burst.clone()).await.is_ok() {
                    attack.did(count as u64);
                }
                Ok(())
            }
        })
        .await;
    Ok(())
}

pub(super) async fn pings(attack: Arc<Attack>, link: Link) -> anyhow::Result<()> {
    let link = match link {
        Link::Quic => &[Link::Quic],
        Link::H2 => &[Link::H2],
    };
    control(attack, link, ping()?).await
}

pub(super) async fn drains(attack: Arc<Attack>) -> anyhow::Result<()> {
    let drain = Drain { reason: "tired".to_owned(), taken: None };
    control(attack, &LINKS, encode_control(Control::Drain(drain))?).await
}

pub(super) async fn unknown(attack: Arc<Attack>) -> anyhow::Result<()> {
    control(attack, &LINKS, Bytes::from_static(&[0, 3, 0xa2, 0x06, 0])).await
}

/// Most send the first byte of a greeting: on QUIC it shows the control stream, with which admission begins.
pub(super) async fn no_greeting(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .hold(32, 2000, |attack, number| async move {
            let mut guest = Box::pin(Guest::come(&attack.ground, LINKS[number as usize % 2], AGENT)).await?;
            if number % 8 != 0 {
                guest.messages.send(Bytes::from_static(&[0])).await?;
            }
            attack.did(1);
            Ok(guest)
        })
        .await;
    Ok(())
}

/// The server keeps few of them, and asks the older ones whether they live.
pub(super) async fn one_id(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .hold(32, 2000, |attack, number| async move {
            let link = LINKS[number as usize % 2];
            let guest = Box::pin(Guest::admitted(&attack.ground, link, "same", "")).await?;
            attack.did(1);
            Ok(guest)
        })
        .await;
    Ok(())
}

/// Each holds one certificate and a token of one account.
pub(super) async fn many(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .hold(32, 2000, |attack, number| async move {
            let (link, id) = (LINKS[number as usize % 2], format!("many-{number}"));
            let guest = Box::pin(Guest::admitted(&attack.ground, link, &id, "")).await?;
            attack.did(1);
            Ok(guest)
        })
        .await;
    Ok(())
}

/// Tokens of which only a review shows that nobody has signed them, each another one.
pub(super) async fn forged_tokens(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .repeat(32, 100_000, |attack, number| async move {
            let (link, token) = (LINKS[number as usize % 2], forged(number));
            attack.did(1);
            Box::pin(Guest::with_token(&attack.ground, link, AGENT, "forger", "", &token)).await.map(drop)
        })
        .await;
    Ok(())
}

/// Agents that come and go, and dials to the names of those that left.
pub(super) async fn churn(attack: Arc<Attack>) -> anyhow::Result<()> {
    let names = (0..4000).map(|number| format!("{}-{}.test", number % 40, number / 40)).collect();
    let (churning, dialling) = (register(Arc::clone(&attack), IDENTIFIERS), dials(attack, names));
    tokio::select! {
        churned = churning => churned,
        () = dialling => Ok(()),
    }
}

pub(super) async fn register(attack: Arc<Attack>, identifiers: usize) -> anyhow::Result<()> {
    attack
        .repeat(8, 100_000, move |attack, number| async move {
            let names: Vec<_> = (0..identifiers).map(|at| format!("host={number}-{at}.test")).collect();
            let (link, id) = (LINKS[number as usize % 2], format!("comes-{number}"));
            let guest = Box::pin(Guest::admitted(&attack.ground, link, &id, &names.join("&"))).await?;
            attack.did(1);
            drop(guest);
            Ok(())
        })
        .await;
    Ok(())
}

/// The first bytes of a message of the greatest length.
pub(super) async fn half(attack: Arc<Attack>) -> anyhow::Result<()> {
    let begin = Bytes::from([&48_000_u16.to_be_bytes()[..], &[1; 47_000]].concat());
    attack
        .hold(16, 500, move |attack, number| {
            let begin = begin.clone();
            async move {
                let (link, id) = (LINKS[number as usize % 2], format!("half-{number}"));
                let mut guest = Box::pin(Guest::admitted(&attack.ground, link, &id, "")).await?;
                guest.messages.send(begin).await?;
                attack.did(1);
                Ok(guest)
            }
        })
        .await;
    Ok(())
}

/// Agents that answer each dial wrongly, and clients that dial them.
pub(super) async fn nonsense(attack: Arc<Attack>) -> anyhow::Result<()> {
    let answers = [
        Answer::Bytes(Bytes::from_static(&[0, 3, 0xff, 0xff, 0xff])),
        Answer::Bytes(Bytes::from_static(&[0, 0])),
        Answer::Bytes(Bytes::from(vec![0x10; 4098])),
        // Half an answer.
        Answer::Bytes(Bytes::from_static(&[0, 9, 1])),
        Answer::End,
        Answer::Reset,
    ];
    let (mut liars, mut names) = (Vec::new(), Vec::new());
    for link in [transport::Link::Quic, transport::Link::H2] {
        for (number, answer) in answers.iter().enumerate() {
            let name = format!("liar-{number}-{}.test", link.label());
            let id = format!("liar-{number}-{}", link.label());
            let hello = Ground::hello(&id, &format!("host={name}"), &attack.ground.token);
            let (server, tls) = (attack.ground.agents, attack.ground.agent_tls(ALPN)?);
            liars.push(Box::pin(FakeAgent::join_at(server, tls, link, hello, answer.clone())).await);
            names.push(name);
        }
    }
    dials(attack, names).await;
    drop(liars);
    Ok(())
}

/// Packets of connections that are not there, and what is no packet.
pub(super) async fn konnectivity(attack: Arc<Attack>) -> anyhow::Result<()> {
    let data = Packet::Data { connect_id: 5, data: Bytes::from_static(b"x") };
    let answer = Packet::DialResponse { error: String::new(), connect_id: 9, random: 9 };
    let packets: Arc<[Bytes]> = Arc::new([
        Bytes::from(data.encode().repeat(500)),
        Bytes::from(answer.encode().repeat(500)),
        Bytes::from(Packet::CloseRequest { connect_id: -1 }.encode().repeat(500)),
        Bytes::from(Packet::Unknown(42).encode().repeat(500)),
        Bytes::from_static(&[0; 5]),
        Bytes::from_static(&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]),
        Bytes::from_static(&[0, 0, 0x40, 0, 1]),
        Bytes::from_static(&[1, 0, 0, 0, 1, 7]),
        // Half a message.
        Bytes::from([&[0, 0, 0x3f, 0xff, 0xff][..], &vec![7; 900_000]].concat()),
    ]);
    let tls = attack.ground.agent_tls(b"h2")?;
    attack
        .repeat(16, 10_000, move |attack, number| {
            let (packets, tls) = (Arc::clone(&packets), Arc::clone(&tls));
            async move {
                let id = format!("stock-{}", number % 100);
                let token = format!("Bearer {}", attack.ground.token);
                let metadata = Metadata::of(&id).and("authorization", &token);
                let joined = Box::pin(StockAgent::connect(attack.ground.agents, tls, metadata));
                let mut agent = joined.await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
                agent.call.send(packets[number as usize % packets.len()].clone()).await;
                attack.did(1);
                Ok(())
            }
        })
        .await;
    Ok(())
}
