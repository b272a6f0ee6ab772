//! Counts of errors by their reasons.

use std::collections::BTreeMap;
use std::fmt;

/// Reasons that are told apart; the others are counted together.
const REASONS: usize = 16;

/// Longest text of a reason, in bytes.
const LENGTH: usize = 120;

#[derive(Debug, Default)]
pub(crate) struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    pub(crate) fn count(&mut self, error: &str) {
        self.add_one(reason(error), 1);
    }

    pub(crate) fn add(&mut self, more: Self) {
        for (reason, count) in more.0 {
            self.add_one(reason, count);
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn add_one(&mut self, mut reason: String, count: u64) {
        if !self.0.contains_key(&reason) && self.0.len() >= REASONS {
            "other reasons".clone_into(&mut reason);
        }
        *self.0.entry(reason).or_default() += count;
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<_> = self.0.iter().map(|(reason, count)| format!("{count} x {reason}")).collect();
        f.write_str(&reasons.join("; "))
    }
}

/// The text with every number replaced by `#`, since numbers differ from one operation to the next.
fn reason(text: &str) -> String {
    let mut reason = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if !(c == '#' && reason.ends_with('#')) {
            reason.push(c);
        }
        if reason.len() >= LENGTH {
            break;
        }
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded() {
        let mut reasons = Reasons::default();
        for number in 0..100 {
            reasons.count(&"x".repeat(number));
        }
        assert!(reasons.0.len() <= REASONS + 1 && reasons.0["other reasons"] > 50);
        assert_eq!(reasons.total(), 100);
    }
}
