use std::future::poll_fn;
use std::sync::Arc;
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;

/// A socket, the changes that it reported, and its folder.
struct World {
    dir: TempDir,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), changes: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn bind(&self, place: Place) -> io::Result<UnixSocket> {
        let changes = Arc::clone(&self.changes);
        UnixSocket::bind(place, Box::new(move |change| changes.lock().unwrap().push(change)))
    }

    fn shared(&self) -> io::Result<UnixSocket> {
        self.bind(Place::shared(self.path()))
    }

    fn changes(&self) -> Vec<Change> {
        self.changes.lock().unwrap().clone()
    }

    fn mode(&self) -> u32 {
        std::fs::metadata(self.path()).unwrap().permissions().mode() & 0o777
    }

    /// The socket of a process that was killed.
    fn leave_a_dead_one(&self) {
        drop(std::os::unix::net::UnixListener::bind(self.path()).unwrap());
        assert!(self.path().exists());
    }

    async fn connects(&self) -> bool {
        UnixStream::connect(self.path()).await.is_ok()
    }
}

/// Polls a socket until so many looks are over, while the paused clock runs.
async fn watch(socket: &mut UnixSocket, time: Duration) {
    let accepted = poll_fn(|cx| socket.poll_accept(cx));
    assert!(tokio::time::timeout(time, accepted).await.is_err(), "nobody connects");
}

async fn accepts(socket: &mut UnixSocket) {
    poll_fn(|cx| socket.poll_accept(cx)).await.unwrap();
}

#[tokio::test]
async fn a_socket_has_its_mode_replaces_a_dead_one_and_goes_away() {
    let world = World::new();
    world.leave_a_dead_one();
    let kept = world.bind(Place { replace: false, ..Place::shared(world.path()) }).unwrap_err();
    assert_eq!(kept.kind(), io::ErrorKind::AddrInUse);
    let socket = world.shared().unwrap();
    assert_eq!((world.mode(), world.connects().await), (SHARED, true));
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 1, "the other name is gone");
    drop(socket);
    assert!(!world.path().exists());
    let private = world.bind(Place::private(world.path())).unwrap();
    assert_eq!(world.mode(), PRIVATE);
    drop(private);
    let _open = world.bind(Place { mode: 0o666, ..Place::shared(world.path()) }).unwrap();
    assert_eq!(world.mode(), 0o666);
}

#[tokio::test]
async fn a_socket_that_a_process_listens_on_is_not_taken_over() {
    let world = World::new();
    let mut living = world.shared().unwrap();
    for replace in [true, false] {
        let error = world.bind(Place { replace, ..Place::shared(world.path()) }).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::AddrInUse, TAKEN.to_owned()));
    }
    // The failed tries have removed nothing, and each looked as a client that closed.
    accepts(&mut living).await;
    accepts(&mut living).await;
    assert!(world.connects().await);
}

#[tokio::test]
async fn a_process_whose_backlog_is_full_listens() {
    let world = World::new();
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    full.bind(&SockAddr::unix(world.path()).unwrap()).unwrap();
    full.listen(0).unwrap();
    let _waits = std::os::unix::net::UnixStream::connect(world.path()).unwrap();
    assert_eq!(world.shared().unwrap_err().to_string(), TAKEN);
}

#[tokio::test]
async fn a_file_that_is_no_socket_stays() {
    let world = World::new();
    std::fs::write(world.path(), "precious").unwrap();
    assert_eq!(world.shared().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(world.path()).unwrap(), "precious");
}

