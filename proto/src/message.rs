//! The messages between agent and server, each behind a two-byte length.
//!
//! The generated types are the wire; what leaves this module is checked:
//! targets are parsed, numbers have become enums.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::r#gen::tunnel as wire;
use crate::refusal::{Refusal, RefusalKind};
use crate::target::{Target, TargetError};

pub use wire::control::Body as Control;
pub use wire::{Alive, Drain, Hello, Ping, Pong, Rejection, Welcome};

/// The version of the protocol that this code speaks.
pub const VERSION: u32 = 1;

/// Capability of a server that reads what [`Alive`] promises.
pub const READS_ALIVE: &str = "alive";

/// Longest message on a control stream, in bytes: a token and the identifiers
/// fit in, and nothing more.
pub const MAX_CONTROL: usize = 48 * 1024;

/// Longest [`Dial`] or [`DialReply`], in bytes.
pub const MAX_DIAL: usize = 4 * 1024;

/// Longest text of a refusal or rejection that is sent, in bytes.
const MAX_TEXT: usize = 1024;

/// A message that breaks the rules of its sender's own protocol.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// Not protobuf, or not of this type.
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A member without which the message means nothing is absent.
    #[error("message without its content")]
    Empty,
    /// A dial for something that is no target.
    #[error("dial {0}")]
    Target(#[from] TargetError),
    /// A dial for another protocol than TCP.
    #[error("dial {0}: unknown network {0}")]
    Protocol(String),
    /// A control message that does not fit the two-byte length.
    #[error("message of {0} bytes is too long to send")]
    TooLong(usize),
}

/// Reasons for which a server does not admit an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionKind {
    /// Any other reason.
    Other,
    /// The versions do not meet.
    Version,
    /// The agent's id or identifiers are not acceptable.
    Identity,
    /// The agent did not authenticate.
    Unauthenticated,
    /// The server is on its way out.
    Draining,
    /// The agent says itself that it holds a tunnel to this server.
    Duplicate,
    /// The server cannot tell at the moment whether the agent may be admitted:
    /// the same agent may be admitted a little later.
    Unavailable,
}

impl RejectionKind {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        match self {
            Self::Other => 1,
            Self::Version => 2,
            Self::Identity => 3,
            Self::Unauthenticated => 4,
            Self::Draining => 5,
            Self::Duplicate => 6,
            Self::Unavailable => 7,
        }
    }

    /// Reads a number; unknown ones are [`Self::Other`].
    pub const fn from_code(code: u32) -> Self {
        match code {
            2 => Self::Version,
            3 => Self::Identity,
            4 => Self::Unauthenticated,
            5 => Self::Draining,
            6 => Self::Duplicate,
            7 => Self::Unavailable,
            _ => Self::Other,
        }
    }
}

/// Frames a control message.
///
/// # Errors
/// [`MessageError::TooLong`] when it does not fit [`MAX_CONTROL`].
pub fn encode_control(control: Control) -> Result<Bytes, MessageError> {
    let message = wire::Control { body: Some(control) };
    let length = message.encoded_len();
    if length > MAX_CONTROL {
        return Err(MessageError::TooLong(length));
    }
    Ok(frame(&message))
}

/// Reads a control message; `None` is one that this version does not know.
///
/// # Errors
/// [`MessageError::Malformed`].
pub fn decode_control(message: Bytes) -> Result<Option<Control>, MessageError> {
    Ok(wire::Control::decode(message)?.body)
}

/// The first bytes of a stream that carries a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// What to connect to.
    pub target: Target,
    /// How long the agent may take.
    pub timeout: Duration,
    /// The server's name for the connection, for both logs.
    pub connection_id: u64,
}

impl Dial {
    /// The framed message. A timeout of more than 49 days is sent as 49 days.
    pub fn encode(&self) -> Bytes {
        frame(&wire::Dial {
            target: self.target.to_string(),
            timeout_ms: u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX),
            connection_id: self.connection_id,
            protocol: String::new(),
        })
    }

    /// Reads a message without its length.
    ///
    /// # Errors
    /// When it is not a dial, or for something that cannot be dialled.
    pub fn decode(message: Bytes) -> Result<Self, MessageError> {
        let dial = wire::Dial::decode(message)?;
        if !matches!(dial.protocol.as_str(), "" | "tcp") {
            let shown = dial.protocol.chars().take(32).flat_map(char::escape_default).collect();
            return Err(MessageError::Protocol(shown));
        }
        Ok(Self {
            target: dial.target.parse()?,
            timeout: Duration::from_millis(dial.timeout_ms.into()),
            connection_id: dial.connection_id,
        })
    }
}

/// The agent's answer to a [`Dial`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialReply {
    /// The target accepted; raw bytes follow in both directions.
    Connected {
        /// The address that was dialled in the end.
        address: String,
    },
    /// It did not, and the stream ends here.
    Refused(Refusal),
}

