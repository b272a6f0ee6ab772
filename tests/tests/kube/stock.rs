//! Konnectivity's agents, which present their token as metadata of their call.

use std::time::Duration;

use tunnel_kube_fake::{Holder, Verb, token};
use tunnel_tests::stock::{Metadata, NotServed, StockAgent, alpn};
use tunnel_tests::{Server, Who};

use crate::World;
use crate::tokens::{AUDIENCE, HOUR, good, holder};

/// Status codes of gRPC.
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

impl World {
    /// Comes as an agent with these values of `authorization`.
    async fn stock_agent(&self, server: &Server, values: &[&str]) -> Result<StockAgent, NotServed> {
        let metadata = Metadata::of("stock");
        let metadata = values.iter().fold(metadata, |metadata, value| metadata.and("authorization", value));
        let tls = alpn(&self.pki, Who::Agent, &["h2"]);
        Box::pin(StockAgent::connect(server.agents, tls, metadata)).await
    }

    async fn refused(&self, server: &Server, values: &[&str]) -> (u16, String) {
        match self.stock_agent(server, values).await {
            Err(NotServed::Status(status, text)) => (status, text),
            other => panic!("{values:?}: {other:?} instead of a status"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b21_agents_are_admitted_by_their_token_and_by_nothing_else() {
    let world = World::new().await;
    let server = world.server(&[("kubeconfig-qps", "1000"), ("kubeconfig-burst", "1000")]);
    let bearer = |token: &str| format!("Bearer {token}");
    world.api.know(&good("1"), holder());
    let of = |username: &str| Holder { username: username.to_owned(), ..holder() };
    world.api.know(&good("namespace"), of("system:serviceaccount:default:konnectivity-agent"));
    world.api.know(&good("account"), of("system:serviceaccount:kube-system:coredns"));
    let elsewhere = token("elsewhere", "vault", HOUR);
    world.api.know(&elsewhere, Holder { audiences: vec!["vault".to_owned()], ..holder() });

    let cases: &[(&[&str], &str)] = &[
        (&[], "--service-account-token-path"),
        (&[""], "Bearer"),
        (&[&good("1")], "Bearer"),
        (&["bearer x"], "Bearer"),
        (&["Bearer "], "--service-account-token-path"),
        (&[&bearer(&good("1")), &bearer(&good("1"))], "2 values"),
        (&[&bearer("nothing of the kind")], "no service-account token"),
        (&[&bearer(&good("nobody's"))], "invalid bearer token"),
        (&[&bearer(&elsewhere)], AUDIENCE),
        (&[&bearer(&good("namespace"))], "system:serviceaccount:default:konnectivity-agent"),
        (&[&bearer(&good("account"))], "system:serviceaccount:kube-system:coredns"),
    ];
    for (values, text) in cases {
        let (status, told) = world.refused(&server, values).await;
        assert_eq!(status, UNAUTHENTICATED, "{values:?}: {told}");
        assert!(told.contains(text), "{values:?}: {told}");
    }
    world.api.fail(Verb::Review, Some((500, "InternalError")));
    let (status, told) = world.refused(&server, &[&bearer(&good("2"))]).await;
    assert_eq!(status, UNAVAILABLE, "{told}");
    assert!(told.contains("500 InternalError"), "{told}");
    assert_eq!(server.metrics().await.sum("tunnel_server_tunnels", &[]), 0);
    world.api.fail(Verb::Review, None);

    let agent = world.stock_agent(&server, &[&bearer(&good("1"))]).await.unwrap();
    assert_eq!(agent.server_id, "server");
    server.wait_for_tunnels(1).await;
    drop(agent);
    server.wait_for_tunnels(0).await;
    server.drain();
    server.ended(Duration::from_secs(10)).await;
    tunnel_tests::panics::assert_none();
}
