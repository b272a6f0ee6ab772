//! Requests to the health port, and lines of the log.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::clients::connect;
use crate::siege::attack::{Attack, STRANGER, ask, tcp_from};

const READY: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

pub(super) async fn health(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .repeat(128, 200_000, |attack, _| async move {
            ask(tcp_from(STRANGER, attack.ground.health).await?, READY).await?;
            attack.did(1);
            Ok(())
        })
        .await;
    Ok(())
}

pub(super) async fn metrics(attack: Arc<Attack>) -> anyhow::Result<()> {
    let request = [&METRICS[..METRICS.len() - 2], b"Connection: close\r\n\r\n"].concat();
    attack
        .repeat(128, 100_000, move |attack, _| {
            let request = request.clone();
            async move {
                ask(tcp_from(STRANGER, attack.ground.health).await?, &request).await?;
                attack.did(1);
                Ok(())
            }
        })
        .await;
    Ok(())
}

/// Each asks twenty times, and reads nothing.
pub(super) async fn stalled_metrics(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .hold(64, 2000, |attack, _| async move {
            let mut tcp = tcp_from(STRANGER, attack.ground.health).await?;
            tcp.write_all(&METRICS.repeat(20)).await?;
            attack.did(1);
            Ok(tcp)
        })
        .await;
    Ok(())
}

/// Connections that end at once, each with a line of the log.
pub(super) async fn stalled_log(attack: Arc<Attack>) -> anyhow::Result<()> {
    let request = connect(&attack.ground.banner.to_string());
    attack
        .repeat(32, 200_000, move |attack, _| {
            let request = request.clone();
            async move {
                let mut unix = attack.unix().await?;
                unix.write_all(request.as_bytes()).await?;
                unix.read_u8().await?;
                attack.did(1);
                Ok(())
            }
        })
        .await;
    Ok(())
}
