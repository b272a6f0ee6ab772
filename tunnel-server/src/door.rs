//! The way in for strangers: peers that have not finished a handshake.
//!
//! A TCP connection waits for its ClientHello in one crowd, for its turn in another, and does its
//! handshake in a third, so silent connections hinder no handshake, and a fleet that comes at once does
//! not push itself out. QUIC has crowds of its own, and validates addresses once they fill. The processor
//! time of handshakes has a rate, so traffic goes on beside a flood of them.

mod ration;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tunnel::listen::{Crowd, Spot};
use tunnel::transport::{HandshakeError, quic};

use crate::accept::says_something;
use ration::{HANDSHAKE, Ration};

/// Connections that have sent no whole ClientHello. More take memory and files; fewer turn away
/// clients on slow networks while strangers come.
const SILENT: usize = 1024;

/// Handshakes at once, of each kind. Fewer make a fleet that comes back on a slow network wait; more
/// let strangers take memory, 30 to 60 KB for each.
const HANDSHAKES: usize = 512;

/// Peers that wait for their handshake, of each kind. Fewer turn away a fleet of thousands that comes at
/// once; more let strangers take memory, 5 to 10 KB for each.
const WAITING: usize = 4096;

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
    tls: Queue,
    quic: Queue,
    ration: Ration,
}

/// Handshakes, and peers that wait for theirs.
#[derive(Debug, Clone)]
struct Queue {
    waiting: Crowd,
    begun: Crowd,
}

impl Door {
    /// For a process that may open so many files.
    pub(crate) fn new(files: usize) -> Self {
        let crowd = |most: usize| Crowd::new(most.min(files / FILES));
        let tls = Queue { waiting: crowd(WAITING), begun: crowd(HANDSHAKES) };
        // QUIC takes no files.
        let quic = Queue { waiting: Crowd::new(WAITING), begun: Crowd::new(HANDSHAKES) };
        Self { silent: crowd(SILENT), tls, quic, ration: Ration::default() }
    }

    /// Does the handshake of TLS. The caller limits the time. Not cancel safe.
    ///
    /// # Errors
    /// When the handshake fails, the peer leaves without a byte, or later strangers take its place.
    pub(crate) async fn tls(
        &self,
        tcp: TcpStream,
        from: IpAddr,
        config: Arc<ServerConfig>,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let failed = |error: io::Error| HandshakeError::tls(error.to_string());
        let spot = self.silent.enter(from);
        let hello = async {
            if !says_something(&tcp).await {
                return Err(HandshakeError::SaidNothing);
            }
            LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(failed)
        };
        let start = tokio::select! {
            biased;
            start = hello => start?,
            () = spot.lost() => return Err(HandshakeError::Crowded),
        };
        drop(spot);
        let begun = self.tls.enter(from).await?;
        // Making the stream is a good part of the work.
        let handshake = async { start.into_stream(config).await };
        let is_proven = |done: &io::Result<TlsStream<TcpStream>>| {
            done.as_ref().is_ok_and(|tls| tls.get_ref().1.peer_certificates().is_some())
        };
        tokio::select! {
            biased;
            tls = self.ration.share(handshake, is_proven) => tls.map_err(failed),
            () = begun.lost() => Err(HandshakeError::Crowded),
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
        let incoming = incoming.validated(self.quic.begun.taken() < UNVALIDATED)?;
        let begun = match self.quic.enter(incoming.from().ip()).await {
            Ok(begun) => begun,
            Err(error) => return Some(Err(error)),
        };
        self.ration.wait(HANDSHAKE).await;
        let done = tokio::select! {
            biased;
            done = incoming.accept() => done,
            () = begun.lost() => Err(HandshakeError::Crowded),
        };
        if done.as_ref().is_ok_and(|(tunnel, _)| !tunnel.chain().is_empty()) {
            self.ration.give_back(HANDSHAKE);
        }
        Some(done)
    }
}

impl Queue {
    /// Waits for the turn of a peer. Cancel safe.
    ///
    /// # Errors
    /// When too many others wait.
    async fn enter(&self, from: IpAddr) -> Result<Spot, HandshakeError> {
        let waits = self.waiting.enter(from);
        tokio::select! {
            biased;
            spot = self.begun.in_turn(from) => Ok(spot),
            () = waits.lost() => Err(HandshakeError::Crowded),
        }
    }
}
