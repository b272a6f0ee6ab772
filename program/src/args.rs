//! Flag values as Go programs write them, so that existing manifests parse:
//! `--x`, `--x=true`, `--keepalive-time=1h0m0s`, `--cipher-suites=[]`.

mod klog;
mod labels;
mod list;
mod shared;

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use klog::LogFormat;
pub use klog::{LogArgs, Severity, Sink};
pub use labels::{labels, selector};
pub use list::List;
pub use shared::{Bind, SharedArgs, bind, existing, given};

/// Reads a path. Existing manifests pass an empty one, which clap's parser refuses.
///
/// # Errors
/// Never.
pub fn path(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}

/// Reads a Go boolean.
///
/// # Errors
/// When the text is none of the spellings of Go's `strconv.ParseBool`.
pub fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}

/// Reads a Go duration that is not negative: numbers with units, such as
/// `1h30m`, `100ms`, `1.5s`, or a bare `0`.
///
/// # Errors
/// When the text is not of that form.
pub fn go_duration(text: &str) -> Result<Duration, String> {
    let bad = || "use a duration such as 30s, 1h0m0s or 100ms".to_owned();
    if let Some(rest) = text.strip_prefix('-') {
        return match go_duration(rest)? {
            Duration::ZERO => Ok(Duration::ZERO),
            _ => Err("must not be negative".to_owned()),
        };
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(bad());
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(total)
}

/// Shortest time without an acknowledgement after which a peer may be given up. The kernel repeats a packet
/// after 0.2, 0.6, 1.4 and 3 s: with less, the loss of a few in a row ends a connection.
const SHORTEST_ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a Go duration of at least five seconds, or zero.
///
/// # Errors
/// When it is shorter, or no duration.
pub fn ack_timeout(text: &str) -> Result<Duration, String> {
    let limit = go_duration(text)?;
    if limit.is_zero() || limit >= SHORTEST_ACK_TIMEOUT {
        return Ok(limit);
    }
    Err("use 5s or more, since less ends connections that lose a few packets, or 0s for the kernel's limit"
        .to_owned())
}

/// Reads a whole number of at least one.
///
/// # Errors
/// When the text is no number, or the number is less than one.
pub fn at_least_one(text: &str) -> Result<u32, String> {
    match text.parse::<i64>().map(u32::try_from) {
        Ok(Ok(number)) if number > 0 => Ok(number),
        Ok(_) => Err("must be greater than 0".to_owned()),
        Err(_) => Err("use a whole number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_prints_and_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("+1s", 1_000),
            (".5s", 500),
            ("1h0m0s", 3_600_000),
            ("100ms", 100),
            ("1.5s", 1_500),
            ("2h45m30.5s", 9_930_500),
            ("10s", 10_000),
        ] {
            assert_eq!(go_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(go_duration("1ns"), Ok(Duration::from_nanos(1)));
        for text in ["", "10", "s", "--1s", "1x", "1..2s", "1s2", "99999999999999999999h", "-", "+"] {
            assert!(go_duration(text).is_err(), "{text}");
        }
        assert_eq!(go_duration("-1s"), Err("must not be negative".to_owned()));
    }

    #[test]
    fn a_time_in_which_a_few_lost_packets_end_a_connection_is_refused() {
        for (text, seconds) in [("0s", 0), ("5s", 5), ("1m", 60)] {
            assert_eq!(ack_timeout(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert!(ack_timeout("4.9s").unwrap_err().contains("5s"));
    }

    #[test]
    fn booleans_as_go_reads_them() {
        assert_eq!((go_bool("true"), go_bool("0"), go_bool("T")), (Ok(true), Ok(false), Ok(true)));
        assert!(go_bool("yes").is_err());
    }

    #[test]
    fn counts_are_positive() {
        assert_eq!(at_least_one("10"), Ok(10));
        for text in ["0", "-10", "4294967296"] {
            assert_eq!(at_least_one(text), Err("must be greater than 0".to_owned()), "{text}");
        }
        assert!(at_least_one("ten").is_err());
    }
}
