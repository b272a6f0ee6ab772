//! The protocols under a tunnel.

use super::error::HandshakeError;

/// The protocol under a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// HTTP/2 over TLS over TCP.
    H2,
    /// QUIC.
    Quic,
    /// Konnectivity's gRPC.
    Konnectivity,
}

impl Link {
    /// Every link, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::H2, Self::Quic, Self::Konnectivity];

    /// The name in flags, metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Quic => "quic",
            Self::Konnectivity => "konnectivity",
        }
    }
}

/// The link of a TLS connection by its ALPN protocol, on either side.
///
/// # Errors
/// When the peers have agreed on no protocol of ours.
pub fn link_on_tcp(tls: &rustls::CommonState) -> Result<Link, HandshakeError> {
    match tls.alpn_protocol() {
        Some(crate::tls::ALPN) => Ok(Link::H2),
        Some(b"h2") => Ok(Link::Konnectivity),
        Some(_) | None => Err(HandshakeError::Tls("the peer does not speak this protocol".to_owned())),
    }
}
