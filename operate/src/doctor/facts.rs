//! The facts that checks judge. Gathering them is [`gather`](super::gather)'s.

use std::path::PathBuf;
use std::time::Duration;

use super::egress::EgressFile;
use super::manifest::Manifest;
use crate::report::{AgentSetup, Certificate, Expiry, ProbeReport, ServerSetup, Status};
use crate::witness::Fault;

/// A fact, or the reason why it is not known.
pub(crate) type Known<T> = Result<T, String>;

/// All facts. Those of the other program are not known.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The running program's settings.
    pub(crate) server: Known<ServerSetup>,
    pub(crate) agent: Known<AgentSetup>,
    /// The running program's status.
    pub(crate) status: Known<Status>,
    pub(crate) manifest: Known<Manifest>,
    pub(crate) egress: Known<EgressFile>,
    /// The socket of the egress file is the server's, by their inodes.
    pub(crate) same_socket: Known<bool>,
    /// A dial of a target that does not exist.
    pub(crate) dial: Known<Dial>,
    pub(crate) kubelets: Known<Vec<Kubelet>>,
    /// The user of the kube-apiserver's certificate for kubelets.
    pub(crate) kubelet_user: Known<String>,
    pub(crate) handshakes: Known<Vec<Handshake>>,
    /// An agent without certificate and token.
    pub(crate) anonymous: Known<Vec<Admission>>,
    /// An agent with a certificate of an unknown authority.
    pub(crate) stranger: Known<Vec<Admission>>,
    /// This agent with its own credentials.
    pub(crate) admissions: Known<Vec<Admission>>,
    pub(crate) certificates: Known<Vec<Expiry>>,
    /// Those among them that are in use, and that their files do not hold any more.
    pub(crate) stale: Vec<Expiry>,
    /// The server's own certificate, and the names that agents dial.
    pub(crate) named: Known<(Certificate, Vec<String>)>,
    /// Seconds by which this host's clock is ahead of the API server's.
    pub(crate) clock: Known<i64>,
    pub(crate) buffer: Known<Buffer>,
    /// The largest packets of this host's network interfaces, in bytes.
    pub(crate) interfaces: Known<u32>,
    pub(crate) lookups: Known<Vec<Lookup>>,
    pub(crate) token: Known<TokenFile>,
    pub(crate) resolver: Known<Resolver>,
    pub(crate) own_kubelet: Known<ProbeReport>,
}

/// The answer of the frontend to a dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dial {
    /// The frontend, in words.
    pub(crate) frontend: String,
    pub(crate) took: Duration,
    /// The reason why there is no answer.
    pub(crate) failure: Option<String>,
}

/// The answer of a kubelet, through the tunnel, to the kube-apiserver's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kubelet {
    pub(crate) target: String,
    /// The HTTP status, or the reason why there is none.
    pub(crate) answer: Result<u16, String>,
    /// The kubelet's certificate against `--kubelet-certificate-authority`.
    pub(crate) trusted: Known<()>,
}

/// A handshake on one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) address: String,
    /// The name that the certificate has to be for.
    pub(crate) name: String,
    pub(crate) link: Way,
    pub(crate) outcome: Result<Duration, Failed>,
}

/// A link that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Quic,
    Http2,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Quic, Self::Http2];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Quic => "QUIC",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// The failure of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The peer's certificate was not accepted.
    Certificate(Fault),
    /// Anything else.
    Other(String),
}

/// A server's answer to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admission {
    pub(crate) address: String,
    pub(crate) link: Way,
    pub(crate) outcome: Admitted,
}

/// The outcome of an attempt to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// By the server of this id. Nothing was registered.
    Yes(String),
    /// Refused, with the reason.
    No(String),
    /// There was no connection, or no answer.
    Unknown(String),
}

/// The receive buffer of a UDP socket, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) requested: usize,
    pub(crate) given: usize,
}

/// A name, and its addresses or the reason why there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lookup {
    pub(crate) host: String,
    pub(crate) found: Result<Vec<String>, String>,
}

/// A file with a service account token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenFile {
    pub(crate) path: PathBuf,
    /// Audiences, and seconds until the expiry: none if the token has none.
    pub(crate) claims: Result<(Vec<String>, Option<u64>), String>,
    /// The audience that servers expect, as far as is known.
    pub(crate) expected: String,
}

/// `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub(crate) servers: Vec<String>,
    pub(crate) search: Vec<String>,
}
