//! Facts from files.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tunnel_kube::review::Claims;

use crate::certificate::{self, Files, of_kubeconfig};
use crate::doctor::egress::{Egress, EgressFile};
use crate::doctor::facts::{Known, Resolver, TokenFile};
use crate::doctor::manifest::Manifest;
use crate::report::{AgentSetup, Certificate, Expiry, ServerSetup};

/// Longest file that is read, in bytes. Manifests have 10 KB.
const MAX_FILE: u64 = 1024 * 1024;

/// The resolver's configuration.
pub(super) const RESOLVER: &str = "/etc/resolv.conf";

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

pub(super) fn manifest(path: &Path) -> Known<Manifest> {
    let text =
        read(path).map_err(|why| format!("{why}; --apiserver-manifest names the kube-apiserver's pod"))?;
    Manifest::parse(path, &text)
}

/// The file of the flag, or the one that the kube-apiserver reads.
pub(super) fn egress(flag: Option<&Path>, manifest: Result<&Manifest, &String>) -> Known<EgressFile> {
    let path = match (flag, manifest) {
        (Some(path), _) => path.to_owned(),
        (None, Err(why)) => return Err(format!("{why}; or give --egress-config")),
        (None, Ok(manifest)) => {
            let flag = manifest.flag("egress-selector-config-file");
            let flag = flag.ok_or("the kube-apiserver reads no egress file (T103)")?;
            manifest.on_host(Path::new(flag)).unwrap_or_else(|| flag.into())
        }
    };
    let content = read(&path).and_then(|text| Egress::parse(&text));
    Ok(EgressFile { path, content })
}

/// The first certificate of a file.
pub(super) fn certificate(path: &Path) -> Known<Certificate> {
    let der = CertificateDer::from_pem_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    certificate::describe(&der)
}

/// The common name of the kube-apiserver's certificate for kubelets.
pub(super) fn kubelet_user(manifest: &Manifest) -> Known<String> {
    let flag =
        manifest.flag("kubelet-client-certificate").ok_or("the kube-apiserver has no such certificate")?;
    let path = manifest.on_host(Path::new(flag)).unwrap_or_else(|| flag.into());
    let subject = certificate(&path)?.subject;
    let name = subject.split(", ").find_map(|part| part.strip_prefix("CN="));
    name.map(str::to_owned).ok_or_else(|| format!("{} has no common name", path.display()))
}

/// The certificates of the agent's flags, and of its kubeconfig.
pub(super) fn certificates_of_agent(agent: &AgentSetup) -> Vec<Expiry> {
    let mut all = agent.certificates.clone();
    if !agent.kubeconfig.is_empty() {
        all.extend(of_kubeconfig(Path::new(&agent.kubeconfig)));
    }
    all
}

/// The certificates of the server's flags, of its kubeconfig, and the kube-apiserver's for
/// kubelets.
pub(super) fn certificates_of_server(
    server: Option<&ServerSetup>,
    manifest: Option<&Manifest>,
) -> Vec<Expiry> {
    let mut all = server.map(|server| server.certificates.clone()).unwrap_or_default();
    if let Some(server) = server.filter(|server| !server.kubeconfig.is_empty()) {
        all.extend(of_kubeconfig(Path::new(&server.kubeconfig)));
    }
    let flag = "kubelet-client-certificate";
    let kubelets = manifest.and_then(|manifest| manifest.on_host(Path::new(manifest.flag(flag)?)));
    if let Some(path) = kubelets {
        all.extend(Files::read([("--kubelet-client-certificate", path.as_path())]).all());
    }
    all
}

pub(super) fn token(path: &str, expected: &str) -> Known<TokenFile> {
    if path.is_empty() {
        return Err("the agent has no --service-account-token-path".to_owned());
    }
    let path = PathBuf::from(path);
    let claims =
        read(&path).and_then(|text| Claims::read(text.trim_ascii()).map_err(|error| error.to_string()));
    let claims = claims.map(|claims| {
        let left = claims.lasts(SystemTime::now()).map(|left| left.as_secs());
        (claims.audiences(), left)
    });
    Ok(TokenFile { path, claims, expected: expected.to_owned() })
}

pub(super) fn resolver(path: &Path) -> Known<Resolver> {
    let text = read(path)?;
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
            // The last line counts (resolv.conf(5)).
            Some("search") => resolver.search = words.map(str::to_owned).collect(),
            Some(_) | None => {}
        }
    }
    Ok(resolver)
}
