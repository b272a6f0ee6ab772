//! Client certificates that no listener admits, each for another reason.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};

use crate::pki::Pki;

/// The one name that an intermediate authority may vouch for. Leaves have another one.
const PERMITTED: &str = "permitted.test";

/// A credential of a client or agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// Admitted.
    Good,
    /// No certificate.
    Missing,
    /// Signed with its own key.
    SelfSigned,
    /// An authority's own certificate, as openssl makes self-signed ones.
    SelfSignedAuthority,
    /// Signed by another authority.
    WrongAuthority,
    /// Expired in 2020.
    Expired,
    /// Valid from 2090 on.
    NotYetValid,
    /// For servers.
    WrongUsage,
    /// Its name is outside of what its issuer may vouch for.
    NameConstraints,
}

impl Credential {
    /// Those that are refused, each with its reason in metrics and logs.
    pub const BAD: [(Self, &str); 8] = [
        (Self::Missing, "certificate_missing"),
        (Self::SelfSigned, "certificate_self_signed"),
        (Self::SelfSignedAuthority, "certificate_self_signed"),
        (Self::WrongAuthority, "certificate_unknown_issuer"),
        (Self::Expired, "certificate_expired"),
        (Self::NotYetValid, "certificate_not_yet_valid"),
        (Self::WrongUsage, "certificate_wrong_usage"),
        (Self::NameConstraints, "certificate_name_constraints"),
    ];

    /// Makes the credential; the files of its chain and its key.
    pub fn make(self, pki: &Pki, dir: &Path) -> Option<(PathBuf, PathBuf)> {
        if self == Self::Missing {
            return None;
        }
        let key = KeyPair::generate().unwrap();
        let params = self.params();
        let chain = match self {
            Self::SelfSigned | Self::SelfSignedAuthority => params.self_signed(&key).unwrap().pem(),
            Self::WrongAuthority => {
                let other = Issuer::new(authority("somebody else"), KeyPair::generate().unwrap());
                params.signed_by(&key, &other).unwrap().pem()
            }
            Self::NameConstraints => {
                let (between, mut constrained) = (KeyPair::generate().unwrap(), authority("between"));
                let permitted_subtrees = vec![GeneralSubtree::DnsName(PERMITTED.to_owned())];
                constrained.name_constraints =
                    Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
                let certificate = constrained.signed_by(&between, &pki.issuer()).unwrap().pem();
                params.signed_by(&key, &Issuer::new(constrained, between)).unwrap().pem() + &certificate
            }
            Self::Good | Self::Missing | Self::Expired | Self::NotYetValid | Self::WrongUsage => {
                params.signed_by(&key, &pki.issuer()).unwrap().pem()
            }
        };
        let files = ["crt", "key"].map(|kind| dir.join(format!("{self:?}.{kind}")));
        std::fs::write(&files[0], chain).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        let [chain, key] = files;
        Some((chain, key))
    }

    fn params(self) -> CertificateParams {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("{self:?}"));
        params.extended_key_usages = vec![match self {
            Self::WrongUsage => ExtendedKeyUsagePurpose::ServerAuth,
            Self::Good
            | Self::Missing
            | Self::SelfSigned
            | Self::SelfSignedAuthority
            | Self::WrongAuthority
            | Self::Expired
            | Self::NotYetValid
            | Self::NameConstraints => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        match self {
            Self::Expired => params.not_after = date_time_ymd(2020, 1, 1),
            Self::NotYetValid => params.not_before = date_time_ymd(2090, 1, 1),
            Self::SelfSignedAuthority => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Self::Good
            | Self::Missing
            | Self::SelfSigned
            | Self::WrongAuthority
            | Self::WrongUsage
            | Self::NameConstraints => {}
        }
        params
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}
