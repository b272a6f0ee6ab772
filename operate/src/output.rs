//! Text for people: tables, colours, durations.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};

use crate::report::Health;

/// The form of a command's output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Colours of a command's output, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(bool);

impl Paint {
    /// Colours for a terminal, unless `NO_COLOR` is set (no-color.org).
    pub(crate) fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(io::stdout().is_terminal() && !unwanted && !dumb)
    }

    #[cfg(test)]
    pub(crate) const fn plain() -> Self {
        Self(false)
    }

    /// Text in the colour of a state.
    pub(crate) fn health(self, health: Health, text: &str) -> String {
        let colour = match health {
            Health::Ok => 32,
            Health::Degraded => 33,
            Health::Down => 31,
        };
        if self.0 { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Writes to standard output. A reader that has left wants no more.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Columns, two spaces apart. Colours are allowed in the last one only: they have no width.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !head.is_empty() {
        table.set_header(head.iter().map(|title| (*title).to_owned()));
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.to_string();
    lines.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// A number of seconds, in its two largest units.
pub(crate) fn about(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut left = seconds;
    let mut text = String::new();
    let first = UNITS.iter().position(|(size, _)| seconds >= *size).unwrap_or(UNITS.len() - 1);
    for (size, unit) in UNITS.iter().skip(first).take(2) {
        let count = left / size;
        left %= size;
        if count > 0 || text.is_empty() {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

/// A moment so many seconds ahead, or past, of an expiry.
pub(crate) fn ago(left: i64) -> String {
    let time = about(left.unsigned_abs());
    if left < 0 { format!("expired {time} ago") } else { format!("expires in {time}") }
}

/// Microseconds as milliseconds.
pub(crate) fn millis(micros: u64) -> String {
    format!("{:.2}ms", micros as f64 / 1000.0)
}

/// A duration that a person waited for.
pub(crate) fn short(time: std::time::Duration) -> String {
    if time.as_secs() > 0 { format!("{:.1}s", time.as_secs_f64()) } else { millis(crate::peek::micros(time)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m"),
            (61, "1m1s"),
            (3_600, "1h"),
            (3_661, "1h1m"),
            (86_400 * 3 + 3600 * 4, "3d4h"),
            (86_400 * 61, "61d"),
        ] {
            assert_eq!(about(seconds), text);
        }
        assert_eq!(ago(-60), "expired 1m ago");
        assert_eq!(millis(410), "0.41ms");
    }

    #[test]
    fn columns_stand_under_each_other_and_lines_end_with_their_text() {
        let rows = [vec!["cp-1".to_owned(), "1".to_owned()], vec!["a".to_owned(), "ok".to_owned()]];
        assert_eq!(table(&["SERVER", "STATE"], rows), "SERVER  STATE\ncp-1    1\na       ok\n");
    }

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(Paint(false).health(Health::Ok, "ok"), "ok");
        assert_eq!(Paint(true).health(Health::Down, "down"), "\u{1b}[31mdown\u{1b}[0m");
    }
}
