//! The contents of certificates. No certificate is verified here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::report::{Certificate, Expiry};

/// Most names of a certificate that are shown. Some have hundreds.
const MOST_NAMES: usize = 64;

/// Longest text of a certificate that is shown, in characters.
const MAX_TEXT: usize = 256;

/// The certificates of files that flags name, read when the program read them.
#[derive(Debug, Clone, Default)]
pub struct Files(Vec<Found>);

/// Flag, file, certificate and its end.
type Found = (&'static str, PathBuf, Certificate, Timestamp);

fn expiry((flag, path, certificate, end): &Found) -> Expiry {
    Expiry {
        flag: (*flag).to_owned(),
        file: path.display().to_string(),
        subject: certificate.subject.clone(),
        not_after: certificate.not_after.clone(),
        left: until(*end),
    }
}

impl Files {
    /// Reads files; an empty path is none. Unreadable files are left out: programs refuse those
    /// that they need.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'static str, &'a Path)>) -> Self {
        let mut read = Vec::new();
        for (flag, path) in files.into_iter().filter(|(_, path)| !path.as_os_str().is_empty()) {
            let Ok(found) = CertificateDer::pem_file_iter(path) else { continue };
            for (certificate, end) in found.flatten().filter_map(|der| parse(&der).ok()) {
                read.push((flag, path.to_owned(), certificate, end));
            }
        }
        Self(read)
    }

    /// The certificate that expires first.
    pub fn nearest(&self) -> Option<Expiry> {
        self.0.iter().min_by_key(|(_, _, _, end)| *end).map(expiry)
    }

    /// All certificates, in the order of the files.
    pub fn all(&self) -> Vec<Expiry> {
        self.0.iter().map(expiry).collect()
    }
}

/// Reads a certificate in DER.
///
/// # Errors
/// When it is malformed.
pub fn describe(der: &[u8]) -> Result<Certificate, String> {
    parse(der).map(|(certificate, _)| certificate)
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
