//! Command lines of agents in the wild. Each becomes a configuration with the same meaning.
//! Only the files that they name are replaced.

use std::path::Path;

use clap::Parser as _;

use super::*;
use crate::cli::Cli;

/// Flags whose files are read, and the names of the replacements.
const FILES: [(&str, &str); 5] = [
    ("--ca-cert", "ca.crt"),
    ("--agent-cert", "agent.crt"),
    ("--agent-key", "agent.key"),
    ("--service-account-token-path", "token"),
    ("--kubeconfig", "kubeconfig"),
];

/// kubernetes.io, "Set up Konnectivity service", for kubeadm.
const KUBEADM: &str = "--logtostderr=true --ca-cert=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt \
    --proxy-server-host=35.225.206.7 --proxy-server-port=8132 --admin-server-port=8133 \
    --health-server-port=8134 \
    --service-account-token-path=/var/run/secrets/tokens/konnectivity-agent-token";

/// Konnectivity's examples/kind-multinode, the variable not expanded.
const KIND: &str = "--logtostderr=true --ca-cert=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt \
    --proxy-server-host=konnectivity-server.kube-system.svc.cluster.local --proxy-server-port=8091 \
    --sync-interval=5s --sync-interval-cap=30s --sync-forever --probe-interval=5s \
    --service-account-token-path=/var/run/secrets/tokens/konnectivity-agent-token \
    --agent-identifiers=ipv4=${HOST_IP} --count-server-leases";

const K0S: &str = "--logtostderr=true --ca-cert=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt \
    --proxy-server-host=10.0.0.5 --proxy-server-port=8132 \
    --service-account-token-path=/var/run/secrets/tokens/konnectivity-agent-token \
    --agent-identifiers=host=10.0.0.9 --agent-id=10.0.0.9";

const KAMAJI: &str = "--admin-server-port=8133 --ca-cert=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt \
    --health-server-port=8134 --logtostderr=true --proxy-server-host=172.18.255.100 \
    --proxy-server-port=8132 \
    --service-account-token-path=/var/run/secrets/tokens/konnectivity-agent-token -v=8";

const HYPERSHIFT_WORKER: &str = "--logtostderr=true --ca-cert /etc/konnectivity/ca/ca.crt \
    --agent-cert /etc/konnectivity/agent/tls.crt --agent-key /etc/konnectivity/agent/tls.key \
    --proxy-server-host konnectivity-hcp.apps.example.com --proxy-server-port 443 \
    --health-server-port 19102 --agent-identifiers=default-route=true --keepalive-time 30s \
    --probe-interval 5s --sync-interval 5s --sync-interval-cap 30s --sync-forever --v 3";

const HYPERSHIFT_CONTROL_PLANE: &str = "--logtostderr=true --ca-cert /etc/konnectivity/ca/ca.crt \
    --agent-cert /etc/konnectivity/agent/tls.crt --agent-key /etc/konnectivity/agent/tls.key \
    --proxy-server-host konnectivity-server --proxy-server-port 8091 --health-server-port 2041 \
    --agent-identifiers ipv4=172.30.1.1&ipv4=172.30.1.2 --keepalive-time 30s --probe-interval 30s \
    --sync-interval 1m --sync-interval-cap 5m --v 3";

const KKP: &str = "--logtostderr=true -v=3 --sync-forever=true \
    --ca-cert=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt \
    --proxy-server-host=konnectivity-server.example.com --proxy-server-port=6443 \
    --admin-server-port=8133 --health-server-port=8134 \
    --service-account-token-path=/var/run/secrets/tokens/konnectivity-agent-token \
    --keepalive-time=1m --xfr-channel-size=150";

/// Every flag with its default, as Konnectivity's tests pass them to an external agent.
const EVERY_FLAG: &str = "--admin-bind-address=127.0.0.1 --admin-server-port=38094 --agent-cert=c \
    --agent-id=a --agent-identifiers= --agent-key=k --alpn-proto=[] --ca-cert=ca \
    --count-server-leases=false --enable-contention-profiling=false --enable-profiling=false \
    --health-server-host=localhost --health-server-port=60123 --keepalive-time=1h0m0s \
    --kube-api-content-type=application/vnd.kubernetes.protobuf --kubeconfig= \
    --lease-label=k8s-app=konnectivity-server --lease-label-selector=k8s-app=konnectivity-server \
    --lease-namespace=kube-system --probe-interval=100ms --proxy-server-host=127.0.0.1 \
    --proxy-server-port=51234 --server-count-source=default --service-account-token-path= \
    --sync-forever=false --sync-interval=100ms --sync-interval-cap=1s \
    --warn-on-channel-limit=false --xfr-channel-size=150";

