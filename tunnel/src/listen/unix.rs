//! Unix sockets at a path that one process holds.
//!
//! * The file never has another mode or owner, whatever the umask.
//! * A socket that a process listens on is not taken over. Of two processes that start within the same
//!   millisecond both may succeed; the path is the later one's, and the other notices.
//! * A file that was removed or replaced is made again, unless somebody else answers there.
//! * A socket removes its own file with its end, and no other.

mod presence;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::warn;

pub use presence::{Change, Observer, Presence};

/// Mode of a frontend's socket: for its owner and group, as Konnectivity's (umask 0007).
const SHARED: u32 = 0o770;

/// Mode of a socket for its owner, who is root or the user of the program.
const PRIVATE: u32 = 0o600;

/// Connections of people and scripts that wait to be accepted, a few at a time.
const FEW: i32 = 16;

/// Time between two looks at the file, one system call each. Longer, and clients find no socket for
/// longer; shorter wakes an idle program more often.
const LOOK: Duration = Duration::from_secs(2);

/// Time until the next try, after the file could not be made again. A try connects to a process that
/// answers there, and shorter fills that process's log; longer delays the return of the file.
const RETRY: Duration = Duration::from_secs(10);

/// The path of a Unix socket, and who may connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path.
    pub path: PathBuf,
    /// Mode of the file. Linux asks for the right to write.
    pub mode: u32,
    /// Owner of the file, if not the program's user. Needs `CAP_CHOWN`.
    pub user: Option<u32>,
    /// Group of the file, if not the program's. Needs `CAP_CHOWN` unless the program is in the group.
    pub group: Option<u32>,
    /// Whether a file is replaced that a process which has ended left behind.
    pub replace: bool,
    /// Connections that wait to be accepted.
    backlog: i32,
}

impl Place {
    /// For many clients, with mode 0770.
    pub const fn shared(path: PathBuf) -> Self {
        Self { path, mode: SHARED, user: None, group: None, replace: true, backlog: super::BACKLOG }
    }

    /// For people and scripts of the program's user, with mode 0600.
    pub const fn private(path: PathBuf) -> Self {
        Self { path, mode: PRIVATE, user: None, group: None, replace: true, backlog: FEW }
    }

    /// Listens, and puts the file at its path.
    fn take(&self) -> io::Result<(UnixListener, FileId)> {
        self.refuse_if_taken()?;
        // Bound under another name and renamed, so that the path never has another mode, and is never
        // missing to clients of a predecessor.
        let staging = staging(&self.path);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&staging)?)?;
        let placed = self.open_to_clients(&staging).and_then(|()| {
            socket.set_nonblocking(true)?;
            socket.listen(self.backlog)?;
            let file = FileId::of(&staging)?;
            std::fs::rename(&staging, &self.path)?;
            Ok(file)
        });
        match placed {
            Ok(file) => Ok((UnixListener::from_std(socket.into())?, file)),
            Err(error) => {
                let _ = std::fs::remove_file(&staging);
                Err(error)
            }
        }
    }

    fn open_to_clients(&self, file: &Path) -> io::Result<()> {
        // In this order, because only the owner may set the mode.
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(self.mode))?;
        if self.user.is_none() && self.group.is_none() {
            return Ok(());
        }
        chown(file, self.user, self.group).map_err(|error| {
            let shown = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            let (user, group) = (shown(self.user), shown(self.group));
            let why = format!("cannot give the file to user {user}, group {group}: {error}; another user needs CAP_CHOWN, a group this process in it");
            io::Error::new(error.kind(), why)
        })
    }

    /// Refuses a path at which a process listens, or where no socket is.
    fn refuse_if_taken(&self) -> io::Result<()> {
        let Ok(existing) = std::fs::symlink_metadata(&self.path) else { return Ok(()) };
        let refused = |kind, why: &str| Err(io::Error::new(kind, why));
        if !existing.file_type().is_socket() {
            return refused(io::ErrorKind::AlreadyExists, "the file exists and is no socket");
        }
        // A listener with a full backlog would block.
        let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        client.set_nonblocking(true)?;
        let Err(error) = client.connect(&SockAddr::unix(&self.path)?) else {
            return refused(io::ErrorKind::AddrInUse, TAKEN);
        };
        let kind = error.kind();
        if kind == io::ErrorKind::WouldBlock {
            return refused(io::ErrorKind::AddrInUse, TAKEN);
        }
        if kind == io::ErrorKind::NotFound || (kind == io::ErrorKind::ConnectionRefused && self.replace) {
            return Ok(());
        }
        if kind == io::ErrorKind::ConnectionRefused {
            return refused(io::ErrorKind::AddrInUse, LEFT);
        }
        refused(kind, &format!("cannot see whether a process listens on the file, which exists: {error}"))
    }
}

