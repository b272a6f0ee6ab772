//! The frontends, and the links behind them.

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

    /// Whether the frontend is on the Unix socket.
    pub const fn is_unix(self) -> bool {
        matches!(self, Self::ConnectUnix | Self::GrpcUnix)
    }

    /// Whether the protocol is gRPC, which has no half-close.
    pub const fn is_grpc(self) -> bool {
        matches!(self, Self::GrpcUnix | Self::GrpcMtls)
    }
}

/// Both links.
pub const LINKS: [Link; 2] = [Link::Quic, Link::H2];

/// Runs a check for each of the eight pairs of frontend and link, in turn. The last
/// pair printed is the one that failed.
pub async fn for_each_combination(check: impl AsyncFn(Frontend, Link)) {
    for link in LINKS {
        for frontend in Frontend::ALL {
            println!("{frontend:?} over {}", link.label());
            check(frontend, link).await;
        }
    }
}
