//! The names in a peer's certificate, which TLS has verified.

use std::net::IpAddr;

use tunnel_proto::target::Host;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::canonical::canonical_host;

/// Most names of a certificate that count. Each is kept while the tunnel lives.
const MOST_NAMES: usize = 64;

/// Longest name or URI, in bytes; SPIFFE ids may have so many.
const MAX_TEXT: usize = 2048;

/// The parts of a certificate that can name its holder.
#[derive(Debug, Default)]
pub(super) struct Subject {
    /// The only common name.
    pub(super) common_name: Option<String>,
    pub(super) organizations: Vec<String>,
    pub(super) uris: Vec<String>,
    /// DNS names without wildcards, and addresses.
    pub(super) hosts: Vec<Host>,
}

impl Subject {
    /// `None` if the certificate cannot be read.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, found) = X509Certificate::from_der(der).ok()?;
        let text = |text: &str| printable(text).then(|| text.to_owned());
        let name = |name: &str| with_spaces(name).then(|| name.to_owned());
        let mut names = found.subject().iter_common_name();
        let common_name = match (names.next(), names.next()) {
            (Some(only), None) => only.as_str().ok().and_then(name),
            _ => None,
        };
        let organizations =
            found.subject().iter_organization().filter_map(|one| name(one.as_str().ok()?)).collect();
        let mut subject = Self { common_name, organizations, ..Self::default() };
        let alternative = found.subject_alternative_name().ok().flatten();
        let alternative = alternative.into_iter().flat_map(|names| &names.value.general_names);
        for name in alternative.take(MOST_NAMES) {
            match name {
                // Not one that does not print, so that two URIs never pass for one.
                GeneralName::URI(uri) => subject.uris.push(text(uri).unwrap_or_default()),
                GeneralName::DNSName(name) => subject.hosts.extend(dns(name)),
                GeneralName::IPAddress(bytes) => {
                    subject.hosts.extend(ip(bytes).map(|ip| Host::Ip(ip.to_canonical())));
                }
                GeneralName::OtherName(..)
                | GeneralName::RFC822Name(_)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => {}
            }
        }
        subject.hosts.sort_by_key(ToString::to_string);
        subject.hosts.dedup();
        Some(subject)
    }

    /// The SPIFFE id. Its certificate has exactly one URI (X.509-SVID section 2).
    pub(super) fn spiffe(&self) -> Option<&str> {
        match self.uris.as_slice() {
            [uri] if uri.starts_with("spiffe://") => Some(uri),
            _ => None,
        }
    }
}

/// A DNS name; one that reads as an address is none.
fn dns(text: &str) -> Option<Host> {
    match Host::parse(text)? {
        name @ Host::Name(_) => Some(canonical_host(&name).into_owned()),
        Host::Ip(_) => None,
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Identities are printed in logs. Spaces count in names alone.
fn printable(text: &str) -> bool {
    with_spaces(text) && !text.contains(' ')
}

fn with_spaces(text: &str) -> bool {
    let fits = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    (1..=MAX_TEXT).contains(&text.len()) && text.bytes().all(fits)
}
