//! The bytes that the peer of a Unix socket has not read.

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use tokio::net::UnixStream;

/// asm-generic/socket.h; of Linux 4.12.
const SO_MEMINFO: libc::c_int = 55;

/// `SK_MEMINFO_VARS` words (linux/sock_diag.h).
type Memory = [u32; 9];

/// `SK_MEMINFO_WMEM_ALLOC`. What was written to a Unix socket belongs to the writer until it is read.
const WRITTEN: usize = 2;

sockopt_impl!(MemInfo, GetOnly, libc::SOL_SOCKET, SO_MEMINFO, Memory);

/// Whether there are none; `None` where the kernel does not tell.
pub(super) fn are_none(unix: &UnixStream) -> Option<bool> {
    getsockopt(unix, MemInfo).ok().map(|memory| memory[WRITTEN] == 0)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn the_reader_of_a_unix_socket_is_seen_to_read() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(are_none(&near), Some(true));
        near.write_all(b"an answer").await.unwrap();
        assert_eq!(are_none(&near), Some(false));
        far.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(are_none(&near), Some(false), "a part is not all");
        far.read_exact(&mut [0; 6]).await.unwrap();
        assert_eq!((are_none(&near), are_none(&far)), (Some(true), Some(true)));
    }
}
