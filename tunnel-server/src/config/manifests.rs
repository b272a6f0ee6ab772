//! Command lines of servers as manifests have them. Each has to become a configuration that
//! means the same. Only the files they name are replaced.

use std::path::Path;

use clap::Parser as _;
use tunnel_program::args::Sink;

use super::*;
use crate::cli::Cli;

/// Flags that name files, and the files that replace them.
const FILES: [(&str, &str); 7] = [
    ("--server-cert", "cert"),
    ("--server-key", "key"),
    ("--server-ca-cert", "cert"),
    ("--cluster-cert", "cert"),
    ("--cluster-key", "key"),
    ("--cluster-ca-cert", "cert"),
    ("--kubeconfig", "kubeconfig"),
];

/// kubernetes.io, "Set up Konnectivity service", for kubeadm.
const KUBEADM: &str = "--logtostderr=true \
    --uds-name=/etc/kubernetes/konnectivity-server/konnectivity-server.socket \
    --cluster-cert=/etc/kubernetes/pki/apiserver.crt --cluster-key=/etc/kubernetes/pki/apiserver.key \
    --mode=grpc --server-port=0 --agent-port=8132 --admin-port=8133 --health-port=8134 \
    --agent-namespace=kube-system --agent-service-account=konnectivity-agent \
    --kubeconfig=/etc/kubernetes/konnectivity-server.conf \
    --authentication-audience=system:konnectivity-server";

/// Konnectivity's examples/kind-multinode.
const KIND: &str = "--log-file=/var/log/konnectivity-server.log --logtostderr=true --log-file-max-size=0 \
    --uds-name=/etc/kubernetes/konnectivity-server/konnectivity-server.socket --delete-existing-uds-file \
    --cluster-cert=/etc/kubernetes/pki/apiserver.crt --cluster-key=/etc/kubernetes/pki/apiserver.key \
    --server-port=0 --agent-port=8091 --health-port=8092 --admin-port=8093 --keepalive-time=1h \
    --mode=grpc --agent-namespace=kube-system --agent-service-account=konnectivity-agent \
    --kubeconfig=/etc/kubernetes/admin.conf --authentication-audience=system:konnectivity-server \
    --enable-lease-controller";

/// Its examples/kubernetes.
const KUBERNETES: &str = "--log-file=/var/log/konnectivity-server.log --logtostderr=false \
    --log-file-max-size=0 --uds-name=/etc/srv/kubernetes/konnectivity-server/konnectivity-server.socket \
    --cluster-cert=/etc/srv/kubernetes/pki/apiserver.crt \
    --cluster-key=/etc/srv/kubernetes/pki/apiserver.key --server-port=0 --agent-port=8091 \
    --health-port=8092 --admin-port=8093 --keepalive-time=1h --mode=http-connect \
    --agent-namespace=kube-system --agent-service-account=konnectivity-agent \
    --kubeconfig=/etc/srv/kubernetes/konnectivity-server/kubeconfig \
    --authentication-audience=system:konnectivity-server";

/// Kubernetes' own cluster/gce, HTTP CONNECT with mutual TLS.
const GCE: &str = "--log-file=/var/log/konnectivity-server.log --logtostderr=false --log-file-max-size=0 \
    --server-ca-cert=/etc/srv/kubernetes/pki/konnectivity-server/ca.crt \
    --server-cert=/etc/srv/kubernetes/pki/konnectivity-server/server.crt \
    --server-key=/etc/srv/kubernetes/pki/konnectivity-server/server.key \
    --cluster-ca-cert=/etc/srv/kubernetes/pki/konnectivity-agent/ca.crt \
    --cluster-cert=/etc/srv/kubernetes/pki/apiserver.crt \
    --cluster-key=/etc/srv/kubernetes/pki/apiserver.key --mode=http-connect --server-port=8131 \
    --agent-namespace= --agent-service-account= --authentication-audience= --kubeconfig= \
    --proxy-strategies=destHost,default --agent-port=8132 --health-port=8133 --admin-port=8134 \
    --kubeconfig-qps=75 --kubeconfig-burst=150 --keepalive-time=60s --frontend-keepalive-time=60s";

