//! The way out through an HTTP proxy, as `HTTPS_PROXY` and `NO_PROXY` ask for
//! it: who is reached through it, and how.
//!
//! The rules are those of Go's libraries, which Konnectivity's agent follows:
//! upper-case variables before lower-case ones, CONNECT in the clear whatever
//! the scheme of the proxy's URL, and never for this host itself. Only TCP goes
//! through a proxy; QUIC cannot.

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

use exceptions::Exceptions;

/// Why there is no connection through a proxy. No text shows a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// `HTTPS_PROXY` is no proxy's address.
    #[error("HTTPS_PROXY is no address of a proxy: {0}; write http://host:port")]
    Address(&'static str),
    /// The server's name cannot be told to a proxy.
    #[error("{0:?} is no name of a server")]
    Server(String),
    /// There is no connection to the proxy, or it broke.
    #[error("proxy {proxy}: {why}")]
    Lost {
        /// The proxy.
        proxy: String,
        /// What happened.
        why: String,
    },
    /// The proxy said no.
    #[error("proxy {proxy} does not connect to {server}: {status} {reason}{hint}", hint = self.hint())]
    Refused {
        /// The proxy.
        proxy: String,
        /// Whom it was asked for.
        server: String,
        /// The status of its answer.
        status: u16,
        /// The words beside it.
        reason: String,
    },
    /// The proxy's answer is none.
    #[error("proxy {proxy}: {why}")]
    Answer {
        /// The proxy.
        proxy: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It took too long.
    #[error("proxy {proxy} did not connect to {server} in time")]
    Timeout {
        /// The proxy.
        proxy: String,
        /// Whom it was asked for.
        server: String,
    },
}

impl ProxyError {
    const fn hint(&self) -> &'static str {
        match self {
            Self::Refused { status: 407, .. } => "; put user:password@ before its host in HTTPS_PROXY",
            Self::Address(_)
            | Self::Server(_)
            | Self::Lost { .. }
            | Self::Refused { .. }
            | Self::Answer { .. }
            | Self::Timeout { .. } => "",
        }
    }
}

/// What the environment says about proxies.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    proxy: Option<Proxy>,
    exceptions: Exceptions,
}

impl Proxies {
    /// Reads `HTTPS_PROXY` and `NO_PROXY`, or the same in lower case.
    ///
    /// # Errors
    /// When `HTTPS_PROXY` is no proxy's address.
    pub fn from_env() -> Result<Self, ProxyError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The same, from elsewhere.
    ///
    /// # Errors
    /// When `HTTPS_PROXY` is no proxy's address.
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

    /// The proxy through which a server is to be reached, if it is.
    pub fn to(&self, host: &str, port: u16) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.exceptions.contain(host, port))
    }
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

impl Proxy {
    /// Connects to a server through the proxy. The name is resolved by the
    /// proxy. Everything together ends at the deadline. Cancel safe: a dropped
    /// call closes its socket.
    ///
    /// # Errors
    /// See [`ProxyError`].
    pub async fn connect(&self, host: &str, port: u16, deadline: Instant) -> Result<TcpStream, ProxyError> {
        // The name goes into a line of text.
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ProxyError::Server(host.chars().take(64).collect()));
        }
        let server = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
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
        let (host, port) = match address.rsplit_once(':') {
            // The last colon of a bare IPv6 address is in brackets.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| ProxyError::Address("the port is no number"))?)
            }
            Some(_) | None => (address, default_port),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()) || port == 0 {
            return Err(ProxyError::Address("there is no host in it"));
        }
        Ok(Self { host: host.to_owned(), port, authorization: user.map(basic) })
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
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self}, authorization: {})", self.authorization.is_some())
    }
}
