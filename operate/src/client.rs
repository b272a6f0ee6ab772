//! The command's side of the admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tunnel::drain::Drain;

use crate::api::{LOG_LEVEL, PROBE, SETUP, STATUS};
use crate::report::{LogLevel, LogLevelRequest, ProbeReport, ProbeRequest, Setup, Status};

/// Limit of a status: the program only has to look.
const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// Time of a probe beyond its own two limits.
const PROBE_SLACK: Duration = Duration::from_secs(5);

/// Longest answer, in bytes: a thousand missing nodes have 300 KB.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The reason why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("nothing answers on {path} ({why}): is the program running, with --admin-socket={path}?")]
    Absent {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// The socket is another user's.
    #[error("{0} belongs to another user: run this as root or as the program's user")]
    Denied(PathBuf),
    /// There was no answer in time.
    #[error("{path} did not answer within {limit:?}")]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// The answer is a refusal, or no JSON of the expected form.
    #[error("{path}: {why}")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// The fault of the answer.
        why: String,
    },
}

/// A program's admin socket.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client, which connects for each request.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The program's status, within ten seconds. Cancel safe.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Request::get(STATUS), Bytes::new(), STATUS_LIMIT).await
    }

    /// The settings that `doctor` checks, within ten seconds. Cancel safe.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn setup(&self) -> Result<Setup, ClientError> {
        self.ask(Request::get(SETUP), Bytes::new(), STATUS_LIMIT).await
    }

    /// The level of the program's log, within ten seconds. Cancel safe.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn log_level(&self) -> Result<LogLevel, ClientError> {
        self.ask(Request::get(LOG_LEVEL), Bytes::new(), STATUS_LIMIT).await
    }

    /// Changes the level of the program's log, within ten seconds. Cancel safe, and may have happened
    /// then.
    ///
    /// # Errors
    /// When there is no answer, or the program refuses the change.
    pub async fn change_log_level(&self, request: &LogLevelRequest) -> Result<LogLevel, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.answer(&error))?;
        self.ask(Request::post(LOG_LEVEL), body.into(), STATUS_LIMIT).await
    }

    /// Probes a target. Cancel safe: the program gives the probe up.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn probe(&self, request: &ProbeRequest) -> Result<ProbeReport, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.answer(&error))?;
        let limit = Duration::from_millis(request.timeout_ms).saturating_mul(2) + PROBE_SLACK;
        self.ask(Request::post(PROBE), body.into(), limit).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                return ClientError::Denied(self.path.clone());
            }
            ClientError::Absent { path: self.path.clone(), why: error.to_string() }
        })?;
        let request = request.header(header::HOST, "localhost").header(header::CONNECTION, "close");
        let request = request.body(Full::new(body)).map_err(|error| self.answer(&error))?;
        let late = |_| ClientError::Timeout { path: self.path.clone(), limit };
        let answer = timeout(limit, Box::pin(self.exchange(stream, request))).await.map_err(late)??;
        serde_json::from_slice(&answer).map_err(|error| self.answer(&error))
    }

    async fn exchange(
        &self,
        stream: UnixStream,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, ClientError> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.answer(&error))?;
        let drain = Drain::new();
        let killed = drain.clone();
        drain.spawn("admin client", async move {
            tokio::select! {
                () = killed.killed() => {}
                // The request reports the failure.
                _ = connection => {}
            }
        });
        let _ends = Ends(drain);
        let answer = sender.send_request(request).await.map_err(|error| self.answer(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.answer(&error))?.to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body);
        Err(self.answer(&format!("{status}: {}", text.trim())))
    }

    fn answer(&self, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Answer { path: self.path.clone(), why: why.to_string() }
    }
}

/// Ends the connection's task with the request.
struct Ends(Drain);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill();
    }
}
