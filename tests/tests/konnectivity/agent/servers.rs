//! How an agent calls servers, counts them, and finds them again.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tunnel_kube::leases::Counted;
use tunnel_tests::stock::{Manners, StockServer};
use tunnel_tests::{Agent, Balancer, Target, panics, promptly, wait_for, wait_within, within};

use super::{NODE, World, spec, wait_for_servers};
use crate::{Certificates, PROMPT};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b21_an_agent_with_a_token_sends_it_as_it_is_now() {
    let certificates = Certificates::make();
    let mut server = StockServer::start(&certificates.pki, Manners::of("server-a")).await;
    let file = certificates.path("token");
    std::fs::write(&file, "first").unwrap();
    let spec = spec().flag("service-account-token-path", &file.display().to_string());
    let agent = Agent::start(&certificates.pki, &[server.addr], &spec);
    let call = server.agent().await;
    assert_eq!(call.field("authorization"), "Bearer first");
    std::fs::write(&file, "second").unwrap();
    call.cut().await;
    assert_eq!(server.agent().await.field("authorization"), "Bearer second");
    agent.wait_until_idle().await;
    panics::assert_none();
}

/// Load balancers choose by ALPN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b15_other_names_are_offered_in_front_of_ours() {
    let certificates = Certificates::make();
    let listener = TcpListener::bind((NODE, 0)).await.unwrap();
    let spec = spec().flag("alpn-proto", "istio,konnectivity");
    let _agent = Agent::start(&certificates.pki, &[listener.local_addr().unwrap()], &spec);
    let (tcp, _) = within("an agent", listener.accept()).await.unwrap();
    let hello = within("a hello", LazyConfigAcceptor::new(Acceptor::default(), tcp)).await.unwrap();
    let offered: Vec<_> = hello.client_hello().alpn().unwrap().collect();
    assert_eq!(offered, [&b"istio"[..], b"konnectivity", b"h2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b30_an_agent_wants_as_many_servers_as_it_is_told_and_at_least_one() {
    for (told, wanted) in [("3", 3), ("1", 1), ("0", 1)] {
        let manners = Manners { count: told.to_owned(), ..Manners::of("server-a") };
        let world = World::with(manners).await;
        wait_for(&format!("{told} servers to be known"), async || {
            let metrics = world.agent.metrics().await;
            match metrics.value("konnectivity_network_proxy_agent_known_server_count") == wanted {
                true => Ok(()),
                false => Err(metrics.show("konnectivity_network_proxy_agent")),
            }
        })
        .await;
        wait_for_servers(&world.agent, 1).await;
        assert_eq!(world.agent.readiness().await.unwrap().0, 200);
        world.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b30_leases_and_the_servers_word_are_counted_together_as_the_flag_says() {
    let certificates = Certificates::make();
    for (source, leases, wanted) in [
        ("default", Some(2), 2),
        // Leases are not known yet, so the servers' count holds.
        ("default", None, 3),
        ("", Some(0), 1),
        ("max", Some(2), 3),
        ("max", Some(5), 5),
        ("max", None, 3),
    ] {
        let manners = Manners { count: "3".to_owned(), ..Manners::of("server-a") };
        let mut server = StockServer::start(&certificates.pki, manners).await;
        let leases = leases.map(|servers| Counted { servers, ..Counted::default() });
        let (_leases, count) = tokio::sync::watch::channel(leases);
        let spec = spec().flag("server-count-source", source);
        let agent =
            Agent::start_with(&certificates.pki, &[server.addr], &spec, |app| app.counting_leases(count));
        let _call = server.agent().await;
        agent.wait_for_servers(1, wanted).await;
        let metrics = agent.metrics().await;
        assert_eq!(metrics.value("konnectivity_network_proxy_agent_known_server_count"), wanted);
    }
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_an_agent_finds_a_restarted_server() {
    let mut world = World::new().await;
    let echo = Target::echo(NODE).await;
    wait_for_servers(&world.agent, 1).await;
    assert_eq!(world.agent.readiness().await.unwrap(), (200, "ok".to_owned()));
    let port = world.server.addr.port();
    drop(world.server);
    wait_within(PROMPT, "the agent to miss its server", async || {
        match world.agent.readiness().await.unwrap() {
            (503, text) if text.contains("no servers connected") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.server = StockServer::on(&world.certificates.pki, Manners::of("server-b"), port).await;
    world.call = world.server.agent().await;
    assert_eq!(world.call.dial(&echo.to_string(), 3).await, 1);
    wait_for_servers(&world.agent, 1).await;
    world.call.close(1).await;
    world.call.expect_closed(1, "").await;
    world.finish().await;
}

/// Without a listener TCP is refused at once and QUIC is not answered. The wait for
/// QUIC must not delay the next attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_an_agent_that_takes_any_link_finds_a_restarted_server_as_soon() {
    let certificates = Certificates::make();
    let mut server = StockServer::start(&certificates.pki, Manners::of("server-a")).await;
    let any = spec().flag("transport", "auto");
    let agent = Agent::start(&certificates.pki, &[server.addr], &any);
    server.agent().await;
    wait_for_servers(&agent, 1).await;
    let port = server.addr.port();
    drop(server);
    wait_for_servers(&agent, 0).await;
    // The agent has tried again, in vain.
    wait_for("a failed attempt", async || {
        let metrics = agent.metrics().await;
        let lost = ["link=\"h2\"", "outcome=\"lost\""];
        match metrics.sum("tunnel_agent_tunnel_attempts_total", &lost) {
            0 => Err(metrics.show("tunnel_agent_tunnel_attempts")),
            _ => Ok(()),
        }
    })
    .await;
    let mut server = StockServer::on(&certificates.pki, Manners::of("server-b"), port).await;
    promptly(Duration::from_secs(5), server.agent()).await.expect("the agent's call");
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b12_behind_a_load_balancer_an_agent_finds_every_server() {
    panics::record();
    let certificates = Certificates::make();
    let echo = Target::echo(NODE).await;
    let manners = |id: &str| Manners { count: "3".to_owned(), ..Manners::of(id) };
    let mut servers = Vec::new();
    for id in ["server-a", "server-b", "server-c"] {
        servers.push(StockServer::start(&certificates.pki, manners(id)).await);
    }
    let addresses = |servers: &[StockServer]| servers.iter().map(|server| server.addr).collect::<Vec<_>>();
    let balancer = Balancer::to(&addresses(&servers));
    let agent = Agent::start(&certificates.pki, &[balancer.addr], &spec());
    wait_for_servers(&agent, 3).await;
    let gone = servers.remove(0);
    balancer.set(&addresses(&servers));
    drop(gone);
    wait_for_servers(&agent, 2).await;
    servers.push(StockServer::start(&certificates.pki, manners("server-d")).await);
    balancer.set(&addresses(&servers));
    wait_for_servers(&agent, 3).await;
    for (server, number) in servers.iter_mut().zip(1..) {
        // The agent keeps its first call; later ones were duplicates.
        let mut call = server.agent().await;
        let id = call.dial(&echo.to_string(), number).await;
        call.data(id, b"x").await;
        assert_eq!(call.read(id, 1).await, b"x");
        call.close(id).await;
        call.expect_closed(id, "").await;
    }
    agent.wait_until_idle().await;
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b13_an_agent_is_ready_as_soon_as_it_has_a_server() {
    let certificates = Certificates::make();
    let refuses = Some((2, "not now"));
    let manners = Manners { refuses, ..Manners::of("server-a") };
    let server = StockServer::start(&certificates.pki, manners).await;
    let port = server.addr.port();
    let agent = Agent::start(&certificates.pki, &[server.addr], &spec());
    // The agent is refused and tries again.
    wait_for("three attempts", async || match server.accepted() {
        0..3 => Err(format!("{} attempts", server.accepted())),
        _ => Ok(()),
    })
    .await;
    assert_eq!(agent.readiness().await.unwrap().0, 503);
    drop(server);
    let mut server = StockServer::on(&certificates.pki, Manners::of("server-a"), port).await;
    let _call = server.agent().await;
    wait_for_servers(&agent, 1).await;
    assert_eq!(agent.readiness().await.unwrap(), (200, "ok".to_owned()));
    panics::assert_none();
}
