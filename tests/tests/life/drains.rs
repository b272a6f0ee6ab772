//! Drains of servers and of agents.

use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tunnel::drain::Drain;
use tunnel::messages::{control_messages, greeting};
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_proto::message::{Control, RejectionKind, encode_control};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, Frontend, Gate, LINKS, Target, Who, get, hello, node, open_tunnel, panics,
    wait_for, within,
};

use crate::{PROMPT, assert_cut, finish_downloads, half_downloads, on_every_frontend, ping};

/// The longest that a program may take after the limit of its drain.
const AFTER_GRACE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drains_finishes_transfers_and_takes_no_new_clients() {
    for link in LINKS {
        let builder = Cluster::builder().server_flag("graceful-shutdown-timeout", "60s").agent_on(link);
        let cluster = builder.start().await;
        let gate = Gate::default();
        let source = Target::gated(node(link), gate.clone()).await;
        let downloads = half_downloads(&cluster.server, &source).await;

        cluster.server.drain();
        wait_for("the frontends to close", async || {
            let unix = UnixStream::connect(&cluster.server.unix).await;
            let tcp = TcpStream::connect(cluster.server.tcp).await;
            if unix.is_err() && tcp.is_err() { Ok(()) } else { Err(format!("{unix:?} {tcp:?}")) }
        })
        .await;
        let (status, text) = cluster.server.readiness().await.unwrap();
        assert_eq!((status, text.contains("draining")), (500, true), "{text}");
        assert_eq!(get(cluster.server.health, "/livez").await.unwrap().0, 200);

        gate.open();
        finish_downloads(downloads).await;
        // Long before the limit, because no connection is left.
        cluster.server.ended(Duration::from_secs(20)).await;
        cluster.agents[0].wait_until_idle().await;
    }
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drains_cuts_what_is_stuck_at_its_limit() {
    const GRACE: Duration = Duration::from_secs(1);
    for link in LINKS {
        let cluster = Cluster::builder().server_flag("graceful-shutdown-timeout", "1s").agent_on(link);
        let cluster = cluster.start().await;
        let (echo, flood) = (Target::echo(node(link)).await, Target::floods(node(link)).await);
        let idle = on_every_frontend(&cluster.server, &echo).await;
        let mut stalled = Vec::new();
        for frontend in Frontend::ALL {
            stalled.push(cluster.server.connect(frontend, &flood).await);
        }
        cluster.server.drain();
        cluster.server.ended(GRACE + AFTER_GRACE).await;
        assert_cut(idle, PROMPT).await;
        drop((stalled, flood));
        cluster.agents[0].wait_until_idle().await;
    }
    panics::assert_none();
}

/// A draining server makes no dials. An agent admitted there would count it as a
/// connected server and delay its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_comes_to_a_draining_server_is_sent_away() {
    for link in LINKS {
        let builder = Cluster::builder().server_flag("graceful-shutdown-timeout", "60s").agent_on(link);
        let cluster = builder.start().await;
        let echo = Target::echo(node(link)).await;
        let mut kept = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
        cluster.server.drain();
        wait_for("the server to drain", async || match cluster.server.readiness().await.unwrap() {
            (500, text) if text.contains("draining") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        let links = Drain::new();
        let opened =
            open_tunnel(cluster.server.agents, link, cluster.pki.agent(Who::Agent), &links).await.unwrap();
        let mut messages = control_messages(opened.1);
        messages.send(encode_control(Control::Hello(hello("late", ""))).unwrap()).await.unwrap();
        let answer = within("an answer", greeting(&mut messages)).await.unwrap();
        let Control::Rejection(rejection) = answer else { panic!("{answer:?} over {}", link.label()) };
        assert_eq!(RejectionKind::from_code(rejection.code), RejectionKind::Draining);
        ping(&mut kept).await;
        links.kill();
    }
}

/// Two agents for one node; the first one drains.
async fn two_agents(link: Link, grace: &str) -> Cluster {
    let agent = |id: &str| AgentSpec::new(id, link, node(link)).flag("graceful-shutdown-timeout", grace);
    Cluster::builder().agent(agent("goes")).agent(agent("stays")).start().await
}

/// Starts downloads until the draining agent carries some.
async fn half_downloads_on(cluster: &Cluster, goes: &Agent, source: &Target) -> Vec<(Frontend, Connection)> {
    let mut downloads = Vec::new();
    wait_for("the agent to have a share", async || {
        downloads.extend(half_downloads(&cluster.server, source).await);
        match goes.connections().await {
            0 => Err("none of the downloads".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    downloads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_drains_finishes_transfers_and_gets_no_new_dials() {
    for link in LINKS {
        let cluster = two_agents(link, "60s").await;
        let [goes, stays] = &cluster.agents[..] else { panic!("two agents") };
        let (gate, echo) = (Gate::default(), Target::echo(node(link)).await);
        let source = Target::gated(node(link), gate.clone()).await;
        let downloads = half_downloads_on(&cluster, goes, &source).await;

        goes.drain();
        wait_for("the agent to say that it drains", async || match goes.readiness().await.unwrap() {
            (503, text) if text.contains("draining") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        // The notice takes a moment to arrive; after it the agent gets no dial.
        let mut dialled = goes.dials().await;
        wait_for("the server to leave the agent alone", async || {
            for _ in 0..16 {
                ping(&mut cluster.server.connect(Frontend::ConnectUnix, &echo).await).await;
            }
            let before = std::mem::replace(&mut dialled, goes.dials().await);
            if before == dialled { Ok(()) } else { Err(format!("{before} and then {dialled} dials")) }
        })
        .await;
        let before = stays.dials().await;
        for (_, connection) in on_every_frontend(&cluster.server, &echo).await {
            connection.close().await.unwrap();
        }
        assert_eq!((goes.dials().await, stays.dials().await), (dialled, before + 4));

        gate.open();
        finish_downloads(downloads).await;
        goes.ended(Duration::from_secs(20)).await;
        cluster.server.wait_for_tunnels(1).await;
        stays.wait_until_idle().await;
        cluster.server.wait_until_idle().await;
    }
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_drains_cuts_what_is_stuck_at_its_limit() {
    for link in LINKS {
        let spec = AgentSpec::new("goes", link, node(link)).flag("graceful-shutdown-timeout", "1s");
        let cluster = Cluster::builder().agent(spec).start().await;
        let echo = Target::echo(node(link)).await;
        let stuck = on_every_frontend(&cluster.server, &echo).await;
        cluster.agents[0].drain();
        cluster.agents[0].ended(Duration::from_secs(1) + AFTER_GRACE).await;
        assert_cut(stuck, PROMPT).await;
        cluster.server.wait_for_tunnels(0).await;
        cluster.server.wait_until_idle().await;
    }
    panics::assert_none();
}

/// Dials prefer agents that do not drain; where there is no other, a draining agent
/// serves them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_drains_is_dialled_where_it_is_the_only_one() {
    for link in LINKS {
        let spec = AgentSpec::new("only", link, node(link)).flag("graceful-shutdown-timeout", "60s");
        let cluster = Cluster::builder().agent(spec).start().await;
        let (gate, echo) = (Gate::default(), Target::echo(node(link)).await);
        let source = Target::gated(node(link), gate.clone()).await;
        let downloads = half_downloads(&cluster.server, &source).await;
        cluster.agents[0].drain();
        for (_, connection) in on_every_frontend(&cluster.server, &echo).await {
            connection.close().await.unwrap();
        }
        gate.open();
        finish_downloads(downloads).await;
        cluster.agents[0].ended(Duration::from_secs(20)).await;
        cluster.server.wait_until_idle().await;
    }
    panics::assert_none();
}
