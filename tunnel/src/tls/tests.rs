use rustls::{CipherSuite, ClientConnection, ProtocolVersion, ServerConnection, SupportedProtocolVersion};

use super::*;

/// An authority that is its own server and client.
fn identity() -> (Identity, Arc<RootCertStore>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (Identity { chain: vec![certificate], key }, Arc::new(roots))
}

type Versions = &'static [&'static SupportedProtocolVersion];

/// A client of all suites, with a certificate or without.
fn client(
    versions: Versions,
    identity: Option<&Identity>,
    roots: &Arc<RootCertStore>,
) -> Arc<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(Offer::default().provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(Arc::clone(roots));
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = identity.parts();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec(), b"h2".to_vec()];
    Arc::new(config)
}

/// The outcome of a handshake in memory.
fn handshake(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
) -> Result<(ProtocolVersion, CipherSuite), rustls::Error> {
    handshaken(server, client).map(|(_, agreed)| agreed)
}

fn handshaken(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
) -> Result<(rustls::HandshakeKind, (ProtocolVersion, CipherSuite)), rustls::Error> {
    let mut server = ServerConnection::new(server)?;
    let mut client =
        ClientConnection::new(client, "localhost".try_into().map_err(|_| rustls::Error::EncryptError)?)?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).map_err(|_| rustls::Error::EncryptError)?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).map_err(|_| rustls::Error::EncryptError)?;
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).map_err(|_| rustls::Error::EncryptError)?;
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).map_err(|_| rustls::Error::EncryptError)?;
            client.process_new_packets()?;
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    let suite = server.negotiated_cipher_suite().map(|suite| suite.suite());
    let agreed = server.protocol_version().zip(suite);
    server.handshake_kind().zip(agreed).ok_or(rustls::Error::HandshakeNotComplete)
}

fn offer(min: &str, suites: &str) -> Offer {
    let suites =
        Suites::parse(suites.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
            .unwrap();
    Offer { min_version: min.parse().unwrap(), suites }
}

const BOTH: Versions = rustls::ALL_VERSIONS;
static OLD: Versions = &[&rustls::version::TLS12];
static NEW: Versions = &[&rustls::version::TLS13];

#[test]
fn versions_and_suites_take_effect_on_both_listeners() {
    let (own, roots) = identity();
    let ecdsa_256 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    for (min, suites, versions, negotiated) in [
        ("", "", BOTH, Some((ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256))),
        ("", "", OLD, Some((ProtocolVersion::TLSv1_2, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256))),
        (
            "VersionTLS10",
            ecdsa_256,
            OLD,
            Some((ProtocolVersion::TLSv1_2, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)),
        ),
        ("", ecdsa_256, BOTH, Some((ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256))),
        ("VersionTLS13", "", BOTH, Some((ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256))),
        ("VersionTLS13", "", OLD, None),
        ("", "TLS_AES_128_GCM_SHA256", OLD, None),
        // Only for certificates of RSA keys, which this one is not.
        ("", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", OLD, None),
    ] {
        let offer = offer(min, suites);
        let listeners = [
            Listening::for_clients(&own, &Arc::clone(&roots).into(), &offer).unwrap().config,
            agent_listener(&own, Some(Arc::clone(&roots)), &offer).unwrap(),
            agent_listener(&own, None, &offer).unwrap(),
        ];
        for (at, mut listener) in listeners.into_iter().enumerate() {
            // The listeners differ in what they say beside versions and suites.
            Arc::make_mut(&mut listener).alpn_protocols = Vec::new();
            let outcome = handshake(listener, client(versions, Some(&own), &roots));
            assert_eq!(outcome.clone().ok(), negotiated, "{min} {suites} listener {at}: {outcome:?}");
        }
    }
}

#[test]
fn agents_without_a_certificate_come_in_only_where_none_is_asked_for() {
    let (own, roots) = identity();
    let asking = agent_listener(&own, Some(Arc::clone(&roots)), &Offer::default()).unwrap();
    let not_asking = agent_listener(&own, None, &Offer::default()).unwrap();
    let with = agent_client(Some(&own), Arc::clone(&roots)).unwrap();
    let without = agent_client(None, Arc::clone(&roots)).unwrap();
    assert!(handshake(Arc::clone(&asking), Arc::clone(&with)).is_ok());
    assert!(handshake(asking, Arc::clone(&without)).is_err());
    assert!(handshake(Arc::clone(&not_asking), with).is_ok());
    assert!(handshake(not_asking, without).is_ok());
}

/// A client that was admitted once is verified again, in every version.
#[test]
fn no_session_is_resumed() {
    let (own, roots) = identity();
    for versions in [OLD, NEW] {
        for listener in [
            Listening::for_clients(&own, &Arc::clone(&roots).into(), &Offer::default()).unwrap().config,
            agent_listener(&own, Some(Arc::clone(&roots)), &Offer::default()).unwrap(),
        ] {
            assert!(!listener.session_storage.can_cache());
            assert_eq!((listener.send_tls13_tickets, listener.ticketer.enabled()), (0, false));
            let mut listener = Arc::unwrap_or_clone(listener);
            listener.alpn_protocols = Vec::new();
            let client = client(versions, Some(&own), &roots);
            for _ in 0..3 {
                let (kind, _) = handshaken(Arc::new(listener.clone()), Arc::clone(&client)).unwrap();
                assert_eq!(kind, rustls::HandshakeKind::Full);
            }
        }
    }
}

#[test]
fn a_long_chain_is_refused_before_it_is_verified() {
    let (own, roots) = identity();
    let listener = agent_listener(&own, Some(Arc::clone(&roots)), &Offer::default()).unwrap();
    let of_length = |length| {
        let (chain, key) = own.parts();
        Identity { chain: chain.into_iter().cycle().take(length).collect(), key }
    };
    let come = |length| {
        let client = agent_client(Some(&of_length(length)), Arc::clone(&roots)).unwrap();
        handshake(Arc::clone(&listener), client).map_err(|error| refused_certificate(&error.to_string()))
    };
    assert!(come(1).is_ok() && come(8).is_ok());
    assert_eq!(come(9), Err(Some("certificate_chain_too_long")));
    assert_eq!(come(120), Err(Some("certificate_chain_too_long")));
}
