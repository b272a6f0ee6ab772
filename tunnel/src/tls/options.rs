//! The TLS versions and cipher suites of a listener, by their names in Go and Kubernetes.

use std::str::FromStr;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, ProtocolVersion, SupportedProtocolVersion};

/// The suites of TLS 1.3. They are always offered, as in Go.
const TLS13: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Suites that Go takes for secure and that rustls does not implement: CBC with a MAC of its
/// own.
const ABSENT: [&str; 4] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

/// The suites of TLS 1.2, with Go's names.
const TLS12: [(&str, CipherSuite); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The lowest version of TLS, as `--tls-min-version` names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// `VersionTLS10` or `VersionTLS11`, which mean 1.2, since rustls implements neither.
    Obsolete,
    /// `VersionTLS12`, or nothing.
    #[default]
    Tls12,
    /// `VersionTLS13`.
    Tls13,
}

impl FromStr for MinVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "VersionTLS10" | "VersionTLS11" => Ok(Self::Obsolete),
            "" | "VersionTLS12" => Ok(Self::Tls12),
            "VersionTLS13" => Ok(Self::Tls13),
            _ => Err("use VersionTLS12 or VersionTLS13".to_owned()),
        }
    }
}

/// A cipher suite that is not offered, or not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cipher suite {0} does not exist or is insecure; known are {known}", known = known_suites())]
pub struct UnknownSuite(String);

fn known_suites() -> String {
    TLS12.iter().map(|(name, _)| *name).chain(ABSENT).chain(TLS13).collect::<Vec<_>>().join(", ")
}

/// Suites of TLS 1.2 that a listener may use; all if none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suites {
    chosen: Option<Vec<CipherSuite>>,
    absent: Vec<&'static str>,
}

impl Suites {
    /// Parses Go's names.
    ///
    /// # Errors
    /// When one is unknown or insecure.
    pub fn parse(names: Vec<String>) -> Result<Self, UnknownSuite> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        let (mut chosen, mut absent) = (Vec::new(), Vec::new());
        for name in names {
            if let Some((_, suite)) = TLS12.iter().find(|(known, _)| *known == name) {
                chosen.push(*suite);
            } else if let Some(known) = ABSENT.iter().find(|known| **known == name) {
                absent.push(*known);
            } else if !TLS13.contains(&name.as_str()) {
                return Err(UnknownSuite(name));
            }
        }
        Ok(Self { chosen: Some(chosen), absent })
    }

    /// Suites that were named and are not implemented, to be warned of.
    pub fn absent(&self) -> &[&'static str] {
        &self.absent
    }
}

/// The versions and suites that a listener offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// The lowest version.
    pub min_version: MinVersion,
    /// Suites of TLS 1.2.
    pub suites: Suites,
}

impl Offer {
    pub(super) fn provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        // A stable sort puts AES-128 first and keeps the order of the rest.
        provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128_GCM"));
        if let Some(chosen) = &self.suites.chosen {
            provider.cipher_suites.retain(|suite| {
                suite.version().version == ProtocolVersion::TLSv1_3 || chosen.contains(&suite.suite())
            });
        }
        provider
    }

    pub(super) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
        let no_suite = self.suites.chosen.as_ref().is_some_and(Vec::is_empty);
        match self.min_version {
            MinVersion::Obsolete | MinVersion::Tls12 if !no_suite => rustls::ALL_VERSIONS,
            MinVersion::Obsolete | MinVersion::Tls12 | MinVersion::Tls13 => ONLY_13,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites(text: &str) -> Result<Suites, UnknownSuite> {
        Suites::parse(text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    #[test]
    fn go_names_choose_suites_of_tls_12_and_leave_13_alone() {
        let offered = |text: &str| {
            let offer = Offer { suites: suites(text).unwrap(), ..Offer::default() };
            let suites = offer.provider().cipher_suites;
            let names = suites.iter().map(|s| format!("{:?}", s.suite())).collect::<Vec<_>>();
            (names.iter().filter(|n| n.starts_with("TLS13")).count(), names.len(), offer.versions().len())
        };
        assert_eq!(offered(""), (3, 9, 2));
        assert_eq!(
            offered("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
            (3, 5, 2)
        );
        assert_eq!(offered("TLS_AES_128_GCM_SHA256"), (3, 3, 1));
        assert_eq!(offered("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"), (3, 3, 1));
    }

    #[test]
    fn insecure_and_unknown_names_are_refused_and_absent_ones_known() {
        for bad in ["TLS_RSA_WITH_RC4_128_SHA", "TLS_RSA_WITH_AES_128_GCM_SHA256", "nonsense"] {
            assert_eq!(suites(bad), Err(UnknownSuite(bad.to_owned())));
        }
        let absent = suites("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,TLS_AES_128_GCM_SHA256").unwrap();
        assert_eq!(absent.absent(), ["TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"]);
    }

    #[test]
    fn versions_by_their_kubernetes_names() {
        for (text, version) in [
            ("", MinVersion::Tls12),
            ("VersionTLS10", MinVersion::Obsolete),
            ("VersionTLS11", MinVersion::Obsolete),
            ("VersionTLS12", MinVersion::Tls12),
            ("VersionTLS13", MinVersion::Tls13),
        ] {
            assert_eq!(text.parse(), Ok(version), "{text:?}");
        }
        assert!("InvalidVersion".parse::<MinVersion>().is_err());
        assert_eq!(Offer { min_version: MinVersion::Tls13, ..Offer::default() }.versions().len(), 1);
        assert_eq!(Offer { min_version: MinVersion::Obsolete, ..Offer::default() }.versions().len(), 2);
    }
}
