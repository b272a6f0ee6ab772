//! Certificates that Go accepts and ring does not: told at start, by kind, instead of at each handshake.

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;

/// Fewest bits of an RSA key (ring: `RSA_PKCS1_2048_8192_SHA256` and its relatives).
const FEWEST_BITS: usize = 2048;

/// The curves of ring, by object identifier: P-256 and P-384 (RFC 5480 section 2.1.1.1).
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];

/// The reason why a certificate is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unsupported {
    /// X.509 version 1, which says nothing about what a certificate is for.
    Version1,
    /// A key on a curve with this name or object identifier.
    Curve(String),
    /// An RSA key of so many bits.
    Rsa(usize),
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version1 => f.write_str(
                "a certificate of X.509 version 1, which this program does not verify: issue it with version 3",
            ),
            Self::Curve(curve) => write!(
                f,
                "its key is on the curve {curve}, which this program does not implement: use P-256, P-384, Ed25519 \
                 or RSA"
            ),
            Self::Rsa(bits) => write!(
                f,
                "its RSA key has {bits} bits, and this program takes no fewer than {FEWEST_BITS}: issue it with a \
                 longer key, or one on P-256"
            ),
        }
    }
}

/// Whether the key of a certificate is of a kind that no handshake accepts. What cannot be parsed is
/// left to others.
pub(super) fn key_of(certificate: &CertificateDer<'_>) -> Option<Unsupported> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let info = certificate.public_key();
    match info.parsed().ok()? {
        PublicKey::RSA(key) => (key.key_size() < FEWEST_BITS).then(|| Unsupported::Rsa(key.key_size())),
        PublicKey::EC(_) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?.to_id_string();
            (!CURVES.contains(&curve.as_str())).then(|| Unsupported::Curve(name(curve)))
        }
        PublicKey::DSA(_)
        | PublicKey::GostR3410(_)
        | PublicKey::GostR3410_2012(_)
        | PublicKey::Unknown(_) => None,
    }
}

/// As [`key_of`], for a certificate that its holder shows, which also needs the extensions of version 3.
pub(super) fn shown(certificate: &CertificateDer<'_>) -> Option<Unsupported> {
    let parsed = X509Certificate::from_der(certificate).ok();
    let is_old = parsed.is_some_and(|(_, parsed)| {
        // An authority is trusted for its key alone, and may be at the end of a chain.
        parsed.version() == X509Version::V1 && parsed.subject() != parsed.issuer()
    });
    if is_old { Some(Unsupported::Version1) } else { key_of(certificate) }
}

fn name(curve: String) -> String {
    match curve.as_str() {
        "1.3.132.0.35" => "P-521".to_owned(),
        "1.3.132.0.33" => "P-224".to_owned(),
        _ => curve,
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::{Identity, load_roots};

    /// Certificates and keys that this project's libraries do not make, of `openssl req` and `openssl x509`.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/fixtures").join(name)
    }

    #[test]
    fn what_go_accepts_and_ring_does_not_is_refused_with_its_file_its_kind_and_the_cure() {
        for (name, kind, cure) in [
            ("p521", "on the curve P-521", "use P-256"),
            ("rsa1024", "RSA key has 1024 bits", "longer key"),
            ("v1", "X.509 version 1", "version 3"),
        ] {
            let cert = fixture(&format!("{name}.crt"));
            let error = Identity::load(&cert, &fixture(&format!("{name}.key"))).unwrap_err().to_string();
            let file = cert.display().to_string();
            assert!([&file, kind, cure].iter().all(|part| error.contains(*part)), "{error}");
        }
        for (name, kind) in [("p521", "P-521"), ("rsa1024", "1024 bits")] {
            let file = fixture(&format!("{name}.crt"));
            let error = load_roots(&file).unwrap_err().to_string();
            assert!(error.starts_with(&format!("certificate authority {}: ", file.display())), "{error}");
            assert!(error.contains(kind), "{error}");
        }
    }

    #[test]
    fn usual_certificates_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
            let (cert_path, key_path) = (dir.path().join("crt"), dir.path().join("key"));
            std::fs::write(&cert_path, certificate.pem()).unwrap();
            std::fs::write(&key_path, key.serialize_pem()).unwrap();
            Identity::load(&cert_path, &key_path).unwrap();
            load_roots(&cert_path).unwrap();
        }
    }
}
