//! The admin socket itself.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tunnel_operate::client::ClientError;
use tunnel_tests::{Server, get, within};

use super::*;

/// The status line of the answer to a raw request.
async fn ask(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_private_and_leaves_with_its_program() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let agent = world.agent("worker", Link::Quic, Ipv4Addr::LOCALHOST, &[&server]);
    wait_for("the agent's socket", async || {
        if world.path("worker.admin").exists() { Ok(()) } else { Err("absent".to_owned()) }
    })
    .await;
    for name in ["cp-1.admin", "worker.admin"] {
        let mode = std::fs::metadata(world.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(world.agent_status("worker").await.id, "worker");
    // Nothing of it is on TCP.
    assert_eq!(get(server.health, "/v1/status").await.unwrap().0, 404);
    agent.kill().await;
    server.kill().await;
    assert!(!world.path("cp-1.admin").exists() && !world.path("worker.admin").exists());
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_in_use_is_not_taken_over_and_one_left_behind_is() {
    let world = World::new().await;
    // As after SIGKILL.
    drop(std::os::unix::net::UnixListener::bind(world.path("cp-1.admin")).unwrap());
    let server = world.start(&world.spec("cp-1"));
    assert_eq!(world.server_status("cp-1").await.id, "cp-1");
    let second = world.spec("cp-2").flag("admin-socket", &world.shown("cp-1.admin"));
    let error = Server::start(world.dir.path(), &world.pki, &second).unwrap_err();
    assert!(
        error.contains("--admin-socket=") && error.contains("a running process listens on it"),
        "{error}"
    );
    assert_eq!(world.server_status("cp-1").await.id, "cp-1");
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_bounded() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let path = world.path("cp-1.admin");
    let post = |body: String| {
        let length = body.len();
        format!(
            "POST /v1/probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    assert_eq!(ask(&path, &post("nonsense".to_owned())).await, "HTTP/1.1 400 Bad Request");
    assert_eq!(ask(&path, &post("x".repeat(17 * 1024))).await, "HTTP/1.1 413 Payload Too Large");
    let nowhere = "GET /v2/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(&path, nowhere).await, "HTTP/1.1 404 Not Found");
    // A connection that says nothing is closed, and does not keep others out meanwhile.
    let mut silent = Vec::new();
    for _ in 0..15 {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    assert_eq!(world.server_status("cp-1").await.id, "cp-1");
    let mut end = Vec::new();
    within("the end of a silent connection", silent[0].read_to_end(&mut end)).await.unwrap();
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_say_what_is_not_there() {
    let world = World::new().await;
    let error = world.client("nobody").status().await.unwrap_err();
    assert!(matches!(error, ClientError::Absent { .. }), "{error}");
    assert!(error.to_string().contains("is the program running, with --admin-socket="), "{error}");
    let socket = world.shown("nobody.admin");
    for command in [&["status"][..], &["probe", "10.0.0.1:80"]] {
        let line = [command, &["--admin-socket", &socket]].concat();
        assert_eq!(world.server_command(&line).await, Health::Down);
        assert_eq!(world.agent_command(&line).await, Health::Down);
    }
}

#[test]
fn commands_and_flags_do_not_mix() {
    let parse = |line: &str| tunnel_server::cli::Cli::try_parse_from(line.split(' '));
    let command = |line: &str| parse(line).unwrap().command;
    assert!(command("tunnel-server --uds-name=/x").is_none());
    // The value of a flag is no command.
    assert!(command("tunnel-server --server-id status").is_none());
    assert!(command("tunnel-server status --wait").is_some());
    assert!(parse("tunnel-server --uds-name=/x status").is_err());
    assert!(parse("tunnel-server probe").is_err(), "a target is needed");
    assert!(parse("tunnel-server status --namespace=x").is_err(), "only with --kubeconfig");
    assert!(tunnel_agent::cli::Cli::try_parse_from(["tunnel-agent", "status", "--kubeconfig=x"]).is_err());
}
