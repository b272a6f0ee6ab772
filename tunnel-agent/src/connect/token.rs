//! The service account token that an agent presents.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest token, in bytes. Those of service accounts have one or two thousand.
const MAX_TOKEN: u64 = 32 * 1024;

/// A token that cannot be presented.
#[derive(Debug, thiserror::Error)]
#[error("token file {path}: {why}")]
pub(crate) struct TokenError {
    path: PathBuf,
    why: String,
}

/// Reads a token, which a kubelet replaces long before it expires.
pub(super) fn read_token(path: &Path) -> Result<String, TokenError> {
    let fail = |why: String| TokenError { path: path.to_owned(), why };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let read = file.take(MAX_TOKEN + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    if read as u64 > MAX_TOKEN {
        return Err(fail(format!("longer than {MAX_TOKEN} bytes")));
    }
    let token = text.trim_ascii();
    if token.is_empty() { Err(fail("empty".to_owned())) } else { Ok(token.to_owned()) }
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
            assert_eq!(read_token(&path).ok().as_deref(), token, "{text:?}");
        }
        std::fs::write(&path, "x".repeat(40_000)).unwrap();
        assert!(read_token(&path).unwrap_err().to_string().contains("longer than"));
        let missing = read_token(&dir.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none") && missing.contains("No such file"), "{missing}");
    }
}
