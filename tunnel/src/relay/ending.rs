//! How a relayed connection ended, and whose doing it was.

use crate::duplex::Broken;

/// Which end, from the point of view of who called [`relay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first end: the client on a server, the tunnel on an agent.
    Near,
    /// The second end.
    Far,
}

/// How a relayed connection ended. Not a `Result`: a reset is as ordinary an
/// end as a close, and who caused it is what people want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended in order.
    Clean,
    /// One end failed.
    Broken {
        /// Whose failure it was.
        side: Side,
        /// What it was.
        why: Broken,
    },
    /// This end went away while the other was still sending.
    Left(Side),
    /// As `Left`, and the other end did not close in time and was cut.
    Lingered(Side),
}

impl Ending {
    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Broken { side: Side::Near, .. } => "near_broken",
            Self::Broken { side: Side::Far, .. } => "far_broken",
            Self::Left(Side::Near) => "near_left",
            Self::Left(Side::Far) => "far_left",
            Self::Lingered(_) => "lingered",
        }
    }

    /// What broke, if something did.
    pub const fn broken(&self) -> Option<&Broken> {
        match self {
            Self::Broken { why, .. } => Some(why),
            Self::Clean | Self::Left(_) | Self::Lingered(_) => None,
        }
    }

    /// What broke, for metrics; "none" if nothing did.
    pub const fn why(&self) -> &'static str {
        match self.broken() {
            Some(why) => why.label(),
            None => "none",
        }
    }
}
