//! A TLS handshake that shows the target's certificate. Nothing is verified, and no application
//! data is sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{IpAddr, ServerName};
use rustls::{Error, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::report::{Failure, Health, ProbeReport, Stage, TlsMode};
use crate::witness::Witness;

/// With [`TlsMode::Auto`], a target that has said nothing for this long does not speak TLS: a
/// handshake takes two round trips. Less takes slow targets for silent ones; more makes
/// people wait for plain ones.
const SILENT: Duration = Duration::from_secs(3);

/// Tries TLS on a connection to `host`, and adds the result to the report.
pub async fn peek<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    host: &str,
    mode: TlsMode,
    limit: Duration,
    report: &mut ProbeReport,
) {
    let limit = match mode {
        TlsMode::Never => return,
        TlsMode::Auto => limit.min(SILENT),
        TlsMode::Always => limit,
    };
    let (began, seen) = (Instant::now(), Witness::curious());
    let tried = Box::pin(timeout(limit, handshake(socket, host, &seen))).await;
    let silent = |_| Err(Refused::Plain(format!("no answer within {limit:?}")));
    // Also after a handshake that failed: a target may want a certificate of us.
    report.certificate = seen.seen().certificate;
    let certificate = report.certificate.as_ref();
    let detail = match tried.unwrap_or_else(silent) {
        Ok(version) => {
            let expired = certificate.filter(|certificate| certificate.left < 0);
            report.failure = expired.map(|certificate| {
                failure("expired", format!("the target's certificate expired at {}", certificate.not_after))
            });
            format!("{version}, {}", certificate.map_or("no certificate", |found| &found.subject))
        }
        Err(Refused::Plain(why)) if mode == TlsMode::Auto => format!("the target does not speak it: {why}"),
        Err(Refused::Plain(why)) => {
            report.failure = Some(failure("plain", format!("the target does not speak TLS: {why}")));
            return;
        }
        Err(Refused::Tls(why)) => {
            report.failure = Some(failure("tls", why));
            return;
        }
    };
    report.stages.push(Stage { name: "tls".to_owned(), detail, took_us: Some(micros(began.elapsed())) });
}

/// A duration as reports have it.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn failure(kind: &str, text: String) -> Failure {
    Failure { stage: "tls".to_owned(), kind: kind.to_owned(), text, health: Health::Degraded }
}

enum Refused {
    /// The target does not speak TLS.
    Plain(String),
    /// It does, and the handshake failed.
    Tls(String),
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    host: &str,
    seen: &Arc<Witness>,
) -> Result<&'static str, Refused> {
    let config = config(seen).map_err(|error| Refused::Tls(error.to_string()))?;
    match TlsConnector::from(Arc::new(config)).connect(server_name(host), socket).await {
        Ok(tls) => Ok(version(tls.get_ref().1.protocol_version())),
        Err(error) => Err(why(&error)),
    }
}

/// An address, or a name that no server can take for one of its own.
pub(crate) fn server_name(host: &str) -> ServerName<'static> {
    let name = ServerName::try_from(host.to_owned());
    name.unwrap_or(ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from([0, 0, 0, 0]))))
}

fn why(error: &io::Error) -> Refused {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        // An echo sends our own first message back.
        Some(
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. },
        ) => Refused::Plain("its answer is not TLS".to_owned()),
        Some(error) => Refused::Tls(error.to_string()),
        None => Refused::Plain(error.to_string()),
    }
}

const fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        Some(_) | None => "TLS",
    }
}

fn config(seen: &Arc<Witness>) -> Result<rustls::ClientConfig, Error> {
    let builder = rustls::ClientConfig::builder_with_provider(seen.provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(seen) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth())
}
