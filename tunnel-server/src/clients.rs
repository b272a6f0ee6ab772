//! The clients of frontends: their identity, which is their credential's, and who is admitted.
//!
//! On a Unix socket the credential is the user of the process that connected (`SO_PEERCRED`, unix(7)), on
//! TCP the verified certificate. A client that is not admitted is told so by its first request.

mod names;

use std::io;

use rustls::pki_types::CertificateDer;
use tokio::net::unix::UCred;
use tunnel_policy::Subject;

use crate::agents::texts_of_certificate;
pub(crate) use names::Name;

/// Most bytes of identities in the refusal of a client. More does not fit into a status line.
const SHOWN: usize = 200;

/// The clients that are admitted: all, where a list is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Admission {
    /// Users whose processes may use the Unix socket.
    pub(crate) uids: Box<[u32]>,
    /// Names of certificates on TCP.
    pub(crate) names: Box<[Name]>,
}

/// A client of a frontend. The calls of one gRPC client share it.
#[derive(Debug)]
pub(crate) struct Client {
    /// The name in metrics and logs.
    pub(crate) listener: &'static str,
    /// All texts of its identity, the first of which is the one in logs.
    identities: Box<[Box<str>]>,
    refusal: Option<Refusal>,
}

/// Why a client is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The name in metrics.
    pub(crate) reason: &'static str,
    /// The text for the client. Printable ASCII.
    pub(crate) text: String,
}

impl Admission {
    /// The client of a Unix socket with the credentials of its peer.
    pub(crate) fn of_unix(&self, peer: io::Result<UCred>) -> Client {
        let uid = peer.as_ref().map(UCred::uid);
        let admitted = self.uids.is_empty() || uid.as_ref().is_ok_and(|uid| self.uids.contains(uid));
        let refusal = (!admitted).then(|| Refusal {
            reason: "uid_not_allowed",
            text: match &uid {
                Ok(uid) => format!("user {uid} may not use this socket: see --uds-allowed-uids"),
                Err(error) => format!("the user of the client is unknown: {error}"),
            },
        });
        let identities = uid.ok().map(|uid| format!("uid:{uid}").into()).into_iter().collect();
        Client { listener: "unix", identities, refusal }
    }

    /// The client of a TLS connection with the certificate that TLS has verified.
    pub(crate) fn of_certificate(&self, certificate: Option<&CertificateDer<'_>>) -> Client {
        let identities: Box<[Box<str>]> = certificate.map(texts_of_certificate).unwrap_or_default().into();
        let matches = |name: &Name| identities.iter().any(|text| name.matches(text));
        let admitted = self.names.is_empty() || self.names.iter().any(matches);
        let refusal = (!admitted).then(|| {
            let shown: String = identities.join(", ").chars().take(SHOWN).collect();
            let text =
                format!("the certificate ({shown}) may not use this frontend: see --frontend-allowed-names");
            Refusal { reason: "name_not_allowed", text }
        });
        Client { listener: "tcp", identities, refusal }
    }
}

impl Client {
    /// Why the client is not admitted; `None` if it is.
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The identity in logs.
    pub(crate) fn name(&self) -> Option<&str> {
        self.identities.first().map(AsRef::as_ref)
    }

    /// The client to the policy.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { identity: self.name(), also: self.identities.get(1..).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests;
