//! Agents and servers that come, go and drain.

use tunnel_client::Connection;
use tunnel_tests::{Cluster, Frontend, LINKS, ServerSpec, Target, node, promptly, wait_for, wait_within};

use crate::PROMPT;
use crate::ways::{FRONTENDS, Fleet, WAYS, ended, on_every_way, ping};

/// A connection by each frontend, after its first byte there and back.
async fn connect_all(fleet: &Fleet, echo: &Target) -> Vec<Connection> {
    let mut open = Vec::new();
    for frontend in FRONTENDS {
        let mut connection = fleet.server().connect(frontend, echo).await;
        ping(&mut connection).await;
        open.push(connection);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b09_an_agent_that_goes_is_noticed_at_once_and_its_successor_used() {
    on_every_way(async |way, mut fleet| {
        let echo = Target::echo(way.node()).await;
        let mut kept = connect_all(&fleet, &echo).await;
        fleet.kill_agent().await;
        for connection in &mut kept {
            let over = promptly(PROMPT, ended(connection)).await;
            assert!(over.is_some(), "not ended after {PROMPT:?}");
        }
        fleet.start_agent(way).await;
        fleet.server().wait_for_tunnels(1).await;
        for frontend in FRONTENDS {
            ping(&mut fleet.server().connect(frontend, &echo).await).await;
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b10_a_second_agent_of_the_same_id_does_not_break_what_the_first_has() {
    on_every_way(async |way, mut fleet| {
        let echo = Target::echo(way.node()).await;
        let mut kept = connect_all(&fleet, &echo).await;
        let first = fleet.stock.take();
        fleet.start_agent(way).await;
        fleet.server().wait_for_tunnels(2).await;
        kept.extend(connect_all(&fleet, &echo).await);
        for connection in &mut kept {
            ping(connection).await;
        }
        drop(kept);
        if let Some(first) = &first {
            first.wait_until_idle().await;
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_an_agent_of_ours_finds_a_restarted_server() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let port = cluster.server.agents.port();
        cluster.server.kill().await;
        let mut spec = ServerSpec::new("successor");
        spec.agent_port = port;
        let successor = wait_for("the port", async || cluster.start_server(&spec)).await;
        successor.wait_for_tunnels(1).await;
        let echo = Target::echo(node(link)).await;
        ping(&mut successor.connect(Frontend::GrpcUnix, &echo).await).await;
        wait_within(PROMPT, "the agent to be ready", async || {
            match cluster.agents[0].readiness().await.unwrap() {
                (200, _) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b13_a_server_is_ready_as_soon_as_it_has_an_agent() {
    for way in WAYS {
        let cluster = Cluster::builder().start().await;
        assert_eq!(cluster.server.readiness().await.unwrap().0, 500, "{way:?}");
        let mut fleet = Fleet { cluster, stock: None, node: way.node() };
        fleet.start_agent(way).await;
        fleet.server().wait_for_tunnels(1).await;
        assert_eq!(fleet.server().readiness().await.unwrap(), (200, "ok".to_owned()), "{way:?}");
        fleet.kill_agent().await;
        assert_eq!(fleet.server().readiness().await.unwrap().0, 500, "{way:?}");
        fleet.finish().await;
    }
}

/// Our agent would leave after its drain notice; its open connection keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b14_an_agent_that_drains_is_dialled_if_it_is_the_only_one() {
    on_every_way(async |way, fleet| {
        let echo = Target::echo(way.node()).await;
        let mut kept = fleet.server().connect(Frontend::ConnectUnix, &echo).await;
        ping(&mut kept).await;
        match &fleet.stock {
            Some(stock) => stock.drain().await,
            None => fleet.cluster.agents[0].drain(),
        }
        for _ in 0..10 {
            for frontend in FRONTENDS {
                ping(&mut fleet.server().connect(frontend, &echo).await).await;
            }
        }
        ping(&mut kept).await;
    })
    .await;
}
