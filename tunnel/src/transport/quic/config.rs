//! The settings of connections and endpoints.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, VarInt};

use super::congestion;

/// Flow-control window of a stream, in bytes. quinn takes it before a round-trip time is
/// known, so one value serves all distances. It carries 155 MB/s at a round trip of 20 ms and
/// 45 at 80 ms; 1 MiB carries 42 and 12. Above, each stalled reader pins more of the process's
/// [`Budget`](crate::relay::Budget); below, distant tunnels are slower in proportion.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;

/// Bytes of one tunnel that are sent and not yet acknowledged. Less slows distant tunnels;
/// more is memory that one slow agent can take from a server.
const SEND_WINDOW: u64 = 8 << 20;

/// Idle timeout of a connection, in milliseconds, which ends its streams. A silent peer is
/// suspect sooner, and new work goes elsewhere ([`Patience`](crate::liveness::Patience)).
const IDLE_TIMEOUT_MS: u32 = 70_000;

/// The search for the largest datagram ends with steps of this fraction of it, or of
/// [`LEAST_STEP`] bytes. Smaller steps cost a new tunnel more probes; larger ones leave more
/// of each datagram unused.
const LAST_STEP: u16 = 40;

/// quinn's default, in bytes.
const LEAST_STEP: u16 = 20;

/// The settings of one connection. `streams` is the peer's first grant, `datagram` the
/// largest datagram that is tried.
pub(super) fn transport_config(
    streams: u32,
    keep_alive: Option<Duration>,
    datagram: u16,
) -> Arc<quinn::TransportConfig> {
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10)).max_ack_delay(Some(Duration::from_millis(5)));
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    mtu.upper_bound(datagram).minimum_change(LEAST_STEP.max(datagram / LAST_STEP));

    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        // Unlimited, so that stalled readers cannot use it up for the others.
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(keep_alive)
        .initial_rtt(Duration::from_millis(50))
        .datagram_receive_buffer_size(None)
        .allow_spin(false)
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::<congestion::Config>::default())
        .mtu_discovery_config(Some(mtu));
    Arc::new(config)
}

/// The settings of a socket: the largest datagram taken, and the key of stateless resets.
pub(super) fn endpoint_config(
    datagram: u16,
    reset_key: Option<&Arc<ring::hmac::Key>>,
) -> io::Result<quinn::EndpointConfig> {
    let mut config = match reset_key {
        Some(key) => quinn::EndpointConfig::new(Arc::clone(key) as _),
        None => quinn::EndpointConfig::default(),
    };
    // A transport parameter: peers send no larger ones.
    config.max_udp_payload_size(datagram).map_err(io::Error::other)?;
    Ok(config)
}
