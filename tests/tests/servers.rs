//! One agent and many servers: lists, names, load balancers, counts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tunnel::drain::Drain;
use tunnel::messages::{control_messages, greeting};
use tunnel::transport::Link;
use tunnel_agent::app::Lookup;
use tunnel_kube::leases::Counted;
use tunnel_proto::message::{Control, Hello, RejectionKind, encode_control};
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{
    Agent, AgentSpec, Balancer, Cluster, FakeServer, Frontend, LINKS, Server, ServerSpec, Target, TcpOnly,
    Who, get, hello, node, open_tunnel, panics, wait_for, within,
};

const NODE: Ipv4Addr = node(Link::Quic);

/// Asserts that the server has exactly one tunnel, and that it works.
async fn transfer(server: &Server) {
    server.wait_for_tunnels(1).await;
    let source = Target::source(NODE).await;
    let mut connection = server.connect(Frontend::ConnectUnix, &source).await;
    let header = Header { seed: 3, len: 1 << 20 };
    payload::write(&mut connection, &header.encode()).await.unwrap();
    let all = within("a transfer", payload::read_all(&mut connection)).await.unwrap();
    payload::assert_is(&all, header.seed, header.len);
}

async fn duplicates(server: &Server) -> i64 {
    server.metrics().await.sum("tunnel_server_rejected_agents_total", &["reason=\"duplicate\""])
}

/// Three servers; each announces a count of three.
async fn three_servers() -> (Cluster, [Server; 2]) {
    let three = |id: &str| ServerSpec::new(id).flag("server-count", "3");
    let cluster = Cluster::builder().server(three("one")).start().await;
    let others = ["two", "three"].map(|id| cluster.start_server(&three(id)).unwrap());
    (cluster, others)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_keeps_a_tunnel_to_every_server_of_its_list() {
    for transport in ["auto", "quic", "h2"] {
        let cluster = Cluster::builder().start().await;
        let other = cluster.start_server(&ServerSpec::new("other")).unwrap();
        let spec = AgentSpec::new("both", Link::Quic, NODE).flag("transport", transport);
        let agent = Agent::start(&cluster.pki, &[cluster.server.agents, other.agents], &spec);
        agent.wait_for_servers(2, 2).await;
        for server in [&cluster.server, &other] {
            transfer(server).await;
        }

        // A server that stops is missed, and found again.
        other.kill().await;
        agent.wait_for_servers(1, 2).await;
        transfer(&cluster.server).await;
        let mut again = ServerSpec::new("other");
        again.agent_port = other.agents.port();
        let other = wait_for("the port", async || cluster.start_server(&again)).await;
        agent.wait_for_servers(2, 2).await;
        transfer(&other).await;
        agent.wait_until_idle().await;
        cluster.finish().await;
    }
}

/// Behaviour b12, and the number of missing servers, which Konnectivity's agents do not
/// report.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_behind_a_random_load_balancer_one_killed_and_one_added() {
    for transport in ["h2", "quic", "auto"] {
        let (cluster, [two, three]) = three_servers().await;
        let one = &cluster.server;
        let balancer = Balancer::to(&[one.agents, two.agents, three.agents]);
        let spec = AgentSpec::new("agent", Link::H2, NODE).flag("transport", transport);
        let agent = Agent::start(&cluster.pki, &[balancer.addr], &spec);
        agent.wait_for_servers(3, 3).await;
        for server in [one, &two, &three] {
            transfer(server).await;
        }
        let readiness = async || get(agent.health, "/readyz?verbose").await.unwrap();
        let ready =
            |n| (200, format!("[+]ping ok\n[+]server-connected ok\n    {n} of 3 servers\ncheck passed\n"));
        assert_eq!(readiness().await, ready(3));

        balancer.set(&[one.agents, three.agents]);
        two.kill().await;
        agent.wait_for_servers(2, 3).await;
        assert_eq!(readiness().await, ready(2));
        transfer(&three).await;

        let four = cluster.start_server(&ServerSpec::new("four").flag("server-count", "3")).unwrap();
        balancer.set(&[one.agents, three.agents, four.agents]);
        agent.wait_for_servers(3, 3).await;
        transfer(&four).await;
        assert_eq!(readiness().await, ready(3));
        agent.wait_until_idle().await;
        cluster.finish().await;
    }
}

