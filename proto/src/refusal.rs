//! Refusals: one table of numbers, labels and meanings.

use std::fmt;

/// A dial that failed for a reason the agent can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of failure, for programs.
    pub kind: RefusalKind,
    /// The error, for people, in Go's form where Go has one
    /// (`dial tcp 10.0.0.1:80: connect: connection refused`).
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A peer's text for people: characters that control a terminal, or the order of what it shows, are
/// escaped.
pub fn printable(text: String) -> String {
    let controls = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Most texts are printable ASCII, which costs an instruction or two per byte, and are taken without a copy.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
    if is_plain || !text.contains(controls) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if controls(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

macro_rules! refusal_kinds {
    ($($name:ident = $code:literal, $label:literal, $meaning:literal;)*) => {
        /// The kinds of [`Refusal`]. A number never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum RefusalKind {
            $(#[doc = $meaning] $name,)*
        }

        impl RefusalKind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            pub const fn code(self) -> u32 {
                match self { $(Self::$name => $code,)* }
            }

            /// The name in metrics and logs.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Reads a number; an unknown one, of a newer agent, is [`Self::Failed`].
            pub const fn from_code(code: u32) -> Self {
                match code { $($code => Self::$name,)* _ => Self::Failed }
            }
        }
    };
}

refusal_kinds! {
    Failed = 1, "failed", "Any other failure.";
    Refused = 2, "refused", "The target answered with a reset: its port is closed.";
    Unreachable = 3, "unreachable", "No route to the host or the network.";
    Dns = 4, "dns", "The name has no address, or its look-up failed.";
    Timeout = 5, "timeout", "The target did not answer in time.";
    Forbidden = 6, "forbidden", "The policy of destinations refuses the target.";
    BadRequest = 7, "bad_request", "The dial header is malformed.";
    Draining = 8, "draining", "The agent drains.";
    Busy = 9, "busy", "The agent is at a limit of streams or file descriptors.";
}

/// The begin of a dial error of Go about the look-up of a name.
const LOOKUP: &str = "dial tcp: lookup ";

impl Refusal {
    /// Whether no packet of the dial can have reached the target, so that another agent may reach it.
    /// A target that refuses, or does not answer in time, may have been reached.
    pub fn reached_nothing(&self) -> bool {
        use RefusalKind as Kind;
        match self.kind {
            Kind::Unreachable | Kind::Dns | Kind::Draining | Kind::Busy => true,
            // A look-up that lasted too long has this kind too.
            Kind::Timeout => self.text.starts_with(LOOKUP),
            Kind::Failed | Kind::Refused | Kind::Forbidden | Kind::BadRequest => false,
        }
    }

    /// Finds the kind of a Go program's dial error by parts of its text: those of
    /// Konnectivity's server, and a few more; and of our agent's on a link that has no kinds.
    pub fn from_go(text: String) -> Self {
        use RefusalKind as Kind;
        const PARTS: [(&str, Kind); 11] = [
            // Our agent's words, first: they quote the name of a rule.
            ("denied by policy rule", Kind::Forbidden),
            ("timeout", Kind::Timeout),
            ("timed out", Kind::Timeout),
            ("deadline exceeded", Kind::Timeout),
            ("too many open files", Kind::Busy),
            ("no such host", Kind::Dns),
            ("server misbehaving", Kind::Dns),
            ("refused", Kind::Refused),
            ("reset by peer", Kind::Refused),
            ("unreachable", Kind::Unreachable),
            ("no route to host", Kind::Unreachable),
        ];
        let lower = text.to_ascii_lowercase();
        let known = PARTS.iter().find(|(part, _)| lower.contains(part));
        let kind = known.map_or(Kind::Failed, |(_, kind)| *kind);
        // A name server that refuses or is out of reach says nothing about the target.
        let is_of_target = matches!(kind, Kind::Refused | Kind::Unreachable | Kind::Failed);
        let kind = if is_of_target && text.starts_with(LOOKUP) { Kind::Dns } else { kind };
        Self { kind, text: printable(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_go_have_a_kind() {
        for (text, kind) in [
            ("dial tcp 127.0.0.1:9: connect: connection refused", RefusalKind::Refused),
            ("dial tcp: lookup x on 10.0.0.10:53: no such host", RefusalKind::Dns),
            ("dial tcp 10.0.0.1:80: i/o timeout", RefusalKind::Timeout),
            ("context deadline exceeded", RefusalKind::Timeout),
            ("denied by policy rule \"timeout\": 10.0.0.1:80", RefusalKind::Forbidden),
            ("dial tcp 10.0.0.1:80: connect: no route to host", RefusalKind::Unreachable),
            ("dial tcp 10.0.0.1:80: connect: network is unreachable", RefusalKind::Unreachable),
            ("dial tcp 10.0.0.1:80: socket: too many open files", RefusalKind::Busy),
            ("something else", RefusalKind::Failed),
        ] {
            assert_eq!(Refusal::from_go(text.to_owned()), Refusal { kind, text: text.to_owned() });
        }
    }

    #[test]
    fn a_peers_text_controls_no_terminal() {
        let raw = "a\u{1b}[2J\r\nHTTP/1.1 200 OK\0\u{9b}\u{202e} b\u{fc}c";
        let text = Refusal::from_go(raw.to_owned()).text;
        assert_eq!(
            text,
            r"a\u{1b}[2J\r\nHTTP/1.1 200 OK\u{0}\u{9b}\u{202e} b\u{fc}c".replace(r"\u{fc}", "\u{fc}")
        );
    }

    #[test]
    fn another_agent_is_worth_asking_where_the_target_was_not_reached() {
        for (text, worth) in [
            ("dial tcp 10.0.0.1:80: connect: no route to host", true),
            ("dial tcp 10.0.0.1:80: connect: network is unreachable", true),
            ("dial tcp: lookup x on 10.0.0.10:53: no such host", true),
            ("dial tcp: lookup x on 10.0.0.10:53: server misbehaving", true),
            ("dial tcp: lookup x on 10.0.0.10:53: read udp 10.0.0.2:4->10.0.0.10:53: i/o timeout", true),
            ("dial tcp: lookup x on 10.0.0.10:53: dial udp: connect: network is unreachable", true),
            (
                "dial tcp: lookup x on 10.0.0.10:53: read udp 10.0.0.2:4->10.0.0.10:53: connection refused",
                true,
            ),
            ("dial tcp 10.0.0.1:80: socket: too many open files", true),
            ("dial tcp 10.0.0.1:80: connect: connection refused", false),
            ("dial tcp 10.0.0.1:80: i/o timeout", false),
            ("dial tcp 10.0.0.1:80: connect: connection timed out", false),
            ("read: connection reset by peer", false),
            ("denied by policy rule \"no route to host\": 10.0.0.1:80", false),
            ("something else", false),
        ] {
            assert_eq!(Refusal::from_go(text.to_owned()).reached_nothing(), worth, "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written_and_unknown_ones_are_failures() {
        for kind in RefusalKind::ALL {
            assert_eq!(RefusalKind::from_code(kind.code()), *kind);
        }
        assert_eq!(RefusalKind::from_code(4711), RefusalKind::Failed);
        assert_eq!(RefusalKind::from_code(0), RefusalKind::Failed);
    }
}
