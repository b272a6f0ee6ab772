//! Agents that present service-account tokens.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::Parser as _;
use tunnel::drain::Drain;
use tunnel::messages::{control_messages, greeting};
use tunnel::transport::Link;
use tunnel_kube_fake::{Holder, Verb, token};
use tunnel_proto::message::{Control, Hello, Rejection, RejectionKind, encode_control};
use tunnel_server::app::App;
use tunnel_server::config::Config;
use tunnel_tests::{
    Agent, AgentSpec, Canary, Frontend, LINKS, Server, ServerSpec, Target, Who, hello, open_tunnel,
    open_tunnel_from, wait_for, within,
};

use crate::World;

pub(crate) const AUDIENCE: &str = "system:konnectivity-server";
const AGENT: &str = "system:serviceaccount:kube-system:konnectivity-agent";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn good(id: &str) -> String {
    token(id, AUDIENCE, HOUR)
}

pub(crate) fn holder() -> Holder {
    Holder { username: AGENT.to_owned(), audiences: vec![AUDIENCE.to_owned()], ..Holder::default() }
}

impl World {
    /// A server that admits agents by their token, without certificates.
    pub(crate) fn server(&self, flags: &[(&str, &str)]) -> Server {
        let kubeconfig = self.shown("kubeconfig");
        let spec = ServerSpec::new("server")
            .flag("cluster-ca-cert", "")
            .flag("agent-namespace", "kube-system")
            .flag("agent-service-account", "konnectivity-agent")
            .flag("authentication-audience", AUDIENCE)
            .flag("kubeconfig", &kubeconfig);
        let spec = flags.iter().fold(spec, |spec, (name, value)| spec.flag(name, value));
        Server::start(self.dir.path(), &self.pki, &spec).unwrap()
    }

    /// An agent with a token file and no certificate.
    fn agent(&self, server: &Server, link: Link, token: &str) -> Agent {
        std::fs::write(self.dir.path().join("token"), format!("{token}\n")).unwrap();
        let spec = AgentSpec::new("agent", link, Ipv4Addr::LOCALHOST)
            .flag("agent-cert", "")
            .flag("agent-key", "")
            .flag("service-account-token-path", &self.shown("token"));
        Agent::start(&self.pki, &[server.agents], &spec)
    }

    /// The server's rejection of an agent with this token.
    async fn rejection(&self, server: &Server, link: Link, token: &str) -> Rejection {
        let drain = Drain::new();
        let opened = open_tunnel(server.agents, link, self.pki.agent(Who::Agent), &drain);
        let (_tunnel, control) = within("a tunnel", opened).await.unwrap();
        let mut messages = control_messages(control);
        let hello = Hello { token: token.to_owned(), ..hello("agent", "") };
        messages.send(encode_control(Control::Hello(hello)).unwrap()).await.unwrap();
        let answer = within("a rejection", greeting(&mut messages)).await.unwrap();
        messages.finish().await.unwrap();
        drain.kill();
        let Control::Rejection(rejection) = answer else { panic!("{answer:?} instead of a rejection") };
        rejection
    }
}

