//! HTTP proxies between the agent and servers, from `HTTPS_PROXY` and `NO_PROXY`.
//!
//! The rules are those of Go's libraries, which Konnectivity's agent follows: upper-case
//! variables before lower-case ones, CONNECT without TLS whatever the scheme of the
//! proxy's URL, and no proxy for this host. Only TCP goes through a proxy, never QUIC.

mod exceptions;
mod handshake;
#[cfg(test)]
mod tests;

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::endpoint::{ServerAddr, host_and_port};
use exceptions::Exceptions;

/// Why there is no connection through a proxy. No text shows a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// `HTTPS_PROXY` is not the address of a proxy.
    #[error("HTTPS_PROXY is no address of a proxy: {0}; write http://host:port")]
    Address(&'static str),
    /// A CONNECT request cannot name the server.
    #[error("{0:?} is no name of a server")]
    Server(String),
    /// The connection to the proxy or its response failed.
    #[error("proxy {proxy}: {why}")]
    Failed { proxy: String, why: String },
    /// The proxy refused, with this status and reason.
    #[error("proxy {proxy} does not connect to {server}: {status} {reason}{}", hint(*status))]
    Refused { proxy: String, server: String, status: u16, reason: String },
    /// The deadline passed.
    #[error("proxy {proxy} did not connect to {server} in time")]
    Timeout { proxy: String, server: String },
}

const fn hint(status: u16) -> &'static str {
    if status == 407 { "; put user:password@ before its host in HTTPS_PROXY" } else { "" }
}

/// The proxy settings of the environment.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    proxy: Option<Proxy>,
    exceptions: Exceptions,
}

impl Proxies {
    /// Reads the settings with `get`, which returns the value of an environment variable.
    ///
    /// # Errors
    /// [`ProxyError::Address`].
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let first = |names: [&str; 2]| {
            names.into_iter().filter_map(&get).find(|value| !value.is_empty()).unwrap_or_default()
        };
        let proxy = match first(["HTTPS_PROXY", "https_proxy"]) {
            none if none.trim().is_empty() => None,
            url => Some(Proxy::parse(&url)?),
        };
        Ok(Self { proxy, exceptions: Exceptions::parse(&first(["NO_PROXY", "no_proxy"])) })
    }

    /// The proxy for a server; `None` if it is reached without one.
    pub(crate) fn to(&self, host: &str, port: u16) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.exceptions.contain(host, port))
    }
}

/// An HTTP proxy.
#[derive(Clone)]
pub(crate) struct Proxy {
    addr: ServerAddr,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl Proxy {
    /// Connects to a server, whose name the proxy resolves. Cancel safe: a dropped call
    /// closes its socket.
    ///
    /// # Errors
    /// Any [`ProxyError`] but [`ProxyError::Address`].
    pub(crate) async fn connect(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream, ProxyError> {
        // The name becomes part of a line of text.
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ProxyError::Server(host.chars().take(64).collect()));
        }
        let server = ServerAddr { host: host.to_owned(), port }.to_string();
        let connected = timeout_at(deadline, handshake::through(self, &server, deadline)).await;
        connected.unwrap_or_else(|_| Err(ProxyError::Timeout { proxy: self.to_string(), server }))
    }

    fn parse(url: &str) -> Result<Self, ProxyError> {
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(ProxyError::Address("only http proxies are known")),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = host_and_port(address);
        let port = port.map_or(Ok(default_port), str::parse);
        let port = port.map_err(|_| ProxyError::Address("the port is no number"))?;
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) || port == 0 {
            return Err(ProxyError::Address("there is no host in it"));
        }
        Ok(Self { addr: ServerAddr { host: host.to_owned(), port }, authorization: user.map(basic) })
    }

    fn failed(&self, why: impl fmt::Display) -> ProxyError {
        ProxyError::Failed { proxy: self.to_string(), why: why.to_string() }
    }
}

/// Basic authentication (RFC 7617). In URLs, both parts are percent-encoded.
fn basic(user: &str) -> String {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut secret: Vec<u8> = percent_decode_str(name).collect();
    secret.push(b':');
    secret.extend(percent_decode_str(password));
    format!("Basic {}", BASE64_STANDARD.encode(secret))
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self}, authorization: {})", self.authorization.is_some())
    }
}
