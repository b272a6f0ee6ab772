//! A log file with a limit of size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An open log file. A line that would exceed the limit first moves the file to
/// `FILE.1` and begins it anew.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
    /// Size in bytes.
    written: u64,
    limit: Option<u64>,
}

impl LogFile {
    /// Opens the file for appending. `limit` is in bytes.
    pub(crate) fn open(path: PathBuf, limit: Option<u64>) -> io::Result<Self> {
        let file = appending(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { file, path, written, limit })
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        let moved = std::fs::rename(&self.path, aside).and_then(|()| appending(&self.path));
        match moved {
            Ok(file) => self.file = file,
            // A file that is mounted into a container cannot be moved.
            Err(_) => self.file.set_len(0)?,
        }
        self.written = 0;
        Ok(())
    }
}

fn appending(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl Write for LogFile {
    /// `line` is a whole line, as tracing-subscriber writes them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let after = self.written.saturating_add(line.len() as u64);
        if self.written > 0 && self.limit.is_some_and(|limit| after > limit) {
            self.begin_anew()?;
        }
        let wrote = self.file.write(line)?;
        self.written = self.written.saturating_add(wrote as u64);
        Ok(wrote)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_moved_aside_and_no_line_is_lost() {
        let path = std::env::temp_dir().join(format!("tunnel-logfile-{}", std::process::id()));
        let aside = PathBuf::from(format!("{}.1", path.display()));
        std::fs::write(&path, "before\n").unwrap();
        let mut log = LogFile::open(path.clone(), Some(14)).unwrap();
        for line in ["one___\n", "two___\n", "a line that is longer than the limit\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a line that is longer than the limit\n");
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), "two___\n");
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(aside).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        assert!(LogFile::open(PathBuf::from("/proc/no/such/file"), None).is_err());
    }
}
