//! How a relayed connection ended.

use crate::duplex::Broken;

/// Which end of a relayed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first end: the client on a server, the tunnel on an agent.
    Near,
    /// The second end.
    Far,
}

/// How a relayed connection ended. Not a `Result`: a reset is an ordinary end, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended in order.
    Clean,
    /// One end failed.
    Broken {
        /// The end that failed.
        side: Side,
        /// The failure.
        why: Broken,
    },
    /// This end ended in order and went, and may have left bytes of the other unread. A client that
    /// closes first shows so on some sockets only.
    Left(Side),
    /// As `Left`, and the other end was cut because it did not close in time.
    Lingered(Side),
}

impl Ending {
    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Clean | Self::Left(_) => "clean",
            Self::Broken { side: Side::Near, .. } => "near_broken",
            Self::Broken { side: Side::Far, .. } => "far_broken",
            Self::Lingered(_) => "lingered",
        }
    }

    /// The failure, if there was one.
    pub const fn broken(&self) -> Option<&Broken> {
        match self {
            Self::Broken { why, .. } => Some(why),
            Self::Clean | Self::Left(_) | Self::Lingered(_) => None,
        }
    }

    /// The failure's name in metrics; "none" without one.
    pub const fn why(&self) -> &'static str {
        match self.broken() {
            Some(why) => why.label(),
            None => "none",
        }
    }
}