/// Waits until so many agents were rejected for this reason.
async fn rejected(server: &Server, reason: &str, wanted: i64) {
    let label = format!("reason=\"{reason}\"");
    wait_for(&format!("{wanted} rejections for {reason}"), async || {
        let metrics = server.metrics().await;
        let seen = metrics.sum("tunnel_server_rejected_agents_total", &[&label]);
        if seen >= wanted { Ok(()) } else { Err(metrics.show("tunnel_server_rejected")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_a_good_token_needs_no_certificate() {
    for link in LINKS {
        let world = World::new().await;
        world.api.know(&good("1"), holder());
        let server = world.server(&[]);
        let agent = world.agent(&server, link, &good("1"));
        server.wait_for_tunnels(1).await;
        let target = Target::echo(Ipv4Addr::LOCALHOST).await;
        let connection = server.connect(Frontend::ConnectUnix, target.addr).await;
        let canary = Canary::new("behind a token".to_owned(), connection);
        canary.sings_since(canary.round()).await;
        drop(canary);
        assert_eq!(world.api.asked(Verb::Review), 1);
        let metrics = server.metrics().await;
        assert_eq!(metrics.sum("tunnel_server_token_reviews_total", &["outcome=\"good\""]), 1);
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rejection_tells_the_agent_why() {
    let world = World::new().await;
    let server = world.server(&[("kubeconfig-qps", "1000"), ("kubeconfig-burst", "1000")]);
    let elsewhere = token("elsewhere", "vault", HOUR);
    world.api.know(&elsewhere, Holder { audiences: vec!["vault".to_owned()], ..holder() });
    let foreign = |username: &str| Holder { username: username.to_owned(), ..holder() };
    world.api.know(&good("namespace"), foreign("system:serviceaccount:default:konnectivity-agent"));
    world.api.know(&good("account"), foreign("system:serviceaccount:kube-system:coredns"));
    let cases = [
        (String::new(), "token_missing", "--service-account-token-path"),
        ("not a token".to_owned(), "token_malformed", "no service-account token"),
        (format!("{}.a.b", "x".repeat(17_000)), "token_oversized", "17004 bytes"),
        (good("nobody's"), "token_unauthenticated", "invalid bearer token"),
        (elsewhere, "token_wrong_audience", "\"vault\""),
        (good("namespace"), "token_wrong_account", "system:serviceaccount:default:konnectivity-agent"),
        (good("account"), "token_wrong_account", "system:serviceaccount:kube-system:coredns"),
    ];
    for link in LINKS {
        let mut of_account = 0;
        for (token, label, text) in &cases {
            let rejection = world.rejection(&server, link, token).await;
            assert_eq!(RejectionKind::from_code(rejection.code), RejectionKind::Unauthenticated);
            assert!(rejection.text.contains(text), "{}", rejection.text);
            of_account += i64::from(*label == "token_wrong_account");
            let labels = [format!("link=\"{}\"", link.label()), format!("reason=\"{label}\"")];
            let metrics = server.metrics().await;
            let seen = metrics.sum("tunnel_server_rejected_agents_total", &[&labels[0], &labels[1]]);
            assert_eq!(seen, if *label == "token_wrong_account" { of_account } else { 1 }, "{label}");
        }
    }
    assert_eq!(server.metrics().await.sum("tunnel_server_tunnels", &[]), 0);
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

/// A kubelet replaces the file long before the token expires.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reads_its_token_anew_for_every_tunnel() {
    let world = World::new().await;
    world.api.know(&good("new"), holder());
    let server = world.server(&[]);
    let agent = world.agent(&server, Link::Quic, &good("old"));
    rejected(&server, "token_unauthenticated", 2).await;
    std::fs::write(world.dir.path().join("token"), good("new")).unwrap();
    server.wait_for_tunnels(1).await;
    agent.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_admitted_while_tokens_cannot_be_reviewed() {
    let mut world = World::new().await;
    world.api.know(&good("1"), holder());
    world.api.fail(Verb::Review, Some((403, "Forbidden")));
    let server = world.server(&[("kubeconfig-qps", "1000"), ("kubeconfig-burst", "1000")]);
    let rejection = world.rejection(&server, Link::H2, &good("1")).await;
    assert_eq!(RejectionKind::from_code(rejection.code), RejectionKind::Unavailable);
    assert!(rejection.text.contains("403 Forbidden"), "{}", rejection.text);

    let agent = world.agent(&server, Link::H2, &good("1"));
    rejected(&server, "review_failed", 2).await;
    world.api.fail(Verb::Review, None);
    server.wait_for_tunnels(1).await;
    agent.kill().await;

    world.end_api();
    let rejection = world.rejection(&server, Link::H2, &good("2")).await;
    assert_eq!(RejectionKind::from_code(rejection.code), RejectionKind::Unavailable);
    assert!(rejection.text.contains("cannot be reached"), "{}", rejection.text);
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

/// The API is asked about so many agents of one source at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_tokens_of_one_source_do_not_keep_an_agent_of_another_one_out() {
    const FORGED: usize = 20;
    const AT_A_TIME: usize = 8;
    let world = World::new().await;
    world.api.know(&good("1"), holder());
    let server = world.server(&[]);
    world.api.hold(true);
    let (drain, mut forgers) = (Drain::new(), Vec::new());
    for number in 0..FORGED {
        let tls = world.pki.agent(Who::Agent);
        let opened = open_tunnel_from([127, 0, 0, 9].into(), server.agents, Link::H2, tls, &drain);
        let (tunnel, control) = within("a tunnel", opened).await.unwrap();
        let mut messages = control_messages(control);
        let hello = Hello { token: good(&format!("forged {number}")), ..hello("forger", "") };
        messages.send(encode_control(Control::Hello(hello)).unwrap()).await.unwrap();
        forgers.push((tunnel, messages));
    }
    rejected(&server, "reviews_busy", i64::try_from(FORGED - AT_A_TIME).unwrap()).await;
    let agent = world.agent(&server, Link::H2, &good("1"));
    wait_for("the agent's review", async || match world.api.asked(Verb::Review) {
        asked if asked > AT_A_TIME => Ok(()),
        asked => Err(format!("{asked} reviews")),
    })
    .await;
    world.api.hold(false);
    server.wait_for_tunnels(1).await;
    let metrics = server.metrics().await;
    let busy = metrics.sum("tunnel_server_rejected_agents_total", &["reason=\"reviews_busy\""]);
    assert_eq!(busy, i64::try_from(FORGED - AT_A_TIME).unwrap());
    drain.kill();
    agent.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

/// Answers to a review without the verdict that was asked for.
const LIES: [&str; 5] = [
    "",
    "<html>back soon</html>",
    "{}",
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{},"status":{}}"#,
    r#"{"kind":"TokenReview","metadata":{},"spec":{},"status":{"authenticated":true,"user":{}}}"#,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_agents_stay_while_the_api_lies_or_is_late_and_a_new_one_comes_once_it_recovers() {
    let world = World::new().await;
    let server = world.server(&[("kubeconfig-qps", "1000"), ("kubeconfig-burst", "1000")]);
    for id in ["known", "new", "0", "1", "2", "3", "4"] {
        world.api.know(&good(id), holder());
    }
    let known = world.agent(&server, Link::Quic, &good("known"));
    server.wait_for_tunnels(1).await;
    let target = Target::echo(Ipv4Addr::LOCALHOST).await;
    let connection = server.connect(Frontend::ConnectUnix, target.addr).await;
    let canary = Canary::new("of the known agent".to_owned(), connection);
    for (number, lie) in LIES.into_iter().enumerate() {
        world.api.lie(Verb::Review, Some(lie));
        let rejection = world.rejection(&server, Link::H2, &good(&number.to_string())).await;
        let kind = RejectionKind::from_code(rejection.code);
        assert!(matches!(kind, RejectionKind::Unavailable | RejectionKind::Unauthenticated), "{rejection:?}");
        canary.sings_since(canary.round()).await;
    }
    world.api.lie(Verb::Review, None);
    world.api.hold(true);
    let asked = world.api.asked(Verb::Review);
    let new = {
        let file = world.shown("new");
        std::fs::write(&file, good("new")).unwrap();
        let spec =
            AgentSpec::new("new", Link::H2, Ipv4Addr::LOCALHOST).flag("service-account-token-path", &file);
        Agent::start(&world.pki, &[server.agents], &spec)
    };
    wait_for("a review", async || {
        if world.api.asked(Verb::Review) > asked { Ok(()) } else { Err("no review".to_owned()) }
    })
    .await;
    canary.sings_since(canary.round()).await;
    assert_eq!(server.metrics().await.sum("tunnel_server_tunnels", &[]), 1);
    world.api.hold(false);
    server.wait_for_tunnels(2).await;
    drop(canary);
    known.kill().await;
    new.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_both_are_asked_for_a_certificate_is_not_enough_and_a_token_neither() {
    let world = World::new().await;
    world.api.know(&good("1"), holder());
    let authority = world.shown("ca.crt");
    let server = world.server(&[("cluster-ca-cert", &authority)]);
    let rejection = world.rejection(&server, Link::H2, "").await;
    assert!(rejection.text.contains("--service-account-token-path"), "{}", rejection.text);
    let without_certificate = world.agent(&server, Link::H2, &good("1"));
    rejected(&server, "certificate_missing", 1).await;
    without_certificate.kill().await;
    let spec = AgentSpec::new("agent", Link::H2, Ipv4Addr::LOCALHOST)
        .flag("service-account-token-path", &world.shown("token"));
    let agent = Agent::start(&world.pki, &[server.agents], &spec);
    server.wait_for_tunnels(1).await;
    agent.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test]
async fn a_server_without_access_to_the_api_does_not_start() {
    let world = World::new().await;
    std::fs::write(world.kubeconfig(), "no: kubeconfig").unwrap();
    let flags = [
        ("uds-name", world.shown("socket")),
        ("cluster-cert", world.shown("server.crt")),
        ("cluster-key", world.shown("server.key")),
        ("agent-bind-address", "127.0.0.1".to_owned()),
        ("agent-port", "0".to_owned()),
        ("admin-port", "0".to_owned()),
        ("health-bind-address", "127.0.0.1".to_owned()),
        ("health-port", "0".to_owned()),
        ("agent-namespace", "kube-system".to_owned()),
        ("agent-service-account", "konnectivity-agent".to_owned()),
        ("authentication-audience", AUDIENCE.to_owned()),
        ("kubeconfig", world.shown("kubeconfig")),
    ];
    let flags = flags.iter().map(|(name, value)| format!("--{name}={value}"));
    let line = std::iter::once("tunnel-server".to_owned()).chain(flags);
    let cli = tunnel_server::cli::Cli::try_parse_from(line).unwrap();
    let app = App::bind(Config::try_from(cli).unwrap()).unwrap();
    let ended = within("the end of the server", Box::pin(app.run(std::future::pending()))).await;
    let failure = format!("{:#}", ended.unwrap_err());
    assert!(failure.contains("kubeconfig") && failure.contains("reviews"), "{failure}");
}
