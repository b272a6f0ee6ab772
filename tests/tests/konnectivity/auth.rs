//! Stock agents that present service-account tokens to a server of ours.

use std::time::Duration;

use tunnel_kube_fake::{FakeApi, Holder, Verb, token};
use tunnel_tests::stock::{Metadata, NotServed, StockAgent, alpn};
use tunnel_tests::{Server, ServerSpec, Who, panics};

use crate::Certificates;

const AUDIENCE: &str = "system:konnectivity-server";
const HOUR: Duration = Duration::from_secs(3600);

/// A token of this service account for this audience.
fn issue(api: &FakeApi, account: &str, audience: &str) -> String {
    let token = token(account, audience, HOUR);
    let username = format!("system:serviceaccount:{account}");
    api.know(&token, Holder { username, audiences: vec![audience.to_owned()], ..Holder::default() });
    token
}

async fn join(
    certificates: &Certificates,
    server: &Server,
    values: &[&str],
) -> Result<StockAgent, NotServed> {
    let metadata = values.iter().fold(Metadata::of("agent-stock"), |m, value| m.and("authorization", value));
    let tls = alpn(&certificates.pki, Who::Agent, &["h2"]);
    Box::pin(StockAgent::connect(server.agents, tls, metadata)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b21_an_agent_is_admitted_by_its_token_alone() {
    panics::record();
    let certificates = Certificates::make();
    let api = FakeApi::new();
    let served = api.serve().await.unwrap();
    let kubeconfig = certificates.path("kubeconfig");
    std::fs::write(&kubeconfig, served.kubeconfig()).unwrap();
    let spec = ServerSpec::new("server")
        .flag("cluster-ca-cert", "")
        .flag("agent-namespace", "kube-system")
        .flag("agent-service-account", "konnectivity-agent")
        .flag("authentication-audience", AUDIENCE)
        .flag("kubeconfig", &kubeconfig.display().to_string());
    let server = Server::start(certificates.dir.path(), &certificates.pki, &spec).unwrap();

    let good = format!("Bearer {}", issue(&api, "kube-system:konnectivity-agent", AUDIENCE));
    let also = format!("Bearer {}", issue(&api, "kube-system:konnectivity-agent", AUDIENCE));
    let namespace = format!("Bearer {}", issue(&api, "default:konnectivity-agent", AUDIENCE));
    let account = format!("Bearer {}", issue(&api, "kube-system:default", AUDIENCE));
    let audience = format!("Bearer {}", issue(&api, "kube-system:konnectivity-agent", "elsewhere"));
    let nobody = format!("Bearer {}", token("nobody", AUDIENCE, HOUR));
    for (what, values) in [
        ("no token", &[][..]),
        ("no scheme", &[good.trim_start_matches("Bearer ")]),
        ("another scheme", &["Basic eDp5"]),
        ("two tokens", &[&good, &also]),
        ("nobody's", &[&nobody]),
        ("another namespace", &[&namespace]),
        ("another account", &[&account]),
        ("another audience", &[&audience]),
    ] {
        match join(&certificates, &server, values).await {
            Err(NotServed::Status(16, text)) => assert!(!text.is_empty(), "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    server.wait_for_tunnels(0).await;

    // Without the API no agent is admitted, and each may try again.
    api.fail(Verb::Review, Some((500, "InternalError")));
    match join(&certificates, &server, &[&good]).await {
        Err(NotServed::Status(14, text)) => assert!(!text.is_empty()),
        other => panic!("{other:?}"),
    }
    api.fail(Verb::Review, None);
    let _agent = join(&certificates, &server, &[&good]).await.unwrap();
    server.wait_for_tunnels(1).await;
    server.kill().await;
    panics::assert_none();
}
