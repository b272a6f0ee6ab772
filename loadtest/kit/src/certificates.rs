//! A CA, and the certificates of server, agent and client that it has signed, as files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// The files of a CA and of the pairs that it has signed.
#[derive(Debug)]
pub struct Certificates {
    /// The CA's certificate.
    pub ca: PathBuf,
    /// The agent's.
    pub agent: Pair,
    /// The one of clients of a frontend on TCP.
    pub client: Pair,
    /// The server's, for frontends and links.
    pub server: Pair,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Certificates {
    /// Writes new ones to `dir`, valid for `localhost` and for `host` (a name or an address), as server and
    /// as client.
    ///
    /// # Errors
    /// When a file cannot be written, or `host` is neither name nor address.
    pub fn write(dir: &Path, host: &str) -> anyhow::Result<Self> {
        Self::make(dir, host, None)
    }

    /// As [`Self::write`], with pairs that are valid only from so long ago, and for so long.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_short(dir: &Path, host: &str, around_now: Duration) -> anyhow::Result<Self> {
        Self::make(dir, host, Some(around_now))
    }

    fn make(dir: &Path, host: &str, around_now: Option<Duration>) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "measuring");
        let ca = put(dir, "ca.pem", &params.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(params, key);
        let pair = |name: &str| Pair::write(dir, name, host, around_now, &issuer);
        Ok(Self { ca, agent: pair("agent")?, client: pair("client")?, server: pair("server")? })
    }

    /// The flags of the server's certificates on one side: `server` for frontends, `cluster` for links.
    #[must_use]
    pub fn server_flags(&self, side: &str) -> [String; 3] {
        let Pair { certificate, key } = &self.server;
        [
            format!("--{side}-cert={}", certificate.display()),
            format!("--{side}-key={}", key.display()),
            format!("--{side}-ca-cert={}", self.ca.display()),
        ]
    }

    /// The flags of the agent's certificates.
    #[must_use]
    pub fn agent_flags(&self) -> [String; 3] {
        let Pair { certificate, key } = &self.agent;
        [
            format!("--ca-cert={}", self.ca.display()),
            format!("--agent-cert={}", certificate.display()),
            format!("--agent-key={}", key.display()),
        ]
    }
}

impl Pair {
    fn write(
        dir: &Path,
        name: &str,
        host: &str,
        around_now: Option<Duration>,
        issuer: &Issuer<'_, KeyPair>,
    ) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".into(), host.into()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        if let Some(around) = around_now {
            let now = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH)?;
            (params.not_before, params.not_after) = (now - around, now + around);
        }
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
        for make in [Certificates::write, |dir: &Path, host: &str| {
            Certificates::write_short(dir, host, Duration::from_secs(1800))
        }] {
            let dir = tempfile::TempDir::new().unwrap();
            let Certificates { ca, agent, client, server } = make(dir.path(), "127.0.0.1").unwrap();
            for pair in [agent, client, server] {
                tls_config(&ca, &pair.certificate, &pair.key).unwrap();
            }
        }
    }
}