const TAKEN: &str = "a running process listens on it; end that process or choose another path";
const LEFT: &str = "the file exists, and no process listens on it: remove it, or allow its replacement";

/// A name of its own beside `path`: processes of containers have equal ids.
fn staging(path: &Path) -> PathBuf {
    let mut staging = path.as_os_str().to_owned();
    staging.push(format!(".{:04x}", rand::random::<u16>()));
    staging.into()
}

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    /// File systems give the number of a removed file to the next one.
    born: Option<SystemTime>,
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        let file = std::fs::symlink_metadata(path)?;
        Ok(Self { device: file.dev(), inode: file.ino(), born: file.created().ok() })
    }
}

/// A listening Unix socket, which looks after its file.
#[derive(Debug)]
pub struct UnixSocket {
    place: Place,
    listener: UnixListener,
    /// The listener of a file that is gone, while clients wait that had connected before. Never blocks.
    former: Option<std::os::unix::net::UnixListener>,
    file: FileId,
    looks: Interval,
    presence: Presence,
}

impl UnixSocket {
    /// Listens. Needs a runtime. `observer` hears of changes of the file.
    ///
    /// # Errors
    /// When a process listens at the path, or it cannot be used.
    pub fn bind(place: Place, observer: Observer) -> io::Result<Self> {
        let (listener, file) = place.take()?;
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let presence = Presence::new(observer);
        Ok(Self { place, listener, former: None, file, looks, presence })
    }

    /// Whether clients find the socket at its path.
    pub fn presence(&self) -> Presence {
        self.presence.clone()
    }

    /// Accepts a connection, and looks after the file: to be polled while the socket is in use.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        while self.looks.poll_tick(cx).is_ready() {
            self.look();
        }
        if let Some(former) = &self.former {
            match former.accept() {
                Ok((stream, _)) => return Poll::Ready(nonblocking(stream)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.former = None,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.listener.poll_accept(cx).map_ok(|(stream, _)| stream)
    }

    fn look(&mut self) {
        if self.is_in_place() {
            return self.presence.found();
        }
        match self.place.take() {
            Ok((listener, file)) => {
                let path = self.place.path.display();
                warn!(%path, "the file of the socket was removed or replaced, and was made again");
                let former = std::mem::replace(&mut self.listener, listener);
                // Asked without the runtime, which may not know yet of the last client.
                let lost = |error: &_| warn!(%path, %error, "clients of the former file are not served");
                self.former = former.into_std().inspect_err(lost).ok();
                self.file = file;
                self.presence.remade();
            }
            Err(error) => {
                let path = self.place.path.display();
                self.presence
                    .lost(format!("{path} was removed or replaced, and no client gets here: {error}"));
                self.looks.reset_after(RETRY);
            }
        }
    }

    fn is_in_place(&self) -> bool {
        FileId::of(&self.place.path).is_ok_and(|file| file == self.file)
    }
}

fn nonblocking(stream: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.is_in_place() {
            // A file that stays is taken over by the next program.
            let _ = std::fs::remove_file(&self.place.path);
        }
        self.presence.closed();
    }
}
