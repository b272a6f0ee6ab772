//! A certificate that nobody trusts, made for each run: self-signed, Ed25519 (RFC 8410).

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tunnel::tls::Identity;

/// Tags of DER (X.690 section 8).
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const TIME: u8 = 0x17;
const VERSION: u8 = 0xa0;

/// 2.5.4.3, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// 1.3.101.112, Ed25519.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// An agent's identity that no authority has signed.
pub(super) fn identity() -> Result<Identity, String> {
    let unusable = |_| "this host has no random numbers".to_owned();
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(unusable)?;
    let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|error| error.to_string())?;
    let algorithm = der(SEQUENCE, &[&der(OID, &[ED25519])]);
    let content = content(&algorithm, key.public_key().as_ref());
    let signature = der(BIT_STRING, &[&[0], key.sign(&content).as_ref()]);
    let certificate = der(SEQUENCE, &[&content, &algorithm, &signature]);
    let key = PrivatePkcs8KeyDer::from(document.as_ref().to_vec());
    Ok(Identity::new(CertificateDer::from(certificate), PrivateKeyDer::from(key)))
}

/// The signed part of the certificate (RFC 5280 section 4.1).
fn content(algorithm: &[u8], public: &[u8]) -> Vec<u8> {
    let common_name = der(SEQUENCE, &[&der(OID, &[COMMON_NAME]), &der(UTF8, &[b"tunnel-doctor"])]);
    let name = der(SEQUENCE, &[&der(SET, &[&common_name])]);
    let validity = der(SEQUENCE, &[&der(TIME, &[b"200101000000Z"]), &der(TIME, &[b"491231235959Z"])]);
    let key = der(SEQUENCE, &[algorithm, &der(BIT_STRING, &[&[0], public])]);
    let version = der(VERSION, &[&der(INTEGER, &[&[2]])]);
    let serial = der(INTEGER, &[&[1]]);
    der(SEQUENCE, &[&version, &serial, algorithm, &name, &validity, &name, &key])
}

/// A value with its tag and length, below 64 KiB.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let [.., high, low] = value.len().to_be_bytes();
    let mut whole = match (high, low) {
        (0, ..0x80) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        (_, _) => vec![tag, 0x82, high, low],
    };
    whole.extend(value);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::describe;

    #[test]
    fn the_certificate_is_well_formed() {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let algorithm = der(SEQUENCE, &[&der(OID, &[ED25519])]);
        let content = content(&algorithm, key.public_key().as_ref());
        let signature = der(BIT_STRING, &[&[0], key.sign(&content).as_ref()]);
        let found = describe(&der(SEQUENCE, &[&content, &algorithm, &signature])).unwrap();
        assert_eq!(found.subject, "CN=tunnel-doctor");
        assert!(found.left > 0);
        identity().unwrap();
    }
}
