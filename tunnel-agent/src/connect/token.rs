//! The service account token of the agent.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Longest token, in bytes. Service accounts' have up to 2,000; a longer one would not
/// fit the greeting.
const MAX_TOKEN: u64 = 32 * 1024;

/// Reads a token, which a kubelet replaces long before it expires.
///
/// # Errors
/// When there is no token of at most [`MAX_TOKEN`] in the file; the text names the file.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let read = || {
        let mut text = String::new();
        match File::open(path)?.take(MAX_TOKEN + 1).read_to_string(&mut text)? as u64 {
            ..=MAX_TOKEN if text.trim_ascii().is_empty() => Err(io::Error::other("empty")),
            ..=MAX_TOKEN => Ok(text.trim_ascii().to_owned()),
            _ => Err(io::Error::other(format!("longer than {MAX_TOKEN} bytes"))),
        }
    };
    read().map_err(|error| format!("token file {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_without_the_space_around_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (text, token) in [("abc.def", Some("abc.def")), ("abc\n", Some("abc")), ("\n", None), ("", None)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).ok().as_deref(), token, "{text:?}");
        }
        std::fs::write(&path, "x".repeat(40_000)).unwrap();
        assert!(read(&path).unwrap_err().contains("longer than"));
        let missing = read(&dir.path().join("none")).unwrap_err();
        assert!(missing.contains("none") && missing.contains("No such file"), "{missing}");
    }
}