const K0S: &str = "--uds-name=/run/k0s/konnectivity-server/konnectivity-server.sock \
    --cluster-cert=/var/lib/k0s/pki/server.crt --cluster-key=/var/lib/k0s/pki/server.key \
    --kubeconfig=/var/lib/k0s/pki/konnectivity.conf --mode=grpc --server-port=0 --agent-port=8132 \
    --admin-port=8133 --health-bind-address=localhost --health-port=8092 --agent-namespace=kube-system \
    --agent-service-account=konnectivity-agent --authentication-audience=system:konnectivity-server \
    --logtostderr=true --stderrthreshold=1 --v=1 --enable-profiling=false \
    --delete-existing-uds-file=true --server-count=3 --server-id=5f2c77d1c0d34b5e8d1e2f5a9c6b7a80 \
    --graceful-shutdown-timeout=1ns --proxy-strategies=destHost,defaultRoute,default \
    --cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,\
TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,\
TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";

const KAMAJI: &str = "--admin-port=8133 --agent-namespace=kube-system --agent-port=8132 \
    --agent-service-account=konnectivity-agent --authentication-audience=system:konnectivity-server \
    --cluster-cert=/etc/kubernetes/pki/apiserver.crt --cluster-key=/etc/kubernetes/pki/apiserver.key \
    --health-port=8134 --kubeconfig=/etc/kubernetes/konnectivity-server.conf --mode=grpc \
    --server-count=2 --server-port=0 --uds-name=/run/konnectivity/konnectivity-server.socket";

/// Before July 2026: no flag says who an agent is.
const HYPERSHIFT_OPEN: &str = "--logtostderr=true --log-file-max-size=0 \
    --cluster-cert /etc/konnectivity/cluster/tls.crt --cluster-key /etc/konnectivity/cluster/tls.key \
    --server-cert /etc/konnectivity/server/tls.crt --server-key /etc/konnectivity/server/tls.key \
    --server-ca-cert /etc/konnectivity/ca/ca.crt --server-port 8090 --agent-port 8091 \
    --health-port 2041 --admin-port=8093 --mode=http-connect --proxy-strategies=destHost,defaultRoute \
    --keepalive-time 30s --frontend-keepalive-time 30s --server-count 3 \
    --cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256";

const KKP: &str = "--logtostderr=true -v=3 --cluster-key=/etc/kubernetes/pki/konnectivity-proxy-tls.key \
    --cluster-cert=/etc/kubernetes/pki/konnectivity-proxy-tls.crt \
    --uds-name=/etc/kubernetes/konnectivity-server/konnectivity-server.socket \
    --kubeconfig=/etc/kubernetes/kubeconfig/konnectivity-server.conf --server-count=2 --mode=grpc \
    --server-port=0 --agent-port=8132 --admin-port=8133 --health-port=8134 \
    --agent-namespace=kube-system --agent-service-account=konnectivity-agent \
    --delete-existing-uds-file=true --authentication-audience=system:konnectivity-server \
    --proxy-strategies=default --keepalive-time=1m --xfr-channel-size=10";

