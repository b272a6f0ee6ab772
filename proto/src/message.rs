//! The messages between agent and server, each behind a two-byte length
//! (`tunnel.proto`). [`Dial`] and [`DialReply`] have parsed targets and enums.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::r#gen::tunnel as wire;
use crate::refusal::{Refusal, RefusalKind, printable};
use crate::target::{Target, TargetError};

pub use wire::control::Body as Control;
pub use wire::{Alive, Drain, Hello, Ping, Pong, Rejection, Renew, Suspect, Token, Welcome};

/// The capability of an agent that sends [`Token`].
pub const TOKEN_RENEWAL: &str = "token-renewal";

/// The capability of an agent whose tunnel gets dials after its other tunnels to the server.
pub const ON_TRIAL: &str = "on-trial";

/// [`Welcome::transport`] of a server whose agents should use HTTP/2.
pub const H2_ONLY: &str = "h2";

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// Longest message on a control stream, in bytes: a `Hello` with a token and
/// identifiers of 16 KiB each fits. More is memory for an agent before its
/// authentication.
pub const MAX_CONTROL: usize = 48 * 1024;

/// Longest [`Dial`] or [`DialReply`], in bytes: a target of 260 and a text of
/// 1,024 fit.
pub const MAX_DIAL: usize = 4 * 1024;

/// Longest text of a refusal, in bytes. Go's dial errors have under 400.
const MAX_TEXT: usize = 1024;

/// Why a message cannot be read or sent.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// Not protobuf, or not of this type.
    #[error("malformed message: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A required member is absent.
    #[error("message without its content")]
    Empty,
    /// A dial with an invalid target.
    #[error("dial {0}")]
    Target(#[from] TargetError),
    /// A dial with another protocol than TCP.
    #[error("dial {0}: unknown network {0}")]
    Protocol(String),
    /// A control message over [`MAX_CONTROL`].
    #[error("message of {0} bytes is too long to send")]
    TooLong(usize),
}

/// Why a server does not admit an agent, by the number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionKind {
    /// Any other reason.
    Other = 1,
    /// The versions differ.
    Version,
    /// The agent's id or identifiers are invalid.
    Identity,
    /// The agent did not authenticate.
    Unauthenticated,
    /// The server drains.
    Draining,
    /// The agent holds a tunnel to this server, by its own `Hello`.
    Duplicate,
    /// The server cannot decide at the moment; the agent should try again.
    Unavailable,
}

impl RejectionKind {
    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
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

/// Reads a control message; `None` is one of a newer version.
///
/// # Errors
/// [`MessageError::Malformed`].
pub fn decode_control(message: Bytes) -> Result<Option<Control>, MessageError> {
    Ok(wire::Control::decode(message)?.body)
}

/// The first bytes of a stream that carries a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// The target to connect to.
    pub target: Target,
    /// The agent's time limit for the dial.
    pub timeout: Duration,
    /// The server's number for the connection, for both logs.
    pub connection_id: u64,
    /// Asks for the time of the agent's own connect. Costs no byte when false.
    pub measure: bool,
}

impl Dial {
    /// The framed message. The longest timeout is 49 days.
    pub fn encode(&self) -> Bytes {
        frame(&wire::Dial {
            target: self.target.to_string(),
            timeout_ms: u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX),
            connection_id: self.connection_id,
            protocol: String::new(),
            measure: self.measure,
        })
    }

    /// Reads a message without its length.
    ///
    /// # Errors
    /// See [`MessageError`].
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
            measure: dial.measure,
        })
    }
}

/// The agent's answer to a [`Dial`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialReply {
    /// The target accepted; raw bytes follow in both directions.
    Connected {
        /// The dialled address.
        address: String,
        /// The time of the agent's lookup and connect, if the dial asked for it. At most
        /// 71 minutes.
        connect: Option<Duration>,
    },
    /// The dial failed, and the stream ends here.
    Refused(Refusal),
}

impl DialReply {
    /// The framed message.
    pub fn encode(&self) -> Bytes {
        let outcome = match self {
            Self::Connected { address, connect } => wire::dial_reply::Outcome::Connected(wire::Connected {
                address: address.clone(),
                connect_us: connect.map(|time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX)),
            }),
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
    /// [`MessageError::Malformed`] and [`MessageError::Empty`].
    pub fn decode(message: Bytes) -> Result<Self, MessageError> {
        match wire::DialReply::decode(message)?.outcome.ok_or(MessageError::Empty)? {
            wire::dial_reply::Outcome::Connected(connected) => {
                let connect = connected.connect_us.map(|micros| Duration::from_micros(micros.into()));
                Ok(Self::Connected { address: printable(connected.address), connect })
            }
            wire::dial_reply::Outcome::Refused(refused) => Ok(Self::Refused(Refusal {
                kind: RefusalKind::from_code(refused.code),
                text: printable(shorten(&refused.text)),
            })),
        }
    }
}

/// Cuts a text to [`MAX_TEXT`], at a character boundary.
fn shorten(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text[..end].to_owned()
}

/// Callers keep messages under 64 KiB: control messages are checked, a target and
/// a shortened text are bounded.
fn frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(2 + length);
    out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
    // `encode` would compute the length once more, to check the room reserved above.
    message.encode_raw(&mut out);
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
            measure: false,
        }
    }

    #[test]
    fn a_dial_and_its_replies_survive_the_wire() {
        let probe = Dial { measure: true, ..dial() };
        for dial in [dial(), probe] {
            assert_eq!(Dial::decode(unframe(dial.encode(), MAX_DIAL)).unwrap(), dial);
        }
        let refused = Refusal { kind: RefusalKind::Timeout, text: "i/o timeout".into() };
        let connected = |connect| DialReply::Connected { address: "[::1]:80".into(), connect };
        let measured = connected(Some(Duration::from_micros(410)));
        for reply in [connected(None), measured, DialReply::Refused(refused)] {
            assert_eq!(DialReply::decode(unframe(reply.encode(), MAX_DIAL)).unwrap(), reply);
        }
    }

    #[test]
    fn what_only_probes_ask_for_costs_ordinary_dials_no_byte() {
        let probe = Dial { measure: true, ..dial() };
        assert_eq!(probe.encode().len(), dial().encode().len() + 2);
        let connected = |connect| DialReply::Connected { address: "[::1]:80".into(), connect };
        let unmeasured = wire::Connected { address: "[::1]:80".into(), connect_us: None };
        let alone = wire::DialReply { outcome: Some(wire::dial_reply::Outcome::Connected(unmeasured)) };
        // Two bytes of length, and the address in two messages.
        assert_eq!(connected(None).encode().len(), 2 + alone.encoded_len());
        assert_eq!(alone.encoded_len(), 2 + 2 + "[::1]:80".len());
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
    fn kinds_of_rejection_survive_the_wire_and_unknown_ones_are_other() {
        use RejectionKind::{Draining, Duplicate, Identity, Other, Unauthenticated, Unavailable, Version};
        let kinds = [Other, Version, Identity, Unauthenticated, Draining, Duplicate, Unavailable];
        for (code, kind) in (1..).zip(kinds) {
            assert_eq!(kind.code(), code);
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
