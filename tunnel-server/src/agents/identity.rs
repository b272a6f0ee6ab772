//! The identity of an agent: made from its credential at admission, and from nothing that the
//! agent says.

mod certificate;
mod map;
mod template;

use std::fmt;

use rustls::pki_types::CertificateDer;
use tunnel_kube::Reviewed;
use tunnel_proto::target::Host;

use crate::canonical::canonical_host;
use certificate::Subject;
pub(crate) use map::IdentityMap;
pub(crate) use template::Template;

/// The prefix of a node's user name, and the group of nodes (Kubernetes, "Using Node
/// Authorization").
const NODE_USER: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

/// Longest name of a node, in bytes: that of a DNS subdomain.
const MAX_NODE: usize = 253;

/// The holder of a credential. Tunnels with equal identities may share routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// A node of the cluster.
    Node(String),
    /// A SPIFFE id that names no node.
    Spiffe(String),
    /// The DNS names and addresses of a certificate: at least one.
    Names(Vec<Host>),
    /// The common name of a certificate without DNS names and addresses. It proves no host; a
    /// map can name it.
    Subject(String),
    /// The credential names nobody: a token without a node, or no credential.
    #[default]
    Unknown,
}

/// Token and certificate, or two parts of a certificate, name different nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the agent's credentials name two nodes, {0:?} and {1:?}: give it a token and a certificate of one node"
)]
pub(crate) struct Conflict(String, String);

impl Identity {
    /// The identity of a token's holder, of a certificate, or of both: then the token's node
    /// counts. A token without a node leaves it to the certificate.
    ///
    /// # Errors
    /// When the credentials name different nodes.
    pub(crate) fn of(
        holder: Option<&Reviewed>,
        certificate: Option<&CertificateDer<'_>>,
        template: Option<&Template>,
    ) -> Result<Self, Conflict> {
        let by_certificate = certificate.and_then(|der| Subject::read(der));
        let by_certificate =
            by_certificate.map_or(Ok(Self::Unknown), |subject| Self::of_subject(subject, template))?;
        // Before Kubernetes 1.30 a token names only its pod.
        match (holder.and_then(|holder| holder.node_name.as_deref()).and_then(node), by_certificate) {
            (Some(token), Self::Node(certificate)) if token != certificate => {
                Err(Conflict(token, certificate))
            }
            (Some(token), _) => Ok(Self::Node(token)),
            (None, by_certificate) => Ok(by_certificate),
        }
    }

    fn of_subject(subject: Subject, template: Option<&Template>) -> Result<Self, Conflict> {
        let spiffe = subject.spiffe().map(str::to_owned);
        let Subject { common_name, organizations, hosts, .. } = subject;
        let common_name = common_name.filter(|name| !name.contains(' '));
        let in_group = organizations.iter().any(|name| name == NODE_GROUP);
        let by_name = common_name.as_deref().and_then(|name| name.strip_prefix(NODE_USER));
        let by_name = by_name.filter(|_| in_group).and_then(node);
        let by_uri =
            spiffe.as_ref().zip(template).and_then(|(uri, template)| template.node(uri)).and_then(node);
        match (by_name, by_uri, spiffe) {
            (Some(name), Some(uri), _) if name != uri => Err(Conflict(name, uri)),
            (Some(node), _, _) | (None, Some(node), _) => Ok(Self::Node(node)),
            (None, None, Some(uri)) => Ok(Self::Spiffe(uri)),
            (None, None, None) if !hosts.is_empty() => Ok(Self::Names(hosts)),
            (None, None, None) => Ok(common_name.map_or(Self::Unknown, Self::Subject)),
        }
    }

    /// The name in metrics.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Spiffe(_) => "spiffe",
            Self::Names(_) => "names",
            Self::Subject(_) => "subject",
            Self::Unknown => "unknown",
        }
    }

    /// The texts that flags and the map know the identity by.
    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::Node(name) => vec![format!("node:{name}")],
            Self::Spiffe(uri) => vec![uri.clone()],
            Self::Names(hosts) => hosts.iter().map(text_of_host).collect(),
            Self::Subject(name) => vec![format!("cn:{name}")],
            Self::Unknown => Vec::new(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.texts();
        match texts.as_slice() {
            [] => f.write_str("unknown"),
            [text] => f.write_str(text),
            [first, more @ ..] => write!(f, "{first} and {} more", more.len()),
        }
    }
}

/// All texts of a certificate that TLS has verified: of a client, which no route depends on. First the
/// common name, then SPIFFE id, DNS names, addresses and organizations (`o:`).
pub(crate) fn texts_of_certificate(der: &CertificateDer<'_>) -> Vec<Box<str>> {
    let subject = Subject::read(der).unwrap_or_default();
    let spiffe = subject.spiffe().map(str::to_owned);
    let Subject { common_name, organizations, hosts, .. } = subject;
    let texts = common_name.map(|name| format!("cn:{name}")).into_iter().chain(spiffe);
    let texts = texts.chain(hosts.iter().map(text_of_host));
    texts.chain(organizations.iter().map(|name| format!("o:{name}"))).map(String::into_boxed_str).collect()
}

/// The text of a host in an identity.
pub(crate) fn text_of_host(host: &Host) -> String {
    match &*canonical_host(host) {
        Host::Name(name) => format!("dns:{name}"),
        Host::Ip(ip) => format!("ip:{ip}"),
    }
}

/// A text that can be a node's name.
fn node(name: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    ((1..=MAX_NODE).contains(&name.len()) && name.bytes().all(fits)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