fn files(dir: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    for (name, text) in [
        ("ca.crt", certificate.as_str()),
        ("agent.crt", &certificate),
        ("agent.key", &key.serialize_pem()),
        ("token", "eyJ"),
        ("kubeconfig", "{}"),
    ] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

/// The words of a command line, the files' paths replaced.
fn words(line: &str, dir: &Path) -> Vec<String> {
    let mut words = vec!["proxy-agent".to_owned()];
    let mut replace_next = None;
    for word in line.split_whitespace() {
        let path = |name: &str| dir.join(name).display().to_string();
        if let Some(name) = replace_next.take() {
            words.push(path(name));
            continue;
        }
        let (flag, value) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        match (FILES.iter().find(|(known, _)| *known == flag), value) {
            (Some((_, name)), Some(value)) if !value.is_empty() => {
                words.push(format!("{flag}={}", path(name)));
            }
            (Some((_, name)), None) => {
                replace_next = Some(*name);
                words.push(word.to_owned());
            }
            (Some(_) | None, _) => words.push(word.to_owned()),
        }
    }
    words
}

fn config(line: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    files(dir.path());
    let cli = Cli::try_parse_from(words(line, dir.path())).unwrap_or_else(|error| panic!("{line}: {error}"));
    Config::try_from(cli).unwrap_or_else(|error| panic!("{line}: {error:#}"))
}

fn seconds(interval: u64, cap: u64, forever: bool) -> Sync {
    let [interval, cap] = [interval, cap].map(Duration::from_secs);
    Sync { interval, cap, forever, unhealthy_after: None }
}

#[test]
fn kubeadm() {
    let config = config(KUBEADM);
    assert_eq!(config.servers[0].to_string(), "35.225.206.7:8132");
    assert_eq!((config.admin.port, config.health), (8133, Bind { ip: None, port: 8134 }));
    assert!(config.token_path.unwrap().ends_with("token"));
    assert_eq!(config.sync, seconds(1, 10, false));
    assert_eq!((config.leases, config.count_source), (None, CountSource::Default));
}

#[test]
fn konnectivitys_own_example() {
    let config = config(KIND);
    assert_eq!(config.sync, seconds(5, 30, true));
    // It reaches the server unchanged, and no target matches it.
    assert_eq!(config.identifiers, "ipv4=${HOST_IP}");
    let leases = config.leases.unwrap();
    assert_eq!((leases.namespace.as_str(), leases.kubeconfig), ("kube-system", None));
    assert_eq!(leases.selector, "k8s-app=konnectivity-server");
}

#[test]
fn k0s() {
    let config = config(K0S);
    assert_eq!((config.agent_id.as_str(), config.identifiers.as_str()), ("10.0.0.9", "host=10.0.0.9"));
    assert_eq!((config.health.port, config.admin.port), (8093, 8094));
}

#[test]
fn kamaji() {
    let config = config(KAMAJI);
    assert_eq!(config.servers[0].to_string(), "172.18.255.100:8132");
    assert!(uuid::Uuid::parse_str(&config.agent_id).is_ok(), "{}", config.agent_id);
}

#[test]
fn hypershift() {
    let worker = config(HYPERSHIFT_WORKER);
    assert_eq!(worker.servers[0].to_string(), "konnectivity-hcp.apps.example.com:443");
    assert_eq!(worker.identifiers, "default-route=true");
    assert_eq!(worker.sync, seconds(5, 30, true));
    assert_eq!(worker.token_path, None);
    let control_plane = config(HYPERSHIFT_CONTROL_PLANE);
    assert_eq!(control_plane.identifiers, "ipv4=172.30.1.1&ipv4=172.30.1.2");
    assert_eq!(control_plane.sync, seconds(60, 300, false));
}

#[test]
fn kkp() {
    let config = config(KKP);
    assert_eq!(config.sync, seconds(1, 10, true));
}

#[test]
fn every_flag_of_konnectivitys_tests() {
    let config = config(EVERY_FLAG);
    assert_eq!(config.servers[0].to_string(), "127.0.0.1:51234");
    assert!(config.alpn.is_empty() && config.token_path.is_none() && !config.profiling);
    assert!(config.health.ip.unwrap().is_loopback());
    let millis = Duration::from_millis;
    assert_eq!((config.sync.interval, config.sync.cap), (millis(100), millis(1000)));
}

#[test]
fn the_last_of_two_values_counts_and_lists_grow() {
    let config = config(&format!(
        "{KUBEADM} --proxy-server-port=9000 --proxy-server-port=9001 --alpn-proto=a,b --alpn-proto=c \
         --server-count-source= --count-server-leases --lease-label=a=b --lease-label-selector=!c"
    ));
    assert_eq!(config.servers[0].port, 9001);
    assert_eq!(config.alpn, ["a", "b", "c"]);
    assert_eq!(config.leases.unwrap().selector, "!c");
}