/// Every flag with its default, as Go's flag library prints them, in TCP mode.
const EVERY_FLAG: &str = "--admin-bind-address=127.0.0.1 --admin-port=8095 --agent-bind-address= \
    --agent-namespace= --agent-port=8091 --agent-service-account= --authentication-audience= \
    --backend-dial-timeout=0s --cipher-suites=[] --cluster-ca-cert=ca --cluster-cert=c --cluster-key=k \
    --delete-existing-uds-file=true --enable-contention-profiling=false --enable-lease-controller=false \
    --enable-profiling=false --frontend-keepalive-time=1h0m0s --graceful-shutdown-timeout=0s \
    --health-bind-address= --health-port=8092 --keepalive-time=1h0m0s \
    --kube-api-content-type=application/vnd.kubernetes.protobuf --kubeconfig= --kubeconfig-burst=0 \
    --kubeconfig-qps=0 --lease-label=k8s-app=konnectivity-server --lease-namespace=kube-system \
    --mode=grpc --proxy-strategies=default --server-bind-address= --server-ca-cert=ca --server-cert=c \
    --server-count=1 --server-id=one --server-key=k --server-port=8090 --tls-min-version= --uds-name= \
    --warn-on-channel-limit=true --xfr-channel-size=10 --add-dir-header=false --alsologtostderr=false \
    --alsologtostderrthreshold=0 --legacy-stderr-threshold-behavior=true --log-backtrace-at=:0 \
    --log-dir= --log-file= --log-file-max-size=1800 --logtostderr=true --one-output=false \
    --skip-headers=false --skip-log-headers=false --stderrthreshold=2 --v=4 --vmodule=";

/// The words of a command line, the files' paths replaced.
fn words(line: &str, dir: &Path) -> Vec<String> {
    let mut words = vec!["proxy-server".to_owned()];
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

/// The configuration and the log of a command line, or its refusal.
fn read(line: &str) -> Result<(Config, Sink), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    files(dir.path());
    let cli = Cli::try_parse_from(words(line, dir.path())).map_err(|error| error.to_string())?;
    let sink = cli.log.sink();
    let config = Config::try_from(cli).map_err(|error| format!("{error:#}"))?;
    Ok((config, sink))
}

