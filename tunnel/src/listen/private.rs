//! A Unix socket for this user alone, that two processes never share.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{UnixSocket, staging};

/// For its owner, who is root or the user of the program.
const MODE: u32 = 0o600;

/// Connections that wait to be accepted: people and scripts, a few at a time.
const BACKLOG: i32 = 16;

/// Listens on a Unix socket with mode 0600. Replaces the socket of a process that has ended,
/// but neither one that a process listens on nor another file. Two processes that start at
/// the same moment may both succeed; the later one keeps the path.
///
/// # Errors
/// When the path is taken or cannot be used.
pub fn bind_private(path: &Path) -> io::Result<UnixSocket> {
    refuse_if_taken(path)?;
    // The path never has another mode, whatever the umask: nobody can connect before `listen`.
    let staging = staging(path);
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(&staging)?)?;
    let placed = std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(MODE))
        .and_then(|()| socket.set_nonblocking(true))
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| std::fs::rename(&staging, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&staging);
        return Err(error);
    }
    UnixSocket::at(path, socket.into())
}

fn refuse_if_taken(path: &Path) -> io::Result<()> {
    let Ok(existing) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !existing.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is no socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a running process listens on it; end that process or choose another path",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = bind_private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the other name is gone");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        // As after SIGKILL: the file stays, and nobody listens.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let living = bind_private(&path).unwrap();
        let error = bind_private(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("a running process listens"), "{error}");
        tokio::net::UnixStream::connect(&path).await.unwrap();
        drop(living);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_private(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
