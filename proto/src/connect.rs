//! HTTP CONNECT heads (RFC 9110 section 9.3.6) and the answers.
//!
//! Only `CONNECT host:port HTTP/1.x` is served. The `Host` header is ignored: the
//! kube-apiserver always sends `127.0.0.1`. Ambiguous requests, with a body or two
//! `Host` headers, are refused.

use std::mem::MaybeUninit;

use crate::target::{Target, TargetError};

/// Longest request head, in bytes. A kube-apiserver's has about 60; more costs
/// memory before the dial.
pub const MAX_HEAD: usize = 8 * 1024;

/// Most header fields in a head; curl sends three.
const MAX_FIELDS: usize = 64;

/// Longest reason phrase, in characters: enough for Go's dial errors, and short
/// enough for one log line.
const MAX_REASON: usize = 200;

/// The answer to a connected dial. The kube-apiserver fails on any byte that is
/// read together with it.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";

/// The result of [`parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// More bytes are needed.
    Partial,
    /// A whole request.
    Complete {
        /// The requested target.
        target: Target,
        /// Length of the head in bytes; the rest belongs to the connection.
        length: usize,
    },
}

/// Why a head is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Longer than [`MAX_HEAD`], or with too many fields.
    #[error("request head over {MAX_HEAD} bytes or {MAX_FIELDS} fields")]
    TooLarge,
    /// Not HTTP/1.
    #[error("malformed http request: {0}")]
    Malformed(&'static str),
    /// Another method than CONNECT.
    #[error("this proxy only supports CONNECT")]
    NotConnect,
    /// The request target is not `host:port`.
    #[error("{0}")]
    Target(#[from] TargetError),
}

impl HeadError {
    /// The status to answer with.
    pub const fn status(&self) -> Status {
        match self {
            Self::TooLarge => Status::HEAD_TOO_LARGE,
            Self::NotConnect => Status::METHOD_NOT_ALLOWED,
            Self::Malformed(_) | Self::Target(_) => Status::BAD_REQUEST,
        }
    }
}

/// Parses a CONNECT request at the start of `bytes`.
///
/// # Errors
/// As soon as no more bytes could make the request valid.
pub fn parse(bytes: &[u8]) -> Result<Head, HeadError> {
    let mut fields = [MaybeUninit::uninit(); MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let seen = &bytes[..bytes.len().min(MAX_HEAD)];
    let status = request.parse_with_uninit_headers(seen, &mut fields).map_err(|error| match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::HeaderName => HeadError::Malformed("invalid header name"),
        httparse::Error::HeaderValue => HeadError::Malformed("invalid header value"),
        httparse::Error::NewLine => HeadError::Malformed("invalid line ending"),
        httparse::Error::Token => HeadError::Malformed("invalid request line"),
        httparse::Error::Version => HeadError::Malformed("not http/1"),
        httparse::Error::Status => HeadError::Malformed("invalid status"),
    })?;
    if request.method.is_some_and(|method| method != "CONNECT") {
        return Err(HeadError::NotConnect);
    }
    let httparse::Status::Complete(length) = status else {
        return if bytes.len() >= MAX_HEAD { Err(HeadError::TooLarge) } else { Ok(Head::Partial) };
    };
    check_fields(request.headers)?;
    let target = request.path.unwrap_or_default().parse()?;
    Ok(Head::Complete { target, length })
}

fn check_fields(fields: &[httparse::Header<'_>]) -> Result<(), HeadError> {
    let named = |name: &'static str| fields.iter().filter(move |f| f.name.eq_ignore_ascii_case(name));
    if named("transfer-encoding").next().is_some() {
        return Err(HeadError::Malformed("a CONNECT request has no body"));
    }
    if named("content-length").any(|field| field.value != b"0") {
        return Err(HeadError::Malformed("a CONNECT request has no body"));
    }
    if named("host").count() > 1 {
        return Err(HeadError::Malformed("more than one host header"));
    }
    Ok(())
}

/// A status code of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(u16);

impl Status {
    /// 400
    pub const BAD_REQUEST: Self = Self(400);
    /// 403
    pub const FORBIDDEN: Self = Self(403);
    /// 405
    const METHOD_NOT_ALLOWED: Self = Self(405);
    /// 408
    pub const REQUEST_TIMEOUT: Self = Self(408);
    /// 431
    const HEAD_TOO_LARGE: Self = Self(431);
    /// 502
    pub const BAD_GATEWAY: Self = Self(502);
    /// 503
    pub const UNAVAILABLE: Self = Self(503);
    /// 504
    pub const GATEWAY_TIMEOUT: Self = Self(504);

    /// The number.
    pub const fn code(self) -> u16 {
        self.0
    }
}

/// A refusal with its reason: in the status line, which the kube-apiserver shows,
/// and in the body, which curl shows. The caller closes the connection.
pub fn refusal(status: Status, reason: &str) -> Vec<u8> {
    let reason: String = reason
        .chars()
        .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
        .take(MAX_REASON)
        .collect();
    let allow = if status == Status::METHOD_NOT_ALLOWED { "Allow: CONNECT\r\n" } else { "" };
    format!(
        "HTTP/1.1 {} {reason}\r\n{allow}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{reason}\n",
        status.0,
        reason.len() + 1,
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The head of a kube-apiserver.
    const KUBE: &[u8] = b"CONNECT 10.99.0.1:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

    #[test]
    fn the_request_of_the_kube_apiserver_in_pieces() {
        for cut in 0..KUBE.len() {
            assert_eq!(parse(&KUBE[..cut]), Ok(Head::Partial), "cut at {cut}");
        }
        let target: Target = "10.99.0.1:10250".parse().unwrap();
        let expected = Head::Complete { target, length: KUBE.len() };
        assert_eq!(parse(KUBE), Ok(expected.clone()));
        assert_eq!(parse(&[KUBE, b"first bytes of the connection"].concat()), Ok(expected));
    }

    #[test]
    fn curl_and_ipv6() {
        let head = b"CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: [fd00::1]:443\r\nUser-Agent: curl/8\r\nProxy-Connection: Keep-Alive\r\n\r\n";
        assert!(matches!(parse(head), Ok(Head::Complete { length, .. }) if length == head.len()));
    }

    #[test]
    fn ambiguous_requests_and_other_methods_are_refused() {
        for (head, status) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], 405),
            (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            (b"CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 400),
            (b"CONNECT http://a:1/ HTTP/1.1\r\n\r\n", 400),
            (b"CONNECT a HTTP/1.1\r\n\r\n", 400),
            (b"CONNECT a:1 HTTP/2.0\r\n\r\n", 400),
            (b"CONNECT a:1 HTTP/1.1\r\nbad header\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00", 400),
            (b"\0\0\0\0", 400),
        ] {
            assert_eq!(parse(head).unwrap_err().status().code(), status, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_head_over_the_limit_is_refused_even_before_it_ends() {
        let mut head = b"CONNECT a:1 HTTP/1.1\r\nX: ".to_vec();
        head.resize(MAX_HEAD - 1, b'x');
        assert_eq!(parse(&head), Ok(Head::Partial));
        head.push(b'x');
        assert_eq!(parse(&head), Err(HeadError::TooLarge));
        let many = format!("CONNECT a:1 HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(parse(many.as_bytes()), Err(HeadError::TooLarge));
    }

    #[test]
    fn a_reason_cannot_break_out_of_its_line() {
        let answer = refusal(Status::BAD_GATEWAY, "line\r\nX-Injected: 1\r\n\r\nü");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 line??X-Injected: 1?????\r\n".trim_end_matches("??\r\n")));
        assert!(!answer.contains("\nX-Injected"));
        let mut fields = [httparse::EMPTY_HEADER; 8];
        assert!(httparse::Response::new(&mut fields).parse(answer.as_bytes()).unwrap().is_complete());
        assert!(refusal(Status::BAD_GATEWAY, &"x".repeat(100_000)).len() < 1_000);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
