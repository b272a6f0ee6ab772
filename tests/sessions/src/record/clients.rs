//! Clients.

use http::Request;
use tunnel_proto::packet::{PROXY_PATH, Packet};
use tunnel_tests::grpc::Call;
use tunnel_tests::spawn;

use super::Story;
use super::tape::Tap;
use crate::marks::{NUMBER, TARGET};
use crate::peers::PING;
use crate::session::{Act, Step};

/// A target that no agent serves.
const NOBODYS: &str = "127.9.9.9:80";

/// The session with HTTP CONNECT.
pub(super) fn connect(story: Story) -> Vec<Step> {
    let head = |target| {
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: Go-http-client/1.1\r\n\r\n")
    };
    match story {
        Story::Serves => {
            vec![Step::send(0, 0, head(TARGET)), Step::send(1, 0, PING), Step::finish(2, 0)]
        }
        Story::Refuses => vec![Step::send(0, 0, head(NOBODYS)), Step::finish(1, 0)],
        Story::AtOnce => {
            let bytes = [head(TARGET).as_bytes(), PING].concat();
            vec![Step::send(0, 0, bytes), Step::finish(0, 0), Step { after: 2, on: 0, act: Act::Pause }]
        }
    }
}

/// The session with gRPC, with the h2 library.
pub(super) async fn grpc(tap: Tap, story: Story) -> anyhow::Result<()> {
    let (requests, connection) = h2::client::handshake(tap).await?;
    let driver = spawn(connection);
    let request = Request::post(format!("http://localhost{PROXY_PATH}"))
        .header("content-type", "application/grpc")
        .header("user-agent", "grpc-go/1.83.0")
        .header("te", "trailers")
        .body(())?;
    let (response, send) = requests.clone().ready().await?.send_request(request, false)?;
    let mut call = Call::new(send, response.await?.into_body());
    let address = if story == Story::Serves { TARGET } else { NOBODYS }.to_owned();
    call.packet(&Packet::DialRequest { protocol: "tcp".to_owned(), address, random: 9 }).await;
    let answer = call.next().await;
    anyhow::ensure!(matches!(answer, Some(Packet::DialResponse { random: 9, .. })), "{answer:?}");
    if story == Story::Serves {
        call.packet(&Packet::Data { connect_id: NUMBER, data: PING.into() }).await;
        let echo = call.next().await;
        anyhow::ensure!(matches!(echo, Some(Packet::Data { .. })), "{echo:?}");
        call.packet(&Packet::CloseRequest { connect_id: NUMBER }).await;
    }
    while call.next().await.is_some() {}
    call.hear.status().await;
    call.finish();
    drop((requests, driver));
    Ok(())
}
