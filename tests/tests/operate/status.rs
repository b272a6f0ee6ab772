//! `status` of a server and of an agent.

use tunnel_tests::{Frontend, Target, node};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_down_without_agents_and_well_with_them() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let socket = world.shown("cp-1.admin");
    let line = ["status", "--admin-socket", &socket];
    assert_eq!(world.server_command(&line).await, Health::Down);

    let agents: Vec<_> =
        Link::ALL.into_iter().map(|link| world.agent(link.label(), link, node(link), &[&server])).collect();
    // It waits until all is well.
    assert_eq!(world.server_command(&[&line[..], &["--wait=30s"]].concat()).await, Health::Ok);
    server.wait_for_tunnels(3).await;

    let echo = Target::echo(node(Link::Quic)).await;
    let connection = server.connect(Frontend::ConnectUnix, &echo).await;
    let status = world.until("cp-1", "an open stream", |status| status.streams == 1).await;
    assert_eq!((status.id.as_str(), status.draining, status.stalled), ("cp-1", false, 0));
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    let agents_seen = &status.agents;
    assert_eq!((agents_seen.connected, agents_seen.suspect), (3, 0));
    assert_eq!((agents_seen.quic, agents_seen.h2, agents_seen.konnectivity), (1, 1, 1));
    assert_eq!(status.nodes, None, "nobody asked for nodes");
    let certificate = status.certificate.unwrap();
    assert!(certificate.flag.starts_with("--") && certificate.left > 0, "{certificate:?}");
    assert!(std::path::Path::new(&certificate.file).exists());

    // A drain with an open connection.
    server.drain();
    world.until("cp-1", "a drain", |status| status.draining).await;
    drop(connection);
    for agent in agents {
        agent.kill().await;
    }
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_tells_its_tunnels_and_why_others_are_missing() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let agent = world.agent("worker", Link::H2, Ipv4Addr::LOCALHOST, &[&server]);
    agent.wait_for_servers(1, 1).await;
    let socket = world.shown("worker.admin");
    assert_eq!(world.agent_command(&["status", "--admin-socket", &socket]).await, Health::Ok);
    let status = world.agent_status("worker").await;
    assert_eq!((status.wanted, status.not_held.len()), (1, 0));
    let held = &status.servers[0];
    assert_eq!((held.id.as_str(), held.link.as_str(), held.state.as_str()), ("cp-1", "h2", "connected"));
    assert_eq!((held.why.as_str(), &held.address), ("--transport=h2", &server.agents.to_string()));
    agent.kill().await;

    let nobody = Target::nobody(Ipv4Addr::LOCALHOST);
    let spec = AgentSpec::new("worker", Link::H2, Ipv4Addr::LOCALHOST).flag("admin-socket", &socket);
    let agent = Agent::start(&world.pki, &[server.agents, nobody], &spec);
    agent.wait_for_servers(1, 2).await;
    let missing = wait_for("a failure", async || {
        let status = world.agent_status("worker").await;
        let missing = status.not_held.into_iter().find(|missing| missing.error.is_some());
        missing.ok_or_else(|| format!("{:?}", status.servers))
    })
    .await;
    assert_eq!(missing.address, nobody.to_string());
    let error = missing.error.unwrap();
    assert!(error.contains("refused") && missing.failed.is_some(), "{error}");
    assert_eq!(world.agent_command(&["status", "--admin-socket", &socket]).await, Health::Degraded);
    server.kill().await;
    agent.wait_for_servers(0, 2).await;
    assert_eq!(world.agent_command(&["status", "-o", "json", "--admin-socket", &socket]).await, Health::Down);
    let status = world.agent_status("worker").await;
    let lost = status.not_held.iter().find(|missing| missing.led_to.as_deref() == Some("cp-1")).unwrap();
    assert!(lost.error.is_some(), "{lost:?}");
    agent.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_says_why_it_is_on_h2() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let path = tunnel_tests::TcpOnly::to(server.agents);
    let spec = AgentSpec::new("worker", Link::H2, Ipv4Addr::LOCALHOST)
        .flag("transport", "auto")
        .flag("admin-socket", &world.shown("worker.admin"));
    let agent = Agent::start(&world.pki, &[path.addr], &spec);
    agent.wait_for_servers(1, 1).await;
    let status = world.agent_status("worker").await;
    let why = &status.servers[0].why;
    assert!(why.starts_with("QUIC did not answer in time, tried again in "), "{why}");
    agent.kill().await;
    server.kill().await;
}
