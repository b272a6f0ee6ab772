//! Clients of the frontend on the Unix socket, with bad manners.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tunnel_proto::packet::Packet;
use tunnel_tests::frames::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, call, frame, repeat,
};
use tunnel_tests::{Target, payload};

use crate::siege::attack::{Attack, ask};
use crate::target::command::Command;

/// Bytes of a frame: what every end takes (RFC 9113 section 4.2).
const FRAME: usize = 16_384;

/// Time for an answer to a dial.
const PATIENCE: Duration = Duration::from_millis(500);

/// A call that has begun, by its number.
fn begun(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 2 * number + 1, &call())
}

fn data(number: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, 2 * number + 1, bytes)
}

fn dial(address: &str) -> Vec<u8> {
    Packet::DialRequest { protocol: "tcp".to_owned(), address: address.to_owned(), random: 7 }
        .encode()
        .to_vec()
}

/// 300 calls, each with 900 kB of a message of 4 MB.
pub(super) async fn half_messages(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .hold(4, 4, |attack, _| async move {
            let (mut http2, rest) = (attack.http2().await?, vec![7; FRAME]);
            for number in 0..75 {
                let head = data(number, &[0, 0, 0x3f, 0xff, 0xff]);
                http2.send(&[begun(number), head, data(number, &rest).repeat(55)].concat()).await?;
                attack.did(1);
            }
            Ok(http2)
        })
        .await;
    Ok(())
}

pub(super) async fn calls(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .hold(1, 1, |attack, _| async move {
            let mut http2 = attack.http2().await?;
            for first in (0..60_000).step_by(100) {
                http2.send(&repeat(100, |number| begun(first + number))).await?;
                attack.did(100);
            }
            Ok(http2)
        })
        .await;
    Ok(())
}

/// The answers to the dials, and the targets' bytes, cannot be sent.
pub(super) async fn zero_windows(attack: Arc<Attack>) -> anyhow::Result<()> {
    /// `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113 section 6.5.2), with the value 0.
    const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
    let dial = Arc::<[u8]>::from(dial(&attack.ground.banner.to_string()));
    attack
        .hold(2, 2, move |attack, _| {
            let dial = Arc::clone(&dial);
            async move {
                let mut http2 = attack.http2().await?;
                http2.send(&frame(SETTINGS, 0, 0, &NO_WINDOW)).await?;
                for number in 0..1000 {
                    http2.send(&[begun(number), data(number, &dial)].concat()).await?;
                    attack.did(1);
                }
                Ok(http2)
            }
        })
        .await;
    Ok(())
}

pub(super) async fn unread(attack: Arc<Attack>) -> anyhow::Result<()> {
    let request = [connect(&attack.ground.target.to_string()), Command::Zeros.line()].concat();
    attack
        .hold(32, 100, move |attack, _| {
            let request = request.clone();
            async move {
                let mut unix = attack.unix().await?;
                unix.write_all(request.as_bytes()).await?;
                attack.did(1);
                Ok(unix)
            }
        })
        .await;
    Ok(())
}

/// CVE-2023-44487, with a dial in each call.
pub(super) async fn rapid_reset(attack: Arc<Attack>) -> anyhow::Result<()> {
    let dial = Arc::<[u8]>::from(dial(&attack.ground.target.to_string()));
    attack
        .repeat(4, 10_000, move |attack, _| {
            let dial = Arc::clone(&dial);
            async move {
                let mut http2 = attack.http2().await?;
                for first in (0..20_000).step_by(100) {
                    let resets = repeat(100, |number| {
                        let number = first + number;
                        let cancel = frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes());
                        [begun(number), data(number, &dial), cancel].concat()
                    });
                    http2.send(&resets).await?;
                    attack.did(100);
                }
                Ok(())
            }
        })
        .await;
    Ok(())
}

/// A field with a value of so many bytes, in HPACK's literal form that is added to the table (RFC 7541
/// section 6.2.1).
pub(super) fn field(length: usize) -> Vec<u8> {
    let rest = length - 127;
    let length_below = [0x80 | (rest % 128) as u8, 0x80 | (rest / 128 % 128) as u8, (rest / 16_384) as u8];
    [&[0x40, 1, b'x', 0x7f], &length_below[..], &vec![b'v'; length]].concat()
}

