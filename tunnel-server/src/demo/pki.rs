//! A throw-away certificate authority and the certificates of the demo.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Writes `ca.crt`, and `.crt` and `.key` of `server`, `agent` and `client`.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write(dir: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "tunnel demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = params.self_signed(&key)?;
    put(dir, "ca.crt", &authority.pem())?;
    let issuer = Issuer::new(params, key);
    for (name, usage) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("agent", ExtendedKeyUsagePurpose::ClientAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, format!("demo-{name}"));
        params.extended_key_usages = vec![usage];
        put(dir, &format!("{name}.crt"), &params.signed_by(&key, &issuer)?.pem())?;
        put(dir, &format!("{name}.key"), &key.serialize_pem())?;
    }
    Ok(())
}

fn put(dir: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    // Keys are nobody else's business, even for a demo.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?;
    Ok(file.write_all(text.as_bytes())?)
}
