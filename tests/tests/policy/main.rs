//! The policy of destinations, at both ends, on every frontend and link.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::Ipv4Addr;

use tunnel::transport::Link;
use tunnel_tests::{AgentSpec, Cluster, Frontend, Server, ServerSpec, Target, panics};

/// The address that the agents of these tests serve.
const NODE: Ipv4Addr = Ipv4Addr::new(127, 7, 0, 1);

/// The links of an agent.
const LINKS: [Link; 3] = [Link::Quic, Link::H2, Link::Konnectivity];

const POLICY: &str = "
default: allow
rules:
  - {name: no-loopback, action: deny, to: [127.0.0.0/8, '::1', localhost]}
";

/// A server and an agent, each with or without the file.
async fn cluster(link: Link, on_server: bool, on_agent: bool) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml").display().to_string();
    std::fs::write(&file, POLICY).unwrap();
    let server = ServerSpec::new("server").flag("proxy-strategies", "destHost,default");
    let agent = AgentSpec::new("agent", link, NODE);
    let server = if on_server { server.flag("policy-file", &file) } else { server };
    let agent = if on_agent { agent.flag("policy-file", &file) } else { agent };
    // Both have read the file when the cluster has started.
    Cluster::builder().server(server).agent(agent).start().await
}

async fn assert_denied(server: &Server, target: &str, rule: &str) {
    for frontend in Frontend::ALL {
        let (status, text) = server.refusal(frontend, target).await;
        assert_eq!(text, format!("denied by policy rule \"{rule}\": {target}"), "{frontend:?}");
        assert_eq!(status, (!frontend.is_grpc()).then_some(403), "{frontend:?}: {text}");
    }
}

async fn denials(cluster: &Cluster) -> (i64, i64) {
    let (server, agent) = (cluster.server.metrics().await, cluster.agents[0].metrics().await);
    let of = |metrics: &tunnel_tests::Metrics, program: &str| {
        metrics.sum(&format!("tunnel_{program}_policy_denied_total"), &["rule=\"no-loopback\""])
    };
    (of(&server, "server"), of(&agent, "agent"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_policy_asks_no_agent() {
    for link in LINKS {
        let cluster = cluster(link, true, false).await;
        assert_denied(&cluster.server, &format!("{NODE}:10250"), "no-loopback").await;
        assert_denied(&cluster.server, "localhost:10250", "no-loopback").await;
        assert_eq!(denials(&cluster).await, (8, 0), "{link:?}");
        let streams = cluster.server.metrics().await.sum("tunnel_server_streams_opened_total", &[]);
        assert_eq!(streams, 0, "{link:?}");
        // A dial is counted after its answer.
        cluster.server.wait_until_idle().await;
        let outcome = &["outcome=\"forbidden\""];
        assert_eq!(cluster.server.metrics().await.sum("tunnel_server_dials_total", outcome), 8);
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_a_policy_dials_nothing_that_it_denies() {
    for link in LINKS {
        let cluster = cluster(link, false, true).await;
        let echo = Target::echo(NODE).await;
        assert_denied(&cluster.server, &echo.to_string(), "no-loopback").await;
        // The resolver of the host, or glibc by itself, knows this name.
        assert_denied(&cluster.server, "localhost:10250", "no-loopback").await;
        assert_eq!(denials(&cluster).await, (0, 8), "{link:?}");
        assert_eq!(cluster.agents[0].dials().await, 0, "{link:?}");
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_file_loopback_is_dialled_and_special_addresses_are_not() {
    for link in LINKS {
        let cluster = cluster(link, false, false).await;
        let echo = Target::echo(NODE).await;
        for frontend in Frontend::ALL {
            cluster.server.connect(frontend, &echo).await.close().await.unwrap();
        }
        for (target, rule) in [
            ("169.254.169.254:80", "builtin/metadata"),
            ("[::ffff:169.254.169.254]:80", "builtin/metadata"),
            ("[64:ff9b::169.254.169.254]:80", "builtin/metadata"),
            ("metadata.google.internal:80", "builtin/metadata"),
            ("169.254.1.1:80", "builtin/link-local"),
            ("[fe80::1]:80", "builtin/link-local"),
            ("224.0.0.1:80", "builtin/multicast"),
            ("0.0.0.0:80", "builtin/unspecified"),
            ("[::]:80", "builtin/unspecified"),
            ("255.255.255.255:80", "builtin/broadcast"),
        ] {
            let target = target.parse::<tunnel_proto::target::Target>().unwrap().to_string();
            assert_denied(&cluster.server, &target, rule).await;
        }
        // Other spellings are no targets at all.
        for target in ["2852039166:80", "0251.0376.0251.0376:80", "0xA9FEA9FE:80", "169.254.169.254.:80"] {
            for frontend in Frontend::ALL {
                let (status, text) = cluster.server.refusal(frontend, target).await;
                assert!(text.contains("invalid host"), "{frontend:?}: {text}");
                assert_eq!(status, (!frontend.is_grpc()).then_some(400));
            }
        }
        assert_eq!(cluster.agents[0].dials().await, 4, "{link:?}");
        drop(echo);
        cluster.finish().await;
    }
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_used_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, "default: allow\nrules: [{name: a}]").unwrap();
    let cluster = Cluster::builder().start().await;
    let spec = ServerSpec::new("other").flag("policy-file", &file.display().to_string());
    let error = cluster.start_server(&spec).unwrap_err();
    assert!(
        error.starts_with("--policy-file: the policy is not usable") && error.contains("line 2"),
        "{error}"
    );
}
