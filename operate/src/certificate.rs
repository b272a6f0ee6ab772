//! The contents of certificates. No certificate is verified here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::report::{Certificate, Expiry};

/// Most names of a certificate that are shown. Some have hundreds.
const MOST_NAMES: usize = 64;

/// Longest text of a certificate that is shown, in characters.
const MAX_TEXT: usize = 256;

/// The certificates of files that flags name, as the program has read them last. Clones are the same
/// certificates.
#[derive(Debug, Clone, Default)]
pub struct Files(Arc<Mutex<Vec<OfFlag>>>);

/// The certificates of one flag.
#[derive(Debug)]
struct OfFlag {
    flag: &'static str,
    path: PathBuf,
    found: Vec<(Certificate, Timestamp)>,
}

impl OfFlag {
    fn read(flag: &'static str, path: &Path) -> Self {
        let found = CertificateDer::pem_file_iter(path).into_iter().flatten().flatten();
        let found = found.filter_map(|der| parse(&der).ok()).collect();
        Self { flag, path: path.to_owned(), found }
    }

    fn expiries(&self) -> impl Iterator<Item = Expiry> {
        self.found.iter().map(|(certificate, end)| Expiry {
            flag: self.flag.to_owned(),
            file: self.path.display().to_string(),
            subject: certificate.subject.clone(),
            not_after: certificate.not_after.clone(),
            left: until(*end),
        })
    }
}

impl Files {
    /// Reads files; an empty path is none. Unreadable files are left out: programs refuse those
    /// that they need.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'static str, &'a Path)>) -> Self {
        let given = files.into_iter().filter(|(_, path)| !path.as_os_str().is_empty());
        Self(Arc::new(Mutex::new(given.map(|(flag, path)| OfFlag::read(flag, path)).collect())))
    }

    /// Reads the file of a flag, without its dashes, again. Returns the end of the certificate that
    /// expires first, in seconds since 1970.
    pub fn renew(&self, flag: &str) -> Option<i64> {
        let mut files = self.lock();
        let one = files.iter_mut().find(|one| one.flag.trim_start_matches('-') == flag)?;
        *one = OfFlag::read(one.flag, &one.path);
        one.found.iter().map(|(_, end)| end.as_second()).min()
    }

    /// The certificate that expires first.
    pub fn nearest(&self) -> Option<Expiry> {
        self.all().into_iter().min_by_key(|expiry| expiry.left)
    }

    /// All certificates, in the order of the files.
    pub fn all(&self) -> Vec<Expiry> {
        self.lock().iter().flat_map(OfFlag::expiries).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OfFlag>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client certificates of a kubeconfig.
pub fn of_kubeconfig(path: &Path) -> Vec<Expiry> {
    let config = std::fs::read_to_string(path).ok();
    let config: Value = config.and_then(|text| serde_saphyr::from_str(&text).ok()).unwrap_or_default();
    let mut all = Vec::new();
    for user in config["users"].as_array().into_iter().flatten().map(|user| &user["user"]) {
        if let Some(file) = user["client-certificate"].as_str() {
            let file = path.parent().unwrap_or(path).join(file);
            all.extend(OfFlag::read("--kubeconfig", &file).expiries());
        }
        let data =
            user["client-certificate-data"].as_str().and_then(|data| BASE64_STANDARD.decode(data).ok());
        let der = data.and_then(|pem| CertificateDer::from_pem_slice(&pem).ok());
        let found = der.and_then(|der| parse(&der).ok()).into_iter().collect();
        all.extend(OfFlag { flag: "--kubeconfig", path: path.to_owned(), found }.expiries());
    }
    all
}

/// The end of the client certificate of a kubeconfig that expires first, in seconds since 1970.
pub fn kubeconfig_ends(path: &Path) -> Option<i64> {
    let left = of_kubeconfig(path).iter().map(|expiry| expiry.left).min()?;
    Some(Timestamp::now().as_second().saturating_add(left))
}

/// Of certificates in use, those that their files on disk do not hold any more.
pub fn stale(in_use: &[Expiry]) -> Vec<Expiry> {
    let is_on_disk = |one: &&Expiry| {
        let on_disk = OfFlag::read("", Path::new(&one.file));
        on_disk.expiries().any(|other| (&other.subject, &other.not_after) == (&one.subject, &one.not_after))
    };
    // A file that cannot be read here is another host's, or another user's.
    let readable = in_use.iter().filter(|one| std::fs::File::open(&one.file).is_ok());
    readable.filter(|one| !is_on_disk(one)).cloned().collect()
}

/// Reads a certificate in DER.
///
/// # Errors
/// When it is malformed.
pub fn describe(der: &[u8]) -> Result<Certificate, String> {
    parse(der).map(|(certificate, _)| certificate)
}

/// The end of a certificate's validity, in seconds since 1970; `None` if it is malformed.
pub fn ends(der: &[u8]) -> Option<i64> {
    Some(X509Certificate::from_der(der).ok()?.1.validity().not_after.timestamp())
}

/// The validity of a certificate, in seconds since 1970; `None` if it is malformed.
pub fn validity(der: &[u8]) -> Option<std::ops::RangeInclusive<i64>> {
    let (_, found) = X509Certificate::from_der(der).ok()?;
    Some(found.validity().not_before.timestamp()..=found.validity().not_after.timestamp())
}

fn parse(der: &[u8]) -> Result<(Certificate, Timestamp), String> {
    let (_, found) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let end = Timestamp::from_second(found.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
    let names = found.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let certificate = Certificate {
        subject: shown(&found.subject().to_string()),
        names: names.filter_map(name).take(MOST_NAMES).collect(),
        issuer: shown(&found.issuer().to_string()),
        not_after: end.to_string(),
        left: until(end),
    };
    Ok((certificate, end))
}

fn until(end: Timestamp) -> i64 {
    end.as_second().saturating_sub(Timestamp::now().as_second())
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some(shown(dns)),
        GeneralName::URI(uri) => Some(shown(uri)),
        GeneralName::IPAddress(bytes) => ip(bytes).map(|ip| ip.to_string()),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A stranger's text, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(common_name: &str, year: i32) -> rcgen::Certificate {
        let mut params = CertificateParams::new(vec!["worker-7".to_owned(), "10.0.3.7".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_tells_its_names_and_its_end() {
        let found = describe(certificate("worker-7\u{1b}[31m", 2001).der()).unwrap();
        assert_eq!(found.names, ["worker-7", "10.0.3.7"]);
        assert_eq!(found.not_after, "2001-01-01T00:00:00Z");
        assert!(found.left < 0);
        assert!(found.subject.contains("worker-7") && !found.subject.contains('\u{1b}'), "{found:?}");
        assert!(describe(b"nonsense").is_err());
    }

    #[test]
    fn of_several_files_the_one_that_expires_first_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let late = write("late", certificate("late", 2999).pem());
        let both = write("both", certificate("x", 2998).pem() + &certificate("soon", 2990).pem());
        let bad = write("bad", "nothing".to_owned());
        let paths = [("--a", late.as_path()), ("--b", &both), ("--c", &bad), ("--d", Path::new(""))];
        let nearest = Files::read(paths).nearest().unwrap();
        assert_eq!((nearest.flag.as_str(), nearest.file), ("--b", both.display().to_string()));
        assert!(nearest.subject.contains("soon") && nearest.left > 0, "{}", nearest.subject);
        assert_eq!(Files::default().nearest(), None);
    }
}
