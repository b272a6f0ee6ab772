//! Certificates: one authority, three roles, and two certificates to be refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ServerConfig};
use tunnel::tls::{ALPN, Identity, Offer, agent_client, agent_listener, load_roots};

/// A server name that is not this host's, for rules that exempt loopback.
pub const FAR_NAME: &str = "server.test";

/// The owner of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A server's, for both of its listeners.
    Server,
    /// An agent's.
    Agent,
    /// A kube-apiserver's.
    Client,
    /// Nobody known: signed by another authority.
    Stranger,
    /// Expired in 2020.
    Expired,
}

impl Who {
    const ALL: [Self; 5] = [Self::Server, Self::Agent, Self::Client, Self::Stranger, Self::Expired];

    const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Client => "client",
            Self::Stranger => "stranger",
            Self::Expired => "expired",
        }
    }
}

/// Certificates in a directory. Clones are the same files.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes them all.
    pub fn make(dir: &Path) -> Self {
        let pki = Self { dir: dir.to_owned() };
        let key = KeyPair::generate().unwrap();
        std::fs::write(pki.ca_key(), key.serialize_pem()).unwrap();
        let (trusted, other) =
            (authority("tests", key), authority("somebody else", KeyPair::generate().unwrap()));
        std::fs::write(pki.ca(), &trusted.0).unwrap();
        for who in Who::ALL {
            let issuer = if who == Who::Stranger { &other.1 } else { &trusted.1 };
            let (cert, key) = leaf(who, issuer);
            std::fs::write(pki.cert(who), cert).unwrap();
            std::fs::write(pki.key(who), key).unwrap();
        }
        pki
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    fn ca_key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    /// The authority, as the issuer of further certificates.
    pub fn issuer(&self) -> Issuer<'static, KeyPair> {
        authority("tests", KeyPair::from_pem(&std::fs::read_to_string(self.ca_key()).unwrap()).unwrap()).1
    }

    /// Certificate and key of a node, as the kubelet has them: without names of hosts.
    pub fn of_node(&self, node: &str) -> (PathBuf, PathBuf) {
        let issuer = self.issuer();
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let files = (self.dir.join(format!("{node}.crt")), self.dir.join(format!("{node}.key")));
        std::fs::write(&files.0, params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// Somebody's certificate.
    pub fn cert(&self, who: Who) -> PathBuf {
        self.dir.join(format!("{}.crt", who.name()))
    }

    /// Somebody's key.
    pub fn key(&self, who: Who) -> PathBuf {
        self.dir.join(format!("{}.key", who.name()))
    }

    /// TLS of a client of the TCP frontend.
    pub fn client(&self, who: Who) -> ClientConfig {
        tunnel_client::tls_config(&self.ca(), &self.cert(who), &self.key(who)).unwrap()
    }

    /// TLS of an agent.
    pub fn agent(&self, who: Who) -> Arc<ClientConfig> {
        let identity = Identity::load(&self.cert(who), &self.key(who)).unwrap();
        agent_client(Some(&identity), load_roots(&self.ca()).unwrap()).unwrap()
    }

    /// TLS of a listener for agents.
    pub fn agent_listener(&self) -> Arc<ServerConfig> {
        let identity = Identity::load(&self.cert(Who::Server), &self.key(Who::Server)).unwrap();
        agent_listener(&identity, Some(load_roots(&self.ca()).unwrap()), &Offer::default()).unwrap()
    }

    /// TLS of a client without a certificate, for agents' listeners too.
    pub fn nobody(&self) -> Arc<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec(), b"h2".to_vec()];
        Arc::new(config)
    }
}

fn authority(name: &str, key: KeyPair) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

fn leaf(who: Who, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1", FAR_NAME].map(str::to_owned);
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, who.name());
    params.extended_key_usages = vec![match who {
        Who::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Who::Agent | Who::Client | Who::Stranger | Who::Expired => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    if who == Who::Expired {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}
