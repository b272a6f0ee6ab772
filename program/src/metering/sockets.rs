//! Metrics of Unix sockets, by their names: `frontend`, `admin`.

use prometheus::{IntCounterVec, IntGaugeVec, Result};
use tunnel::listen::{Change, Observer};

use super::Maker;

/// The metrics of all Unix sockets of a program.
#[derive(Debug)]
pub struct SocketMetrics {
    present: IntGaugeVec,
    remade: IntCounterVec,
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
        })
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
