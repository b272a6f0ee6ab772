//! How an attempt at a tunnel is made, and why a tunnel has its link.

/// The links that an attempt tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Both, with a head start for QUIC.
    Race,
    /// Both, with a head start for h2.
    H2Ahead,
    /// h2, and QUIC only where that fails.
    H2First,
    /// h2 alone.
    H2Only,
    /// QUIC alone.
    QuicOnly,
}

/// The segments of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segments {
    /// As large as the kernel likes.
    Whole,
    /// The same, but small if the handshake hangs.
    Doubtful,
    /// Small.
    Small,
}

/// How an attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Course {
    pub(crate) order: Order,
    pub(crate) segments: Segments,
}

/// Why a tunnel has its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The agent's flag.
    Flag,
    /// QUIC does not go through a proxy.
    Proxy,
    /// QUIC won.
    Works,
    /// QUIC did not shake hands in time.
    Blocked,
    /// So many tunnels on QUIC fell silent in a row.
    Silent(u32),
    /// The server says so.
    Told,
    /// The server speaks nothing else.
    Alone,
}

impl Reason {
    /// The name in metrics and logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Proxy => "proxy",
            Self::Works => "works",
            Self::Blocked => "blocked",
            Self::Silent(_) => "silent",
            Self::Told => "told",
            Self::Alone => "alone",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("by flag"),
            Self::Proxy => f.write_str("QUIC does not go through the proxy"),
            Self::Works => f.write_str("QUIC works"),
            Self::Blocked => f.write_str("QUIC did not answer in time"),
            Self::Silent(1) => f.write_str("QUIC connected and fell silent"),
            Self::Silent(times) => write!(f, "QUIC connected and fell silent {times} times"),
            Self::Told => f.write_str("the server asks for h2"),
            Self::Alone => f.write_str("the server speaks nothing else"),
        }
    }
}
