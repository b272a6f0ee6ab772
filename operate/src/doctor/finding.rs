//! The result of one check.

use serde::Serialize;

use crate::report::Health;

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// All is well.
    Ok,
    /// The tunnel works, and somebody should look.
    Warn,
    /// A part does not work, or is not safe.
    Fail,
    /// Not checked, for a reason that the detail names.
    Skip,
}

impl Verdict {
    /// The word at the start of a line.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    pub(crate) health: Health,
    /// The fact: what, and where.
    pub(crate) detail: String,
    /// Further lines of the detail.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// Since when, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// The cure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, Health::Ok, detail, None)
    }

    pub(crate) fn skip(why: impl Into<String>) -> Self {
        Self::new(Verdict::Skip, Health::Ok, why, None)
    }

    pub(crate) fn warn(detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Verdict::Warn, Health::Degraded, detail, Some(fix.into()))
    }

    /// A failure of a part.
    pub(crate) fn fail(detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, Health::Degraded, detail, Some(fix.into()))
    }

    /// A failure with which nothing works.
    pub(crate) fn down(detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, Health::Down, detail, Some(fix.into()))
    }

    fn new(verdict: Verdict, health: Health, detail: impl Into<String>, fix: Option<String>) -> Self {
        Self { verdict, health, detail: detail.into(), notes: Vec::new(), since: None, fix }
    }

    #[must_use]
    pub(crate) fn notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    #[must_use]
    pub(crate) fn since(mut self, since: Option<String>) -> Self {
        self.since = since;
        self
    }
}