impl DialReply {
    /// The framed message.
    pub fn encode(&self) -> Bytes {
        let outcome = match self {
            Self::Connected { address } => {
                wire::dial_reply::Outcome::Connected(wire::Connected { address: address.clone() })
            }
            Self::Refused(refusal) => wire::dial_reply::Outcome::Refused(wire::Refused {
                code: refusal.kind.code(),
                text: shorten(&refusal.text),
            }),
        };
        frame(&wire::DialReply { outcome: Some(outcome) })
    }

    /// Reads a message without its length.
    ///
    /// # Errors
    /// When it is not a reply of either kind.
    pub fn decode(message: Bytes) -> Result<Self, MessageError> {
        match wire::DialReply::decode(message)?.outcome.ok_or(MessageError::Empty)? {
            wire::dial_reply::Outcome::Connected(connected) => {
                Ok(Self::Connected { address: connected.address })
            }
            wire::dial_reply::Outcome::Refused(refused) => Ok(Self::Refused(Refusal {
                kind: RefusalKind::from_code(refused.code),
                text: shorten(&refused.text),
            })),
        }
    }
}

/// Cuts a text to what is worth sending, at a character.
fn shorten(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[..end].to_owned()
}

/// Callers keep messages under 64 KiB: control messages are checked, the
/// others are bounded by what they are made of (a target, a shortened text).
fn frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(2 + length);
    out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
    // Fails only where there is no room, and this grows.
    let _ = message.encode(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deframe::Deframer;
    use proptest::prelude::*;

    fn unframe(wire: Bytes, limit: usize) -> Bytes {
        let mut deframer = Deframer::short(limit);
        deframer.push(wire);
        let message = deframer.next().unwrap().unwrap();
        assert!(!deframer.is_mid_message());
        message
    }

    fn dial() -> Dial {
        Dial {
            target: "10.0.0.1:80".parse().unwrap(),
            timeout: Duration::from_secs(30),
            connection_id: u64::MAX,
        }
    }

    #[test]
    fn a_dial_and_its_replies_survive_the_wire() {
        assert_eq!(Dial::decode(unframe(dial().encode(), MAX_DIAL)).unwrap(), dial());
        let refused = Refusal { kind: RefusalKind::Timeout, text: "i/o timeout".into() };
        for reply in [DialReply::Connected { address: "[::1]:80".into() }, DialReply::Refused(refused)] {
            assert_eq!(DialReply::decode(unframe(reply.encode(), MAX_DIAL)).unwrap(), reply);
        }
    }

    #[test]
    fn the_longest_dial_and_reply_stay_under_their_limit() {
        let longest = Dial { target: format!("{}:65535", "a.".repeat(126)).parse().unwrap(), ..dial() };
        assert!(longest.encode().len() <= MAX_DIAL);
        let text = "ü".repeat(100_000);
        let reply = DialReply::Refused(Refusal { kind: RefusalKind::Dns, text }).encode();
        assert!(reply.len() <= MAX_DIAL);
        assert!(DialReply::decode(unframe(reply, MAX_DIAL)).is_ok());
    }

    #[test]
    fn a_dial_for_another_protocol_is_refused() {
        for protocol in ["unix", "udp", "sctp", "TCP"] {
            let message = wire::Dial {
                target: "10.0.0.1:80".into(),
                protocol: protocol.into(),
                ..wire::Dial::default()
            };
            let error = Dial::decode(message.encode_to_vec().into()).unwrap_err();
            assert_eq!(error.to_string(), format!("dial {protocol}: unknown network {protocol}"));
        }
    }

    #[test]
    fn a_reply_without_an_outcome_is_an_error() {
        assert_eq!(DialReply::decode(Bytes::new()), Err(MessageError::Empty));
    }

    #[test]
    fn control_messages_of_the_future_are_skipped() {
        // Field 99, a string: no body that this version knows.
        assert_eq!(decode_control(Bytes::from_static(&[0x9a, 0x06, 0x01, b'x'])).unwrap(), None);
    }

    #[test]
    fn kinds_of_rejection_survive_the_wire_and_unknown_ones_have_a_name() {
        use RejectionKind::{Draining, Duplicate, Identity, Other, Unauthenticated, Version};
        for kind in [Other, Version, Identity, Unauthenticated, Draining, Duplicate] {
            assert_eq!(RejectionKind::from_code(kind.code()), kind);
        }
        assert_eq!(RejectionKind::from_code(0), Other);
        assert_eq!(RejectionKind::from_code(u32::MAX), Other);
    }

    #[test]
    fn a_control_message_over_the_limit_is_not_sent() {
        let hello = Hello { token: "x".repeat(MAX_CONTROL), ..Hello::default() };
        assert!(matches!(encode_control(Control::Hello(hello)), Err(MessageError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = decode_control(bytes.clone());
            let _ = Dial::decode(bytes.clone());
            let _ = DialReply::decode(bytes);
        }
    }
}