/// The agent must not count one server twice, and its search for another server must
/// not disturb its tunnel. All addresses are dialled at the same time first, so that no
/// attempt knows of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_ways_to_one_server_are_one_tunnel() {
    for link in LINKS {
        let cluster = Cluster::builder().start().await;
        let echo = Target::echo(NODE).await;
        let ways: Vec<TcpOnly> = (0..4).map(|_| TcpOnly::to(cluster.server.agents)).collect();
        let mut addrs = vec![cluster.server.agents];
        if link == Link::H2 {
            addrs.extend(ways.iter().map(|way| way.addr));
        }
        let spec = AgentSpec::new("twice", link, NODE).flag("sync-forever", "true");
        let agent = Agent::start(&cluster.pki, &addrs, &spec);
        agent.wait_for_servers(1, 1).await;
        cluster.server.wait_for_tunnels(1).await;
        let before = duplicates(&cluster.server).await;
        while agent.attempts("duplicate").await < 10 {
            for frontend in Frontend::ALL {
                cluster.server.connect(frontend, &echo).await.close().await.unwrap();
            }
        }
        assert!(duplicates(&cluster.server).await > before, "the server noticed them by itself");
        agent.wait_for_servers(1, 1).await;
        cluster.server.wait_for_tunnels(1).await;
        let of_server = cluster.server.metrics().await;
        assert_eq!(of_server.sum("tunnel_server_tunnels_closed_total", &[]), 0, "none came and went");
        assert_eq!(agent.attempts("rejected").await, 0, "they are no errors");
        drop(agent);
        cluster.server.wait_for_tunnels(0).await;
        cluster.finish().await;
    }
}

