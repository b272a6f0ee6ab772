//! Flags that mean the same in both programs, and values of flags.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::value_parser;
use tokio::net::TcpListener;
use tunnel::listen::{bind_ip, bind_tcp};
use tunnel::transport::quic::{Datagrams, LARGEST};

use crate::args::{ack_timeout, go_bool};

/// Flags that mean the same in both programs.
#[derive(Debug, Clone, clap::Args)]
pub struct SharedArgs {
    /// Largest UDP datagram on QUIC, from 1200 to 6500 bytes. Without the flag as
    /// large as this host's network interfaces carry; more than 1200 only where the
    /// whole path is found to carry it.
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u16).range(1200..=6500))]
    max_datagram_size: Option<u16>,

    /// End a connection whose peer on TCP, a target of the agent or a client of the server, acknowledges
    /// nothing for this time while data is under way to it. A peer with a closed window that answers
    /// probes stays. 0s leaves vanished peers to the kernel: about 15 minutes.
    #[arg(long, value_name = "DURATION", value_parser = ack_timeout, default_value = "0s")]
    ack_timeout: Duration,

    /// Answer under /debug/pprof/ on the admin port.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    enable_profiling: bool,

    /// No effect, but needs --enable-profiling: there is no lock profile.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    enable_contention_profiling: bool,
}

impl SharedArgs {
    /// The largest datagrams that are tried on QUIC.
    pub fn datagrams(&self) -> Datagrams {
        Datagrams::of_this_host().at_most(self.max_datagram_size.unwrap_or(LARGEST))
    }

    /// Time without an acknowledgement after which a peer on TCP is given up; `None` is the kernel's.
    pub fn ack_timeout(&self) -> Option<Duration> {
        (!self.ack_timeout.is_zero()).then_some(self.ack_timeout)
    }

    /// Whether `/debug/pprof/` answers.
    ///
    /// # Errors
    /// When the profile of locks is asked for without the others.
    pub fn profiling(&self) -> anyhow::Result<bool> {
        ensure!(
            self.enable_profiling || !self.enable_contention_profiling,
            "--enable-contention-profiling needs --enable-profiling"
        );
        Ok(self.enable_profiling)
    }
}

/// The address of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind {
    /// `None` is every address.
    pub ip: Option<IpAddr>,
    /// With 0 the kernel chooses a free port.
    pub port: u16,
}

impl Bind {
    /// Listens on TCP. Needs a tokio runtime. `listener` is its name in the error.
    ///
    /// # Errors
    /// When the address is not available.
    pub fn listen(self, listener: &str) -> anyhow::Result<TcpListener> {
        bind_tcp(self.ip, self.port).with_context(|| format!("{listener} on port {}", self.port))
    }
}

/// Reads the address that `flag` gives.
///
/// # Errors
/// When the text is neither an IP address nor a known name.
pub fn bind(flag: &str, address: &str, port: u16) -> anyhow::Result<Bind> {
    let ip = bind_ip(address).map_err(anyhow::Error::msg).with_context(|| flag.to_owned())?;
    Ok(Bind { ip, port })
}

/// A path, unless it is empty.
pub fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// The path of an existing file that `flag` gives, unless it is empty.
///
/// # Errors
/// When there is no such file.
pub fn existing(flag: &str, path: &Path) -> anyhow::Result<Option<PathBuf>> {
    let path = given(path);
    if let Some(path) = &path {
        std::fs::metadata(path).with_context(|| format!("{flag}={}", path.display()))?;
    }
    Ok(path)
}
