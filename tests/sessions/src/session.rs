//! The bytes of one peer after its handshake, and the files that keep them.
//!
//! A file has a line per step, and comments behind `#`:
//!
//! ```text
//! expect from the agent                 the words that the dial of an agent's session ends with
//! after 3 on 1 send 00056865...         once the other end has done 3 things, send bytes on stream 1
//! after 4 on 1 finish                   or finish, reset, deaf (reads no more), pause (10 ms)
//! ```
//!
//! The other end's progress is counted in events; see [`ears`](crate::ears). On TCP and Unix sockets the
//! only stream is 0.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::lane::Lane;

/// Bytes in a line of a file before a comment is left out. Longer lines tell nobody more.
const COMMENTED: usize = 4096;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its file's name.
    pub name: String,
    /// Words with which the dial of an agent's session ends.
    pub expect: Option<String>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Events of the other end before the step.
    pub after: u32,
    /// On this stream: 0 is the connection or the control stream.
    pub on: usize,
    /// The act.
    pub act: Act,
}

/// The act of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Ends the direction to the other end, in order.
    Finish,
    /// Resets the stream; the connection, if it is stream 0.
    Reset,
    /// Reads nothing from here on.
    Deaf,
    /// Waits for ten milliseconds, so that earlier bytes arrive alone.
    Pause,
}

impl Step {
    /// A step that sends bytes.
    pub fn send(after: u32, on: usize, bytes: impl Into<Vec<u8>>) -> Self {
        Self { after, on, act: Act::Send(bytes.into()) }
    }

    /// A step that ends a direction.
    pub const fn finish(after: u32, on: usize) -> Self {
        Self { after, on, act: Act::Finish }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut number = |name| (words.next()? == name).then(|| words.next()?.parse::<u32>().ok())?;
        let (after, on) = (number("after")?, number("on")? as usize);
        let act = match words.next()? {
            "send" => Act::Send(from_hex(words.next().unwrap_or_default())?),
            "finish" => Act::Finish,
            "reset" => Act::Reset,
            "deaf" => Act::Deaf,
            "pause" => Act::Pause,
            _ => return None,
        };
        words.next().is_none().then_some(Self { after, on, act })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} on {} ", self.after, self.on)?;
        match &self.act {
            Act::Send(bytes) => {
                f.write_str("send ")?;
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                let text: String = bytes.iter().map(|byte| readable(*byte)).collect();
                if bytes.len() < COMMENTED { write!(f, "  # {text}") } else { Ok(()) }
            }
            Act::Finish => f.write_str("finish"),
            Act::Reset => f.write_str("reset"),
            Act::Deaf => f.write_str("deaf"),
            Act::Pause => f.write_str("pause"),
        }
    }
}

fn readable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { byte.into() } else { '.' }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

impl Session {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// With the line that is no step.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut session = Self { name: name.to_owned(), expect: None, steps: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(words) = line.strip_prefix("expect ") {
                session.expect = Some(words.trim().to_owned());
            } else if !line.is_empty() {
                let step = Step::parse(line).ok_or_else(|| format!("{name}:{}: {line:?}", number + 1))?;
                session.steps.push(step);
            }
        }
        Ok(session)
    }

    /// The sessions of a lane that were recorded, or that were found to break something once.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn kept(kind: Kept, lane: Lane) -> anyhow::Result<Vec<Self>> {
        let folder = folder(kind, lane);
        if kind == Kept::Found && !folder.exists() {
            return Ok(Vec::new());
        }
        let files: Result<Vec<_>, _> = std::fs::read_dir(&folder)?.map(|file| Ok(file?.path())).collect();
        let mut files = files.map_err(|error: std::io::Error| error)?;
        files.sort();
        files.iter().map(|path| Self::read(path)).collect()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &std::fs::read_to_string(path)?).map_err(anyhow::Error::msg)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(words) = &self.expect {
            writeln!(f, "expect {words}")?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// Why a session is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It was recorded from correct peers, succeeds, and is mutated.
    Recorded,
    /// It is a mutation that broke something once.
    Found,
}

/// The folder of a lane's sessions.
pub fn folder(kind: Kept, lane: Lane) -> PathBuf {
    let kind = match kind {
        Kept::Recorded => "recorded",
        Kept::Found => "found",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(kind).join(lane.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_survives_its_file() {
        let steps = vec![
            Step::send(0, 0, *b"\x00\xffok # no comment"),
            Step { after: 1, on: 2, act: Act::Reset },
            Step { after: 1, on: 2, act: Act::Deaf },
            Step { after: 1, on: 2, act: Act::Pause },
            Step::send(3, 0, vec![7; 10_000]),
            Step::finish(4, 1),
        ];
        let session = Session { name: "a".to_owned(), expect: Some("from the agent".to_owned()), steps };
        assert_eq!(Session::parse("a", &session.to_string()), Ok(session));
    }

    #[test]
    fn what_is_no_step_is_named() {
        for line in ["after 1 send 00", "after 1 on 0 send 0", "after 1 on 0 send 0g", "after 1 on 0 leave"] {
            let error = Session::parse("a", &format!("# comment\n{line}")).unwrap_err();
            assert_eq!(error, format!("a:2: {line:?}"));
        }
    }
}
