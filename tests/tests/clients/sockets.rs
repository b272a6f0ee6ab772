//! The file of the frontend's socket: whose it is, and what becomes of it.

use tunnel_tests::{Cluster, Frontend, ServerSpec, Target, get, node, wait_for};

const LINK: tunnel::transport::Link = tunnel::transport::Link::Quic;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_neither_takes_nor_removes_the_socket_of_the_first() {
    let cluster = Cluster::on(LINK).await;
    let echo = Target::echo(node(LINK)).await;
    let socket = cluster.server.unix.display().to_string();
    let second = ServerSpec::new("second").flag("uds-name", &socket);
    // Alone, and with a port that is taken as well, which is found first.
    let mut taken = second.clone();
    taken.agent_port = cluster.server.agents.port();
    for (spec, why) in [
        (second.clone(), "a running process listens on it"),
        (second.flag("delete-existing-uds-file", "false"), "a running process listens on it"),
        (taken, "in use"),
    ] {
        let error = cluster.start_server(&spec).unwrap_err();
        assert!(
            error.contains(why) && error.contains(if why == "in use" { "port" } else { "--uds-name=" }),
            "{error}"
        );
        cluster.server.connect(Frontend::ConnectUnix, &echo).await.close().await.unwrap();
    }
    let unix = cluster.server.unix.clone();
    drop(echo);
    cluster.server.kill().await;
    assert!(!unix.exists());
    // As after SIGKILL.
    drop(std::os::unix::net::UnixListener::bind(&unix).unwrap());
    let kept = ServerSpec::new("third").flag("uds-name", &socket).flag("delete-existing-uds-file", "false");
    let error = cluster.start_server(&kept).unwrap_err();
    assert!(error.contains("no process listens on it"), "{error}");
    let third = cluster.start_server(&ServerSpec::new("third").flag("uds-name", &socket)).unwrap();
    third.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_socket_comes_back_and_one_that_another_process_took_makes_the_server_unready() {
    let cluster = Cluster::on(LINK).await;
    let echo = Target::echo(node(LINK)).await;
    let (server, label) = (&cluster.server, "socket=\"frontend\"");
    let remade = async || server.metrics().await.sum("tunnel_server_sockets_remade_total", &[label]);
    let present = async || server.metrics().await.sum("tunnel_server_socket_present", &[label]);
    assert_eq!((remade().await, present().await), (0, 1));
    let open = server.connect(Frontend::ConnectUnix, &echo).await;

    std::fs::remove_file(&server.unix).unwrap();
    wait_for("the socket", async || if remade().await == 1 { Ok(()) } else { Err("none".to_owned()) }).await;
    server.connect(Frontend::GrpcUnix, &echo).await.close().await.unwrap();

    // In one step: the server must not find the path empty.
    let staged = server.unix.with_extension("other");
    let other = std::os::unix::net::UnixListener::bind(&staged).unwrap();
    std::fs::rename(&staged, &server.unix).unwrap();
    wait_for("the fault", async || match server.readiness().await.unwrap() {
        (500, text) if text.contains("a running process listens on it") => Ok(()),
        (status, text) => Err(format!("{status} {text}")),
    })
    .await;
    assert_eq!((remade().await, present().await), (1, 0));
    let (_, text) = get(server.health, "/readyz?verbose").await.unwrap();
    assert!(text.contains("[+]agent-connected ok\n[-]frontend-socket failed: "), "{text}");
    // TCP and connections of before are served.
    server.connect(Frontend::ConnectMtls, &echo).await.close().await.unwrap();
    open.close().await.unwrap();

    drop(other);
    wait_for("readiness", async || match server.readiness().await.unwrap() {
        (200, _) => Ok(()),
        (status, text) => Err(format!("{status} {text}")),
    })
    .await;
    server.connect(Frontend::ConnectUnix, &echo).await.close().await.unwrap();
    drop(echo);
    cluster.finish().await;
}
