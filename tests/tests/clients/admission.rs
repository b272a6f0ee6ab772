//! Allow-lists of users and names, and rules of the policy for identities.

use tunnel_tests::{Cluster, Frontend, Target, node, panics, wait_for};

use super::{me, refused};

const LINK: tunnel::transport::Link = tunnel::transport::Link::Quic;

/// gRPC's PERMISSION_DENIED.
const DENIED: u32 = 7;

/// A cluster whose server has these flags.
async fn cluster(flags: &[(&str, &str)]) -> Cluster {
    let builder = Cluster::builder().agent_on(LINK);
    flags.iter().fold(builder, |builder, (name, value)| builder.server_flag(name, value)).start().await
}

async fn bad_clients(cluster: &Cluster, reason: &str) -> i64 {
    let label = format!("reason=\"{reason}\"");
    cluster.server.metrics().await.sum("tunnel_server_bad_clients_total", &[&label])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_not_on_the_list_is_refused_on_the_unix_socket_alone() {
    let other = (me() + 1).to_string();
    let cluster = cluster(&[("uds-allowed-uids", &other)]).await;
    let echo = Target::echo(node(LINK)).await;
    for frontend in Frontend::ALL {
        if !frontend.is_unix() {
            cluster.server.connect(frontend, &echo).await.close().await.unwrap();
            continue;
        }
        let (code, text) = refused(&cluster.server, frontend, &echo.to_string()).await;
        assert_eq!(code, if frontend.is_grpc() { DENIED } else { 403 });
        assert_eq!(text, format!("user {} may not use this socket: see --uds-allowed-uids", me()));
    }
    assert_eq!(bad_clients(&cluster, "uid_not_allowed").await, 2);
    // One that says nothing is counted once, and does not stay.
    drop(tokio::net::UnixStream::connect(&cluster.server.unix).await.unwrap());
    wait_for("the count of a silent client", async || match bad_clients(&cluster, "uid_not_allowed").await {
        3 => Ok(()),
        counted => Err(counted.to_string()),
    })
    .await;
    drop(echo);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_on_the_list_is_admitted() {
    let list = format!("{},{}", me() + 1, me());
    let cluster = cluster(&[("uds-allowed-uids", &list), ("uds-mode", "0600")]).await;
    let echo = Target::echo(node(LINK)).await;
    for frontend in [Frontend::ConnectUnix, Frontend::GrpcUnix] {
        cluster.server.connect(frontend, &echo).await.close().await.unwrap();
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&cluster.server.unix).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    drop(echo);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_on_the_list_is_refused_on_tcp_alone() {
    let cluster = cluster(&[("frontend-allowed-names", "cn:kube-apiserver,o:system:masters,localhos")]).await;
    let echo = Target::echo(node(LINK)).await;
    for frontend in Frontend::ALL {
        if frontend.is_unix() {
            cluster.server.connect(frontend, &echo).await.close().await.unwrap();
            continue;
        }
        let (code, text) = refused(&cluster.server, frontend, &echo.to_string()).await;
        assert_eq!(code, if frontend.is_grpc() { DENIED } else { 403 });
        let expected = "the certificate (cn:client, ip:127.0.0.1, dns:localhost, dns:server.test) may not use this frontend: see --frontend-allowed-names";
        assert_eq!(text, expected);
    }
    assert_eq!(bad_clients(&cluster, "name_not_allowed").await, 2);
    drop(echo);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_on_the_list_is_admitted_by_any_of_its_names() {
    for list in ["client", "cn:client", "other,dns:server.test", "ip:127.0.0.1", "cl*"] {
        let cluster = cluster(&[("frontend-allowed-names", list)]).await;
        let echo = Target::echo(node(LINK)).await;
        for frontend in [Frontend::ConnectMtls, Frontend::GrpcMtls] {
            cluster.server.connect(frontend, &echo).await.close().await.unwrap();
        }
        drop(echo);
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_with_identities_apply_to_the_clients_that_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml");
    let policy = format!(
        "default: allow\nrules:\n\
         - {{name: unix, action: deny, ports: [1], identities: ['uid:{}']}}\n\
         - {{name: common-name, action: deny, ports: [2], identities: ['cn:client']}}\n\
         - {{name: another-name, action: deny, ports: [3], identities: ['dns:server.*']}}\n\
         - {{name: nobody, action: deny, identities: ['uid:{}', 'cn:other', client]}}\n",
        me(),
        me() + 1
    );
    std::fs::write(&file, policy).unwrap();
    let cluster = cluster(&[("policy-file", file.to_str().unwrap())]).await;
    for frontend in Frontend::ALL {
        let rules = if frontend.is_unix() {
            [(1, "unix")].as_slice()
        } else {
            &[(2, "common-name"), (3, "another-name")]
        };
        for port in 1..=3 {
            // Nothing listens on these ports.
            let target = format!("{}:{port}", node(LINK));
            let (_, text) = refused(&cluster.server, frontend, &target).await;
            let denied = rules.iter().find(|(denied, _)| *denied == port);
            match denied {
                Some((_, rule)) => {
                    assert_eq!(text, format!("denied by policy rule \"{rule}\": {target}"), "{frontend:?}")
                }
                None => assert!(text.contains("connection refused"), "{frontend:?}: {text}"),
            }
        }
    }
    cluster.finish().await;
    panics::assert_none();
}