/// A certificate, which is its own authority, its key, and a kubeconfig.
pub(super) fn files(dir: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    std::fs::write(dir.join("cert"), certificate).unwrap();
    std::fs::write(dir.join("key"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join("kubeconfig"), "{}").unwrap();
}

fn config(line: &str) -> Config {
    read(line).unwrap_or_else(|error| panic!("{line}: {error}")).0
}

/// Asserts the settings that all command lines after kubernetes.io's have in common.
fn is_the_usual(config: &Config) {
    let tokens = config.tokens.as_ref().unwrap();
    assert_eq!(tokens.namespace, "kube-system");
    assert_eq!(tokens.service_account, "konnectivity-agent");
    assert_eq!(tokens.audience, "system:konnectivity-server");
    assert!(config.kube.kubeconfig.as_ref().unwrap().ends_with("kubeconfig"));
    assert!(config.unix.is_some() && config.tcp.is_none());
}

#[test]
fn kubeadm() {
    let config = config(KUBEADM);
    is_the_usual(&config);
    let socket = PathBuf::from("/etc/kubernetes/konnectivity-server/konnectivity-server.socket");
    assert_eq!(config.unix, Some(Place::shared(socket)));
    assert_eq!((config.agents.port, config.admin.port, config.health.port), (8132, 8133, 8134));
    assert_eq!((config.mode, config.server_count), (Some(Mode::Grpc), 1));
    assert_eq!(config.strategies, [Strategy::Default]);
    assert_eq!(config.kube.rate(), Some((5.0, 10)));
    assert_eq!(config.leases, None);
}

#[test]
fn konnectivitys_own_examples() {
    let (kind, sink) = read(KIND).unwrap();
    is_the_usual(&kind);
    // The flag for the file has no effect beside --logtostderr.
    assert_eq!(sink, Sink::Stderr);
    let leases = kind.leases.unwrap();
    assert_eq!(leases.namespace, "kube-system");
    assert_eq!(leases.labels, [("k8s-app".to_owned(), "konnectivity-server".to_owned())]);

    let (kubernetes, sink) = read(KUBERNETES).unwrap();
    is_the_usual(&kubernetes);
    assert_eq!(kubernetes.mode, Some(Mode::HttpConnect));
    assert!(
        matches!(&sink, Sink::File { path, limit: None, .. } if path.ends_with("konnectivity-server.log")),
        "{sink:?}"
    );
}

#[test]
fn gce() {
    let config = config(GCE);
    assert_eq!((config.tcp.map(|(bind, _)| bind), config.unix), (Some(Bind { ip: None, port: 8131 }), None));
    assert_eq!(config.kube.rate(), Some((75.0, 150)));
    assert_eq!((config.tokens, config.kube.kubeconfig), (None, None));
    assert_eq!(config.strategies, [Strategy::DestHost, Strategy::Default]);
}

#[test]
fn k0s() {
    let config = config(K0S);
    is_the_usual(&config);
    assert!(config.health.ip.unwrap().is_loopback() && config.health.port == 8092);
    assert_eq!((config.server_count, config.grace), (3, Duration::from_nanos(1)));
    assert_eq!(config.strategies, [Strategy::DestHost, Strategy::DefaultRoute, Strategy::Default]);
    assert_eq!(config.server_id, "5f2c77d1c0d34b5e8d1e2f5a9c6b7a80");
    assert!(!config.profiling);
}

#[test]
fn kamaji() {
    let config = config(KAMAJI);
    is_the_usual(&config);
    assert_eq!((config.server_count, config.agents.port), (2, 8132));
}

#[test]
fn hypershift() {
    // The only manifest that is refused: it does not authenticate agents. The refusal names
    // the flags that do.
    let refusal = read(HYPERSHIFT_OPEN).unwrap_err();
    for flag in ["--cluster-ca-cert", "--agent-service-account", "--insecure-allow-anonymous-agents"] {
        assert!(refusal.contains(flag), "{refusal}");
    }
    let closed = "--cluster-ca-cert /etc/konnectivity/ca/ca.crt --tls-min-version=VersionTLS12";
    let config = config(&format!("{HYPERSHIFT_OPEN} {closed}"));
    assert_eq!(
        (config.tcp.map(|(bind, _)| bind), config.mode),
        (Some(Bind { ip: None, port: 8090 }), Some(Mode::HttpConnect))
    );
    assert_eq!((config.health.port, config.admin.port, config.server_count), (2041, 8093, 3));
    assert_eq!(config.strategies, [Strategy::DestHost, Strategy::DefaultRoute]);
    let open = read(&format!("{HYPERSHIFT_OPEN} --insecure-allow-anonymous-agents")).unwrap().0;
    assert!(open.tokens.is_none());
}

#[test]
fn kkp() {
    let config = config(KKP);
    is_the_usual(&config);
    assert_eq!(config.server_count, 2);
}

#[test]
fn every_flag_with_its_default() {
    let given = config(EVERY_FLAG);
    let usual = "--cluster-ca-cert=ca --cluster-cert=c --cluster-key=k --server-ca-cert=ca --server-cert=c \
                 --server-key=k";
    let default = config(usual);
    assert_eq!(given.tcp.map(|(bind, _)| bind), default.tcp.map(|(bind, _)| bind));
    assert_eq!((given.agents, given.admin, given.health), (default.agents, default.admin, default.health));
    assert_eq!((given.strategies, given.kube), (default.strategies, default.kube));
    assert_eq!(given.server_count, default.server_count);
    assert_eq!((given.leases, given.tokens, given.profiling), (None, None, false));
    // 0 is "no limit" in Konnectivity; here every wait has a limit.
    assert_eq!(given.dial_limit, LONGEST_DIAL);
    assert_eq!((given.grace, default.grace), (Duration::ZERO, Duration::from_secs(20)));
}

#[test]
fn certificates_and_tokens_may_both_be_asked_for() {
    let config = config(&format!("{KUBEADM} --cluster-ca-cert=/etc/kubernetes/pki/ca.crt"));
    is_the_usual(&config);
}
