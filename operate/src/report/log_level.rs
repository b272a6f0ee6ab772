//! The level of a program's log.

use serde::{Deserialize, Serialize};

/// The level of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLevel {
    /// The filter that holds.
    pub filter: String,
    /// The filter of the program's flags.
    pub flags: String,
    /// Time until the flags' filter holds again, if another one does.
    pub left: Option<u64>,
}

/// A change of the level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevelRequest {
    /// The filter; that of the flags if `None`.
    pub filter: Option<String>,
    /// The time for which it holds.
    pub seconds: u64,
}
