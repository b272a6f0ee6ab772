//! The way in for strangers: peers that have not finished a handshake.
//!
//! A TCP connection waits for its ClientHello in one crowd, and does its handshake in another, so
//! silent connections hinder no handshake. QUIC has a crowd of its own, and validates addresses once
//! it fills. The processor time of handshakes has a rate, so traffic goes on beside a flood of them.

mod ration;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tunnel::listen::Crowd;
use tunnel::transport::{HandshakeError, quic};

use ration::Ration;

/// Connections that have sent no whole ClientHello. More take memory and files; fewer turn away
/// clients on slow networks while strangers come.
const SILENT: usize = 1024;

/// Handshakes at once, of each kind. Fewer turn away a fleet that comes back on a slow network; more
/// let strangers take memory, 30 to 60 KB for each.
const HANDSHAKES: usize = 512;

/// Handshakes on QUIC from which addresses are validated first, with one more round trip. Fewer delay
/// the agents of a fleet that comes back; more let made-up addresses take the time of real ones.
const UNVALIDATED: usize = 32;

/// The part of the files of this process that strangers of one kind may take. A smaller part turns
/// peers away on hosts with a low limit; with a larger one, all kinds together leave too few files to
/// clients and agents.
const FILES: usize = 16;

/// Limits of one listener's strangers. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    silent: Crowd,
    tls: Crowd,
    quic: Crowd,
    ration: Ration,
}

impl Door {
    /// For a process that may open so many files.
    pub(crate) fn new(files: usize) -> Self {
        let crowd = |most: usize| Crowd::new(most.min(files / FILES));
        // QUIC takes no files.
        let quic = Crowd::new(HANDSHAKES);
        Self { silent: crowd(SILENT), tls: crowd(HANDSHAKES), quic, ration: Ration::default() }
    }

    /// Does the handshake of TLS. The caller limits the time. Not cancel safe.
    ///
    /// # Errors
    /// When the handshake fails, or later strangers take its place.
    pub(crate) async fn tls(
        &self,
        tcp: TcpStream,
        from: IpAddr,
        config: Arc<ServerConfig>,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let failed = |error: io::Error| HandshakeError::tls(error.to_string());
        let spot = self.silent.enter(from);
        let start = tokio::select! {
            biased;
            start = LazyConfigAcceptor::new(Acceptor::default(), tcp) => start.map_err(failed)?,
            () = spot.lost() => return Err(HandshakeError::Crowded),
        };
        let began = self.tls.enter(from);
        drop(spot);
        tokio::select! {
            biased;
            tls = self.ration.share(start.into_stream(config)) => tls.map_err(failed),
            () = began.lost() => Err(HandshakeError::Crowded),
        }
    }

    /// Does the handshake of QUIC. `None` if the agent is asked to come again with proof of its
    /// address. The caller limits the time. Not cancel safe.
    ///
    /// # Errors
    /// As [`Self::tls`].
    pub(crate) async fn quic(
        &self,
        incoming: quic::Incoming,
    ) -> Option<Result<(quic::Tunnel, quic::Stream), HandshakeError>> {
        let incoming = incoming.validated(self.quic.taken() < UNVALIDATED)?;
        let spot = self.quic.enter(incoming.from().ip());
        self.ration.wait().await;
        Some(tokio::select! {
            biased;
            done = incoming.accept() => done,
            () = spot.lost() => Err(HandshakeError::Crowded),
        })
    }
}
