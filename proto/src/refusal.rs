//! Why an agent did not connect: one table of numbers, labels and meanings.

use std::fmt;

/// A dial that failed for a reason the agent can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of failure, for programs.
    pub kind: RefusalKind,
    /// What happened, for people, in Go's shape where Go has one
    /// (`dial tcp 10.0.0.1:80: connect: connection refused`).
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
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

            /// Reads a number; one that a newer agent invented is [`Self::Failed`].
            pub const fn from_code(code: u32) -> Self {
                match code { $($code => Self::$name,)* _ => Self::Failed }
            }
        }
    };
}

refusal_kinds! {
    Failed = 1, "failed", "Anything that has no kind of its own.";
    Refused = 2, "refused", "The target answered with a reset: nobody listens there.";
    Unreachable = 3, "unreachable", "No route to the host or the network.";
    Dns = 4, "dns", "The name has no address.";
    Timeout = 5, "timeout", "The target did not answer in time.";
    Forbidden = 6, "forbidden", "The agent may not or will not dial this target.";
    BadRequest = 7, "bad_request", "The dial header makes no sense.";
    Draining = 8, "draining", "The agent is on its way out.";
    Busy = 9, "busy", "The agent is at a limit: streams, file descriptors.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written_and_unknown_ones_are_failures() {
        for kind in RefusalKind::ALL {
            assert_eq!(RefusalKind::from_code(kind.code()), *kind);
        }
        assert_eq!(RefusalKind::from_code(4711), RefusalKind::Failed);
        assert_eq!(RefusalKind::from_code(0), RefusalKind::Failed);
    }
}