/// A duplicate is recognised before authentication, and before the other fields of the
/// greeting are checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_is_told_so_before_anything_else() {
    let cluster = Cluster::builder().start().await;
    for link in LINKS {
        let answer = async |connected: &[&str], agent_id: &str| {
            let (links, tls) = (Drain::new(), cluster.pki.agent(Who::Agent));
            let (_tunnel, control) = open_tunnel(cluster.server.agents, link, tls, &links).await.unwrap();
            let mut messages = control_messages(control);
            let connected_servers = connected.iter().map(|id| (*id).to_owned()).collect();
            let hello = Hello { connected_servers, ..hello(agent_id, "host=a;host=b") };
            messages.send(encode_control(Control::Hello(hello)).unwrap()).await.unwrap();
            let answer = within("an answer", greeting(&mut messages)).await.unwrap();
            links.kill();
            let Control::Rejection(told) = answer else { panic!("{answer:?}") };
            (RejectionKind::from_code(told.code), told.server_id)
        };
        let duplicate = (RejectionKind::Duplicate, cluster.server.id.clone());
        assert_eq!(answer(&["a", &cluster.server.id, "b"], "not an id").await, duplicate);
        // Other agents are checked, and their rejection does not name the server.
        let identity = (RejectionKind::Identity, String::new());
        assert_eq!(answer(&["a", "b", ""], "agent").await, identity);
        assert_eq!(answer(&[], "agent").await, identity);
    }
    assert_eq!(duplicates(&cluster.server).await, 2);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_of_a_name_gets_a_tunnel() {
    for link in LINKS {
        let cluster = Cluster::builder().start().await;
        let start = |id| cluster.start_server(&ServerSpec::new(id)).unwrap();
        let (one, two, three) = (&cluster.server, start("two"), start("three"));
        let addresses = Arc::new(Mutex::new(vec![one.agents, two.agents]));
        let lookup: Lookup = Arc::new({
            let addresses = Arc::clone(&addresses);
            move |host, _| {
                assert_eq!(host, "localhost");
                let found = addresses.lock().unwrap().clone();
                Box::pin(async { Ok(found) })
            }
        });
        let spec = AgentSpec::new("agent", link, NODE).flag("proxy-server-host", "localhost");
        let agent = Agent::start_with(&cluster.pki, &[], &spec, |app| app.resolving_with(lookup));
        agent.wait_for_servers(2, 2).await;

        // The name's addresses change. Working tunnels stay; a failed one causes a look-up.
        *addresses.lock().unwrap() = vec![two.agents, three.agents];
        two.kill().await;
        agent.wait_for_servers(2, 2).await;
        transfer(one).await;
        transfer(&three).await;
        // An address that left the name is not dialled again.
        one.kill().await;
        agent.wait_for_servers(1, 2).await;
        agent.wait_until_idle().await;
        panics::assert_none();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_tell_how_many_servers_there_are() {
    let cluster = Cluster::builder().server(ServerSpec::new("one")).start().await;
    let others = ["two", "three"].map(|id| cluster.start_server(&ServerSpec::new(id)).unwrap());
    let balancer = Balancer::to(&[cluster.server.agents, others[0].agents, others[1].agents]);
    let valid = |servers| Some(Counted { servers, ..Counted::default() });
    let (leases, count) = watch::channel(valid(1));
    let spec = AgentSpec::new("agent", Link::H2, NODE);
    let agent = Agent::start_with(&cluster.pki, &[balancer.addr], &spec, |app| app.counting_leases(count));
    agent.wait_for_servers(1, 1).await;
    leases.send(valid(3)).unwrap();
    agent.wait_for_servers(3, 3).await;
    for server in others.iter().chain([&cluster.server]) {
        transfer(server).await;
    }
    // Fewer Leases cut no working tunnel.
    leases.send(valid(2)).unwrap();
    agent.wait_for_servers(3, 2).await;
    let (_, text) = get(agent.health, "/readyz?verbose").await.unwrap();
    assert!(text.contains("3 of 3 servers"), "{text}");
    cluster.finish().await;
}

/// This server recognises no duplicates, so the agent has to; and the agent reads its
/// token for every attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_names_the_servers_held_and_carries_the_token_of_today() {
    let cluster = Cluster::builder().start().await;
    let fake = FakeServer::start(&cluster.pki, "fake");
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let spec = AgentSpec::new("agent", Link::H2, NODE)
        .flag("sync-forever", "true")
        .flag("service-account-token-path", token.to_str().unwrap());
    let agent = Agent::start(&cluster.pki, &[fake.addr], &spec);
    agent.wait_for_servers(1, 1).await;
    let said = async |token: &str, connected: &[&str]| {
        let is_it = |hello: &Hello| hello.token == token && hello.connected_servers == connected;
        wait_for(&format!("a greeting with {token} and {connected:?}"), async || {
            let hellos = fake.hellos();
            if hellos.iter().any(is_it) { Ok(()) } else { Err(format!("{hellos:?}")) }
        })
        .await;
    };
    said("first", &[]).await;
    said("first", &["fake"]).await;
    // A kubelet replaces the file in this way: a new file is renamed over the old one.
    let new = dir.path().join("new");
    std::fs::write(&new, "second").unwrap();
    std::fs::rename(&new, &token).unwrap();
    said("second", &["fake"]).await;
    std::fs::remove_file(&token).unwrap();
    let before = fake.hellos().len();
    wait_for("the agent to miss its token", async || {
        let failed = agent.metrics().await;
        match failed.sum("tunnel_agent_tunnel_attempts_total", &["outcome=\"no_token\""]) {
            0 => Err(failed.show("tunnel_agent_tunnel")),
            _ => Ok(()),
        }
    })
    .await;
    assert!(fake.hellos().len() <= before + 1, "nobody is greeted without it");
    agent.wait_for_servers(1, 1).await;
    cluster.finish().await;
}

/// A rolling restart: servers come back under new ids, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_restart_under_new_ids_replace_the_old_ones() {
    for link in LINKS {
        let (cluster, [two, three]) = three_servers().await;
        let addrs = [cluster.server.agents, two.agents, three.agents];
        let agent = Agent::start(&cluster.pki, &addrs, &AgentSpec::new("agent", link, NODE));
        agent.wait_for_servers(3, 3).await;
        let mut replaced = Vec::new();
        for (n, old) in [&cluster.server, &two, &three].into_iter().enumerate() {
            old.kill().await;
            agent.wait_for_servers(2, 3).await;
            let mut spec = ServerSpec::new(&format!("new-{n}")).flag("server-count", "3");
            spec.agent_port = old.agents.port();
            let new = wait_for("the port", async || cluster.start_server(&spec)).await;
            agent.wait_for_servers(3, 3).await;
            replaced.push(new);
        }
        for server in &replaced {
            transfer(server).await;
        }
        panics::assert_none();
    }
}