pub(super) async fn big_headers(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .hold(1, 1, |attack, _| async move {
            let mut http2 = attack.http2().await?;
            for number in 0..2000 {
                let head = frame(HEADERS, 0, 2 * number + 1, &call());
                let field = frame(CONTINUATION, END_HEADERS, 2 * number + 1, &field(14_000));
                http2.send(&[head, field].concat()).await?;
                attack.did(1);
            }
            Ok(http2)
        })
        .await;
    Ok(())
}

/// A block of 16 kB names a field of 4 kB sixteen thousand times.
pub(super) async fn hpack_bomb(attack: Arc<Attack>) -> anyhow::Result<()> {
    /// The newest entry of the table that blocks add to (RFC 7541 section 2.3.3).
    const NEWEST: u8 = 0x80 | 62;
    attack
        .repeat(2, 10_000, |attack, _| async move {
            let mut http2 = attack.http2().await?;
            http2.send(&frame(HEADERS, END_HEADERS, 1, &[call(), field(4000)].concat())).await?;
            let expanding = [call(), vec![NEWEST; FRAME - 200]].concat();
            for number in 1..2000 {
                http2.send(&frame(HEADERS, END_HEADERS, 2 * number + 1, &expanding)).await?;
                attack.did(1);
            }
            Ok(())
        })
        .await;
    Ok(())
}

pub(super) async fn frames(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .repeat(3, 10_000, |attack, _| async move {
            let mut http2 = attack.http2().await?;
            http2.send(&begun(0)).await?;
            let kinds = [
                frame(SETTINGS, 0, 0, &[]),
                frame(PING, 0, 0, &[7; 8]),
                data(0, &[]),
                frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()),
            ];
            for _ in 0..1000 {
                http2.send(&kinds.concat().repeat(100)).await?;
                attack.did(400);
            }
            Ok(())
        })
        .await;
    Ok(())
}

pub(super) fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

/// Dials, and waits for the answers that do not come.
pub(super) async fn black_holes(attack: Arc<Attack>) -> anyhow::Result<()> {
    let hole = Target::black_hole(Ipv4Addr::LOCALHOST).await;
    let request = connect(&hole.to_string());
    attack
        .hold(64, 2000, move |attack, _| {
            let request = request.clone();
            async move {
                let mut unix = attack.unix().await?;
                unix.write_all(request.as_bytes()).await?;
                attack.did(1);
                Ok(unix)
            }
        })
        .await;
    Ok(())
}

pub(super) async fn no_agent(attack: Arc<Attack>) -> anyhow::Result<()> {
    dials(attack, (0..10_000).map(|number| format!("nobody-{number}.test")).collect()).await;
    Ok(())
}

/// Dials these hosts in turn, and leaves when there is no answer.
pub(super) async fn dials(attack: Arc<Attack>, hosts: Vec<String>) {
    let requests: Arc<[String]> = hosts.iter().map(|host| connect(&format!("{host}:80"))).collect();
    attack
        .repeat(128, 100_000, move |attack, number| {
            let requests = Arc::clone(&requests);
            async move {
                let request = requests[number as usize % requests.len()].as_bytes();
                attack.did(1);
                timeout(PATIENCE, ask(attack.unix().await?, request)).await??;
                Ok(())
            }
        })
        .await;
}

pub(super) async fn malformed_heads(attack: Arc<Attack>) -> anyhow::Result<()> {
    let heads: Arc<[Vec<u8>]> = Arc::new([
        payload::bytes(1, 4096),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        connect(&"a".repeat(100_000)).into_bytes(),
        b"CONNECT a:http HTTP/1.1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
    ]);
    attack
        .repeat(64, 200_000, move |attack, number| {
            let heads = Arc::clone(&heads);
            async move {
                attack.did(1);
                ask(attack.unix().await?, &heads[number as usize % heads.len()]).await.map(drop)
            }
        })
        .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_the_length_that_it_names() {
        for length in [4000, 14_000] {
            let field = field(length);
            // RFC 7541 section 5.1: a prefix of seven ones, then seven bits per byte, the lowest first.
            let rest = (0..3).map(|at| usize::from(field[4 + at] & 0x7f) << (7 * at)).sum::<usize>();
            assert_eq!((field[3], 127 + rest, field.len() - 7), (0x7f, length, length));
        }
    }
}
