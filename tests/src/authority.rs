//! Authorities that issue certificates of any length, and revoke them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    serial: AtomicU64,
}

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, in PEM.
    pub cert: String,
    /// The key, in PEM.
    pub key: String,
    /// The certificate's serial number.
    pub serial: u64,
}

impl Authority {
    /// With a key of its own.
    pub fn new(name: &str) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem, serial: AtomicU64::new(1) }
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate for this host, valid for an hour.
    pub fn server(&self) -> Issued {
        let hour = Duration::from_secs(3600);
        self.issue("server", ExtendedKeyUsagePurpose::ServerAuth, Duration::ZERO, hour)
    }

    /// A client's or an agent's certificate, valid for so long from now, in whole seconds.
    pub fn client(&self, name: &str, lasts: Duration) -> Issued {
        self.aged_client(name, Duration::ZERO, lasts)
    }

    /// As [`Self::client`], and valid since so long.
    pub fn aged_client(&self, name: &str, age: Duration, lasts: Duration) -> Issued {
        self.issue(name, ExtendedKeyUsagePurpose::ClientAuth, age, lasts)
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose, age: Duration, lasts: Duration) -> Issued {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (key, names) = (KeyPair::generate().unwrap(), ["localhost", "127.0.0.1"].map(str::to_owned));
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(SerialNumber::from(serial));
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        params.not_before = date_time_ymd(1970, 1, 1) + since - age;
        params.not_after = params.not_before + age + lasts;
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { cert, key: key.serialize_pem(), serial }
    }

    /// A revocation list of these certificates, in PEM.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}
