//! The server's kubeconfig: a client certificate that kubeadm signs with the cluster's CA.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use tunnel_operate::certificate;

use crate::fault::Fault;
use crate::host::SERVER_KUBECONFIG;
use crate::manifests::USER;
use crate::site::Site;
use crate::yaml;

/// Limit of kubeadm, which only reads files and signs.
const LIMIT: Duration = Duration::from_secs(30);

/// A certificate that is good for less is made anew: kubeadm's are good for a year, and a run
/// of this command every few months is enough.
const RENEW: i64 = 120 * 24 * 3600;

/// The text of the kubeconfig: the one that is there, or a new one.
///
/// # Errors
/// When kubeadm cannot make one.
pub(crate) async fn of_server(site: &Site) -> Result<String, Fault> {
    let (address, port) = site.endpoint().unwrap_or_else(|| (site.address.clone(), 6443));
    let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    let server = format!("https://{host}:{port}");
    if let Some(text) = site.host.read(SERVER_KUBECONFIG)?
        && is_good(&text, &server)
    {
        return Ok(text);
    }
    let made = make(&site.configuration.for_node(&address, port)).await?;
    // The kube-apiserver of this node, and not a load balancer of all.
    let mut config = yaml::parse("kubeadm's output", &made)?;
    config["clusters"][0]["cluster"]["server"] = json!(server);
    let text = yaml::render(&config);
    if is_good(&text, &server) {
        return Ok(text);
    }
    Err(Fault::new(
        format!("kubeadm kubeconfig user made no usable kubeconfig for {USER}"),
        format!("kubeadm kubeconfig user --client-name={USER}"),
    ))
}

/// Whether a kubeconfig is for this server, and its certificate is for our user and lasts.
fn is_good(text: &str, server: &str) -> bool {
    let Ok(config) = yaml::parse(SERVER_KUBECONFIG, text) else { return false };
    let certificate = config.pointer("/users/0/user/client-certificate-data").and_then(Value::as_str);
    let certificate = certificate.and_then(|data| BASE64_STANDARD.decode(data.trim()).ok());
    let certificate = certificate.and_then(|pem| CertificateDer::from_pem_slice(&pem).ok());
    let described = certificate.and_then(|der| certificate::describe(&der).ok());
    config.pointer("/clusters/0/cluster/server") == Some(&json!(server))
        && described.is_some_and(|seen| seen.left > RENEW && seen.subject.contains(USER))
}

async fn make(configuration: &str) -> Result<String, Fault> {
    let failed = |why: String| {
        let command = format!("kubeadm kubeconfig user --client-name={USER}");
        Fault::new(format!("{command}: {why}"), "put kubeadm into the PATH, and run this as root")
    };
    let run = async {
        let mut kubeadm = Command::new("kubeadm")
            .args(["kubeconfig", "user", &format!("--client-name={USER}"), "--config=/dev/stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = kubeadm.stdin.take() {
            stdin.write_all(configuration.as_bytes()).await?;
        }
        kubeadm.wait_with_output().await
    };
    let output = match timeout(LIMIT, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no end within {} s", LIMIT.as_secs()))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(failed(text.lines().last().unwrap_or("it failed without a word").to_owned()))
}