#[tokio::test]
async fn a_group_is_set_and_one_of_strangers_is_refused_with_what_it_needs() {
    let world = World::new();
    let own = std::fs::metadata(world.dir.path()).unwrap();
    let place = Place { user: Some(own.uid()), group: Some(own.gid()), ..Place::shared(world.path()) };
    let socket = world.bind(place).unwrap();
    let file = std::fs::metadata(world.path()).unwrap();
    assert_eq!((file.uid(), file.gid()), (own.uid(), own.gid()));
    drop(socket);
    let stranger = Place { user: Some(own.uid() + 1), ..Place::shared(world.path()) };
    match world.bind(stranger) {
        // As root.
        Ok(_socket) => assert_eq!(std::fs::metadata(world.path()).unwrap().uid(), own.uid() + 1),
        Err(error) => assert!(error.to_string().contains("needs CAP_CHOWN"), "{error}"),
    }
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 0, "no file is left");
}

#[tokio::test(start_paused = true)]
async fn a_removed_file_is_made_again_and_clients_of_before_are_served() {
    let world = World::new();
    let mut socket = world.shared().unwrap();
    let presence = socket.presence();
    watch(&mut socket, LOOK * 3).await;
    assert_eq!(world.changes(), [Change::Found]);
    let waiting = UnixStream::connect(world.path()).await.unwrap();
    std::fs::remove_file(world.path()).unwrap();
    assert!(!world.connects().await);
    tokio::time::advance(LOOK).await;
    accepts(&mut socket).await;
    drop(waiting);
    assert_eq!((world.changes(), presence.fault()), (vec![Change::Found, Change::Remade], None));
    assert_eq!(world.mode(), SHARED);
    assert!(world.connects().await);
    accepts(&mut socket).await;
    drop(socket);
    assert!(!world.path().exists() && presence.fault().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_client_of_the_former_file_is_served_before_the_runtime_knows_of_it() {
    let world = World::new();
    let mut socket = world.shared().unwrap();
    watch(&mut socket, LOOK * 3).await;
    tokio::time::advance(LOOK).await;
    let _waiting = std::os::unix::net::UnixStream::connect(world.path()).unwrap();
    std::fs::remove_file(world.path()).unwrap();
    // The runtime has no turn between the client and the look.
    let accepted = poll_fn(|cx| Poll::Ready(socket.poll_accept(cx))).await;
    assert!(matches!(accepted, Poll::Ready(Ok(_))), "{accepted:?}");
    assert_eq!(world.changes(), [Change::Found, Change::Remade]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_another_process_took_is_left_to_it_until_it_ends() {
    let world = World::new();
    let mut socket = world.shared().unwrap();
    let presence = socket.presence();
    std::fs::remove_file(world.path()).unwrap();
    let other = std::os::unix::net::UnixListener::bind(world.path()).unwrap();
    watch(&mut socket, LOOK * 2).await;
    let fault = presence.fault().unwrap();
    assert!(fault.contains("was removed or replaced") && fault.contains(TAKEN), "{fault}");
    let inode = std::fs::metadata(world.path()).unwrap().ino();
    watch(&mut socket, RETRY * 3).await;
    assert_eq!(std::fs::metadata(world.path()).unwrap().ino(), inode);
    assert_eq!(world.changes(), [Change::Found, Change::Lost], "each fault is told once");
    drop(other);
    watch(&mut socket, RETRY * 2).await;
    assert_eq!((world.changes().last(), presence.fault()), (Some(&Change::Remade), None));
    assert!(world.connects().await);
    accepts(&mut socket).await;
    // The end of a socket whose file is another's leaves that file.
    std::fs::remove_file(world.path()).unwrap();
    std::fs::write(world.path(), "precious").unwrap();
    drop(socket);
    assert_eq!(std::fs::read_to_string(world.path()).unwrap(), "precious");
}

#[tokio::test(start_paused = true)]
async fn a_missing_directory_is_waited_for() {
    let world = World::new();
    let dir = world.dir.path().join("run");
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("socket");
    let mut socket = world.bind(Place::shared(path.clone())).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    watch(&mut socket, LOOK * 2).await;
    assert!(socket.presence().fault().unwrap().contains("No such file"));
    std::fs::create_dir(&dir).unwrap();
    watch(&mut socket, RETRY * 2).await;
    assert!(path.exists() && socket.presence().fault().is_none());
}
