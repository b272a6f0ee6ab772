//! A CA and the certificates of server, agent and client, valid for localhost
//! and for as long as the directory they are in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Where the files are.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) agent: Pair,
    pub(crate) client: Pair,
    pub(crate) server: Pair,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificates {
    pub(crate) fn write(dir: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "loadtest");
        let ca = put(dir, "ca.pem", &params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let pair = |name: &str| Pair::write(dir, name, &issuer);
        Ok(Self { ca, agent: pair("agent")?, client: pair("client")?, server: pair("server")? })
    }
}

impl Pair {
    fn write(dir: &Path, name: &str, issuer: &Issuer<'_, KeyPair>) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, issuer)?.pem();
        Ok(Self {
            certificate: put(dir, &format!("{name}.pem"), &certificate)?,
            key: put(dir, &format!("{name}.key"), &key.serialize_pem())?,
        })
    }
}

fn put(dir: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunnel_client::tls_config;

    #[test]
    fn every_pair_can_be_loaded() {
        let dir = tempfile::TempDir::new().unwrap();
        let Certificates { ca, agent, client, server } = Certificates::write(dir.path()).unwrap();
        for pair in [agent, client, server] {
            tls_config(&ca, &pair.certificate, &pair.key).unwrap();
        }
    }
}
