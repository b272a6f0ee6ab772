//! Servers: one call of an agent, until it is admitted or refused.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::sync::Notify;
use tracing::debug;
use tunnel_proto::message::{Hello, VERSION, Welcome};

use super::http2::{BEARER, CONNECT_PATH};
use super::tunnel::Tunnel;
use crate::drain::Drain;
use crate::packets::{Counters, Halves, Limits, Role};
use crate::transport::error::HandshakeError;

/// Received bytes that may wait on a server for clients slower than the agent. Less closes
/// more slow clients; more is memory that they can take.
const SERVER_LIMITS: Limits = Limits { connection: 32 << 20, stream: 256 << 20 };

/// Longest metadata value that is taken, in bytes.
const MAX_METADATA: usize = 16 * 1024;

/// A call of an agent without an answer yet.
#[derive(Debug)]
pub(crate) struct Call {
    metadata: HeaderMap,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    remote: SocketAddr,
    counters: Counters,
    /// Told once the agent is admitted.
    admitted: Arc<Notify>,
}

/// Metadata of an agent that carries no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// The metadata is no bearer token.
    #[error("the authorization metadata of the agent does not begin with {BEARER:?}")]
    NoBearer,
    /// There are several values.
    #[error("the agent sent {0} values of authorization metadata instead of one")]
    Several(usize),
}

/// gRPC's status codes, as far as they are sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Go's code for errors without a code.
    Unknown = 2,
    /// The method does not exist.
    Unimplemented = 12,
    /// The service is unavailable for now.
    Unavailable = 14,
    /// The credentials are not accepted.
    Unauthenticated = 16,
}

impl Call {
    /// Returns `None` when it is no call of this service, after refusing it.
    pub(super) fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        remote: SocketAddr,
        counters: Counters,
        admitted: &Arc<Notify>,
    ) -> Option<Self> {
        let (head, body) = request.into_parts();
        let admitted = Arc::clone(admitted);
        let call = Self { metadata: head.headers, body, respond, remote, counters, admitted };
        let content = call.metadata.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if head.method == Method::POST
            && content.starts_with(b"application/grpc")
            && head.uri.path() == CONNECT_PATH
        {
            return Some(call);
        }
        debug!(from = %remote, path = head.uri.path(), "an agent called something else");
        call.refuse(Status::Unimplemented, "unknown method");
        None
    }

    /// The agent's introduction from the metadata. Errors have the texts of Konnectivity's
    /// server.
    pub(crate) fn hello(&self) -> Result<Hello, String> {
        let ids = self.values("agentid");
        let [id] = ids[..] else {
            return Err(format!("expected one agent ID in the context, got [{}]", ids.join(" ")));
        };
        let identifiers = match self.values("agentidentifiers")[..] {
            [] => "",
            [identifiers] => identifiers,
            ref more => {
                return Err(format!("expected at most one set of agent identifiers, got {}", more.len()));
            }
        };
        Ok(Hello {
            version: VERSION,
            agent_id: id.to_owned(),
            identifiers: identifiers.to_owned(),
            software: "konnectivity".to_owned(),
            ..Hello::default()
        })
    }

    /// The token that the agent presents, if any.
    pub(crate) fn token(&self) -> Result<Option<String>, BearerError> {
        match self.values("authorization")[..] {
            [] => Ok(None),
            [value] => {
                // Konnectivity's agents send their token file as it is.
                let token = value.strip_prefix(BEARER).ok_or(BearerError::NoBearer)?;
                Ok(Some(token.trim_ascii().to_owned()))
            }
            ref several => Err(BearerError::Several(several.len())),
        }
    }

    /// All values of a metadata key that are text.
    fn values(&self, key: &str) -> Vec<&str> {
        let text = |value: &'_ HeaderValue| value.len() <= MAX_METADATA;
        let values = self.metadata.get_all(key).iter().filter(|value| text(value));
        values.filter_map(|value| value.to_str().ok()).collect()
    }

    /// The agent's address.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Ends the call with an error.
    pub(crate) fn refuse(mut self, status: Status, text: &str) {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(status as u16));
        if let Ok(text) = HeaderValue::from_str(&percent_encoded(text)) {
            headers.insert("grpc-message", text);
        }
        // Fails only when the agent has left.
        let _ = self.respond.send_response(response, true);
    }

    /// Admits the agent: names the server and the number of servers.
    ///
    /// # Errors
    /// When the agent left, or the server's id is no header value.
    pub(crate) fn admit(mut self, welcome: &Welcome, drain: &Drain) -> Result<Tunnel, HandshakeError> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let id = HeaderValue::from_str(&welcome.server_id)
            .map_err(|error| HandshakeError::Config(error.to_string()))?;
        headers.insert("serverid", id);
        headers.insert("servercount", HeaderValue::from(welcome.server_count));
        let send = self
            .respond
            .send_response(response, false)
            .map_err(|error| HandshakeError::Lost(error.to_string()))?;
        self.admitted.notify_one();
        let halves = Halves { send, body: self.body, called: true, counters: self.counters };
        Ok(Tunnel::start(halves, Role::Dialer, SERVER_LIMITS, self.remote, drain))
    }
}

/// gRPC messages are ASCII; other bytes are percent-encoded.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes().take(512) {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            byte => out.push(byte.into()),
        }
    }
    out
}
