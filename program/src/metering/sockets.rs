//! Metrics of sockets: of Unix sockets by their names, `frontend` and `admin`, and of UDP's.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Result};
use tracing::{debug, warn};
use tunnel::listen::{Change, Observer};
use tunnel::transport::quic;

use super::Maker;

/// The metrics of a program's sockets.
#[derive(Debug)]
pub struct SocketMetrics {
    present: IntGaugeVec,
    remade: IntCounterVec,
    udp_receive_buffer: IntGauge,
}

impl SocketMetrics {
    /// Makes the metrics.
    ///
    /// # Errors
    /// When metrics of these names exist.
    pub fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            present: make.gauges(
                "socket_present",
                "1 while the file of a Unix socket is this process's; 0 while clients cannot find it.",
                &["socket"],
            )?,
            remade: make.counters(
                "sockets_remade_total",
                "Files of Unix sockets that somebody removed or replaced, and that were made again.",
                &["socket"],
            )?,
            udp_receive_buffer: make.gauge(
                "udp_receive_buffer_bytes",
                "Receive buffer that the kernel gives a UDP socket, of 4194304 bytes requested. With less, bursts \
                 are lost on QUIC.",
            )?,
        })
    }

    /// Looks, once, whether the kernel gives UDP sockets the receive buffer that is requested,
    /// and says so if not.
    pub fn look_at_udp(&self) {
        match quic::receive_buffer() {
            Ok((requested, given)) => {
                self.udp_receive_buffer.set(i64::try_from(given).unwrap_or(i64::MAX));
                if let Some(refused) = refused_buffer(requested, given) {
                    warn!("{refused}");
                }
            }
            Err(error) => debug!(%error, "no UDP socket"),
        }
    }

    /// Counts the changes of a socket.
    pub fn observer(&self, socket: &'static str) -> Observer {
        let (present, remade) =
            (self.present.with_label_values(&[socket]), self.remade.with_label_values(&[socket]));
        Box::new(move |change| {
            present.set(i64::from(change != Change::Lost));
            if change == Change::Remade {
                remade.inc();
            }
        })
    }
}

/// The warning about a receive buffer, in bytes, that the kernel refuses.
fn refused_buffer(requested: usize, given: usize) -> Option<String> {
    let refused = || {
        format!(
            "the kernel refuses the receive buffer of UDP sockets and gives {given} bytes of {requested}, so \
             QUIC loses bursts: raise net.core.rmem_max"
        )
    };
    (given < requested).then(refused)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[test]
    fn a_small_receive_buffer_is_a_warning_and_any_a_metric() {
        assert_eq!(refused_buffer(4 << 20, 4 << 20), None);
        let refused = refused_buffer(4 << 20, 212_992).unwrap();
        assert!(refused.contains("212992 bytes of 4194304") && refused.contains("rmem_max"), "{refused}");
        let metrics = SocketMetrics::make(&mut Maker::new(&Registry::new(), "test")).unwrap();
        metrics.look_at_udp();
        let (_, given) = quic::receive_buffer().unwrap();
        assert_eq!(metrics.udp_receive_buffer.get(), i64::try_from(given).unwrap());
    }
}
