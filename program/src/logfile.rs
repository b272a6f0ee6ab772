//! A log file with a limit of size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// An open log file. A line that would exceed the limit first moves the file to
/// `FILE.1` and begins it anew. A line of which a full disk takes only a part is ended before the next one.
#[derive(Debug)]
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
    /// Size in bytes.
    written: u64,
    /// A part of a line is at the end.
    torn: bool,
    limit: Option<u64>,
}

impl LogFile {
    /// Opens the file for appending. `limit` is in bytes.
    pub(crate) fn open(path: PathBuf, limit: Option<u64>) -> io::Result<Self> {
        let file = appending(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { file, path, written, limit, torn: false })
    }

    /// `open` opens the new file.
    fn begin_anew(&mut self, open: impl FnOnce(&Path) -> io::Result<File>) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        // A file that is mounted into a container cannot be moved.
        if std::fs::rename(&self.path, &aside).is_err() {
            self.file.set_len(0)?;
        } else {
            match open(&self.path) {
                Ok(file) => self.file = file,
                // Without room or descriptors for another file, this one goes on for as long again.
                Err(_) => std::fs::rename(&aside, &self.path)?,
            }
        }
        (self.written, self.torn) = (0, false);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let wrote = match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                wrote => wrote?,
            };
            self.written = self.written.saturating_add(wrote as u64);
            rest = &rest[wrote..];
            self.torn = !rest.is_empty();
        }
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
            self.begin_anew(appending)?;
        }
        if self.torn {
            self.put(b"\n")?;
        }
        self.put(line)?;
        Ok(line.len())
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
    fn a_log_that_cannot_begin_anew_goes_on_under_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(path.clone(), Some(7)).unwrap();
        log.write_all(b"one___\n").unwrap();
        log.begin_anew(|_| Err(io::ErrorKind::StorageFull.into())).unwrap();
        log.write_all(b"two___\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one___\ntwo___\n");
        log.write_all(b"three_\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three_\n");
    }

    /// A socket that is full takes a part of a line, as a full disk does.
    #[test]
    fn a_line_of_which_a_part_was_taken_is_ended_before_the_next() {
        use std::io::Read as _;
        use std::os::fd::OwnedFd;
        use std::os::unix::net::UnixStream;

        let (full, mut reader) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        let file = File::from(OwnedFd::from(full));
        let mut log = LogFile { file, path: PathBuf::new(), written: 0, limit: None, torn: false };
        let long = [vec![b'x'; 1 << 22], vec![b'\n']].concat();
        assert!(log.write_all(&long).is_err() && log.torn);
        let mut taken = vec![0; usize::try_from(log.written).unwrap()];
        reader.read_exact(&mut taken).unwrap();
        log.write_all(b"next\n").unwrap();
        log.write_all(b"and next\n").unwrap();
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "\nnext\nand next\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error() {
        assert!(LogFile::open(PathBuf::from("/proc/no/such/file"), None).is_err());
    }
}
