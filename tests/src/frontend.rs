//! The ways in, and the links behind them.

use tunnel::transport::Link;
use tunnel_client::Protocol;

/// A protocol on a kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend {
    /// HTTP CONNECT on the Unix socket.
    ConnectUnix,
    /// HTTP CONNECT on TCP with mutual TLS.
    ConnectMtls,
    /// gRPC on the Unix socket.
    GrpcUnix,
    /// gRPC on TCP with mutual TLS.
    GrpcMtls,
}

impl Frontend {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ConnectUnix, Self::ConnectMtls, Self::GrpcUnix, Self::GrpcMtls];

    /// The protocol.
    pub const fn protocol(self) -> Protocol {
        match self {
            Self::ConnectUnix | Self::ConnectMtls => Protocol::Connect,
            Self::GrpcUnix | Self::GrpcMtls => Protocol::Grpc,
        }
    }

    /// Whether it is on the Unix socket.
    pub const fn is_unix(self) -> bool {
        matches!(self, Self::ConnectUnix | Self::GrpcUnix)
    }

    /// Whether it is gRPC, which knows no half-close.
    pub const fn is_grpc(self) -> bool {
        matches!(self, Self::GrpcUnix | Self::GrpcMtls)
    }
}

/// Both links.
pub const LINKS: [Link; 2] = [Link::Quic, Link::H2];

/// Checks something on each of the eight ways through the system, one after
/// the other; the last one printed is the one that failed.
pub async fn for_each_combination(check: impl AsyncFn(Frontend, Link)) {
    for link in LINKS {
        for frontend in Frontend::ALL {
            println!("{frontend:?} over {}", link.label());
            check(frontend, link).await;
        }
    }
}
