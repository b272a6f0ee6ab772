//! The lines of a checked stream: numbered, and made from a seed, so that both ends know every byte.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Longest line, in bytes, its end included.
pub(crate) const MAX_LINE: usize = 256;

/// Line `number` of a stream.
pub(crate) fn line(seed: u64, number: u64) -> String {
    let mut dice = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut line = format!("{number} ");
    for _ in 0..dice.random_range(40..120) {
        line.push(char::from(dice.random_range(b'a'..=b'z')));
    }
    line.push('\n');
    line
}

/// Compares the lines of a stream with those of its seed.
#[derive(Debug)]
pub(crate) struct Checker {
    seed: u64,
    rest: Vec<u8>,
    /// Number of the next line.
    next: u64,
    /// Lines that were skipped.
    pub(crate) lost: u64,
    /// Lines that came again, or late.
    pub(crate) again: u64,
    /// Lines with other bytes.
    pub(crate) wrong: u64,
    /// Lines of this direction, as the peer says at its end.
    pub(crate) total: Option<u64>,
    /// The peer's verdict on the other direction.
    pub(crate) verdict: Option<bool>,
}

/// The line behind all others of a direction: how many they were.
pub(crate) fn total(count: u64) -> String {
    format!("= {count}\n")
}

/// The last line of a stream: the verdict on the other direction.
pub(crate) fn last_word(whole: bool) -> &'static str {
    if whole { "= whole\n" } else { "= broken\n" }
}

impl Checker {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, rest: Vec::new(), next: 0, lost: 0, again: 0, wrong: 0, total: None, verdict: None }
    }

    /// Lines that have come.
    pub(crate) const fn lines(&self) -> u64 {
        self.next - self.lost
    }

    /// Whether exactly the first `count` lines came, once and in order.
    pub(crate) fn is_whole(&self, count: u64) -> bool {
        self.next == count && self.lost + self.again + self.wrong == 0 && self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let rest = self.rest.split_off(end + 1);
            let found = std::mem::replace(&mut self.rest, rest);
            self.judge(&String::from_utf8_lossy(&found));
        }
        if self.rest.len() > MAX_LINE {
            self.wrong += 1;
            self.rest.clear();
        }
    }

    fn judge(&mut self, found: &str) {
        for whole in [true, false] {
            if found == last_word(whole) {
                self.verdict = Some(whole);
                return;
            }
        }
        let total = found.strip_prefix("= ").and_then(|rest| rest.trim_end().parse().ok());
        if total.is_some() {
            self.total = total;
            return;
        }
        let number = found.split_once(' ').and_then(|(number, _)| number.parse::<u64>().ok());
        match number.filter(|number| line(self.seed, *number) == found) {
            None => self.wrong += 1,
            Some(number) if number < self.next => self.again += 1,
            Some(number) => {
                self.lost += number - self.next;
                self.next = number + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Checker {
        let mut checker = Checker::new(7);
        for byte in text.bytes() {
            checker.take(&[byte]);
        }
        checker
    }

    fn text(numbers: impl IntoIterator<Item = u64>) -> String {
        numbers.into_iter().map(|number| line(7, number)).collect()
    }

    #[test]
    fn whole_streams_are_whole() {
        assert!(checked(&text(0..100)).is_whole(100));
        assert!(!checked(&text(0..99)).is_whole(100));
        assert!(!checked(&(text(0..100) + "1")).is_whole(100));
        let told = checked(&(text(0..100) + last_word(true)));
        assert!(told.is_whole(100) && told.verdict == Some(true));
        let totalled = checked(&(text(0..100) + &total(101)));
        assert!(totalled.is_whole(100) && totalled.total == Some(101), "the last line is lost");
    }

    #[test]
    fn what_is_lost_repeated_or_changed_is_seen() {
        let lost = checked(&text([0, 1, 4]));
        assert_eq!((lost.lost, lost.again, lost.wrong, lost.lines()), (2, 0, 0, 3));
        let again = checked(&text([0, 1, 1, 2]));
        assert_eq!((again.lost, again.again, again.wrong, again.lines()), (0, 1, 0, 3));
        let wrong = checked(&text([0, 1]).replacen(' ', " a", 1));
        assert_eq!((wrong.lost, wrong.again, wrong.wrong), (1, 0, 1));
        assert_eq!(checked(&"x".repeat(1000)).wrong, 3);
    }
}
