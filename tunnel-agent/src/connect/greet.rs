//! Hello, and what the server answers.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tunnel::control::{ControlError, Messages, control_messages, greeting};
use tunnel::stream::Stream;
use tunnel_proto::message::{Control, Hello, RejectionKind, VERSION, Welcome, encode_control};

/// How long the server may take to answer Hello.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// Longest token, in bytes. Those of service accounts have one or two thousand.
const MAX_TOKEN: u64 = 32 * 1024;

/// Longest server id, in bytes.
const MAX_SERVER_ID: usize = 253;

/// Why a server does not count as connected although a tunnel stood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    #[error("{0}")]
    Control(#[from] ControlError),
    #[error("the server did not answer the greeting in time")]
    Timeout,
    #[error("rejected by the server ({kind:?}): {text}")]
    Rejected { kind: RejectionKind, text: String },
    #[error("the server answered the greeting with something else")]
    Unexpected,
    #[error("the server's id is not 1 to {MAX_SERVER_ID} bytes long")]
    ServerId,
}

/// A token that cannot be presented.
#[derive(Debug, thiserror::Error)]
#[error("token file {path}: {why}")]
pub(crate) struct TokenError {
    path: PathBuf,
    why: String,
}

/// What a server said to Hello.
#[derive(Debug)]
pub(super) enum Answer {
    Welcome(Box<(Messages, Welcome)>),
    /// There is a tunnel to it; its id.
    Duplicate(String),
}

/// Reads a token, which a kubelet replaces long before it expires.
pub(super) fn read_token(path: &Path) -> Result<String, TokenError> {
    let fail = |why: String| TokenError { path: path.to_owned(), why };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let read = file.take(MAX_TOKEN + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    if read as u64 > MAX_TOKEN {
        return Err(fail(format!("longer than {MAX_TOKEN} bytes")));
    }
    let token = text.trim_ascii();
    if token.is_empty() { Err(fail("empty".to_owned())) } else { Ok(token.to_owned()) }
}

/// Says Hello and waits for the answer. Not cancel safe: the tunnel is of no
/// use afterwards.
pub(super) async fn greet(control: Stream, hello: Hello) -> Result<Answer, GreetingError> {
    let mut messages = control_messages(control);
    let hello = Hello {
        version: VERSION,
        software: concat!("tunnel-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..hello
    };
    let hello = encode_control(Control::Hello(hello)).map_err(ControlError::from)?;
    let answer = async {
        messages.send(hello).await.map_err(ControlError::from)?;
        greeting(&mut messages).await
    };
    match timeout(GREETING_LIMIT, answer).await.map_err(|_| GreetingError::Timeout)?? {
        Control::Welcome(welcome) => {
            check_id(&welcome.server_id)?;
            Ok(Answer::Welcome(Box::new((messages, welcome))))
        }
        Control::Rejection(rejection) => match RejectionKind::from_code(rejection.code) {
            RejectionKind::Duplicate => {
                check_id(&rejection.server_id)?;
                Ok(Answer::Duplicate(rejection.server_id))
            }
            kind @ (RejectionKind::Other
            | RejectionKind::Version
            | RejectionKind::Identity
            | RejectionKind::Unauthenticated
            | RejectionKind::Draining
            | RejectionKind::Unavailable) => Err(GreetingError::Rejected { kind, text: rejection.text }),
        },
        Control::Hello(_) | Control::Ping(_) | Control::Pong(_) | Control::Alive(_) | Control::Drain(_) => {
            Err(GreetingError::Unexpected)
        }
    }
}

fn check_id(id: &str) -> Result<(), GreetingError> {
    if (1..=MAX_SERVER_ID).contains(&id.len()) { Ok(()) } else { Err(GreetingError::ServerId) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_without_the_space_around_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (text, token) in [("abc.def", Some("abc.def")), ("abc\n", Some("abc")), ("\n", None), ("", None)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_token(&path).ok().as_deref(), token, "{text:?}");
        }
        std::fs::write(&path, "x".repeat(40_000)).unwrap();
        assert!(read_token(&path).unwrap_err().to_string().contains("longer than"));
        let missing = read_token(&dir.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none") && missing.contains("No such file"), "{missing}");
    }
}
