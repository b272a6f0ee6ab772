//! Faults of a server's checks.

use Program::Server;

use super::failing::*;
use super::*;

pub(super) const OF_SERVER: &[Fixture] = &[
    (
        "T100",
        Server,
        |f| f.server = Err("nothing answers".to_owned()),
        Verdict::Fail,
        "nothing answers",
        "--admin-socket=/run/tunnel-server",
    ),
    (
        "T101",
        Server,
        |f| file(f, "name: cluster", "nAme: cluster"),
        Verdict::Fail,
        "does not start",
        "restart the kube-apiserver",
    ),
    (
        "T101",
        Server,
        |f| {
            file(f, "name: cluster", "nAme: cluster");
            pod(f, "v1.37.2", "v1.30.1");
        },
        Verdict::Warn,
        "another version",
        "correct",
    ),
    ("T101", Server, |f| f.egress = egress("- a"), Verdict::Fail, "no mapping", "doctor explain T101"),
    (
        "T102",
        Server,
        |f| file(f, "name: cluster", "name: etcd"),
        Verdict::Fail,
        "do not use the tunnel",
        "cluster",
    ),
    (
        "T103",
        Server,
        |f| pod(f, "--egress-selector-config-file", "--other"),
        Verdict::Fail,
        "no --egress",
        "--egress-selector-config-file=/etc",
    ),
    (
        "T103",
        Server,
        |f| pod(f, "mountPath: /etc/kubernetes/tunnel", "mountPath: /elsewhere"),
        Verdict::Fail,
        "does not mount",
        "mount the directory",
    ),
    (
        "T103",
        Server,
        |f| pod(f, "tunnel/egress.yaml", "tunnel/other.yaml"),
        Verdict::Fail,
        "other.yaml, and not",
        "change",
    ),
    (
        "T104",
        Server,
        |f| pod(f, "mountPath: /run/tunnel", "mountPath: /elsewhere"),
        Verdict::Fail,
        "cannot reach",
        "DirectoryOrCreate",
    ),
    (
        "T104",
        Server,
        |f| pod(f, "mountPath: /run/tunnel", "mountPath: /run/tunnel/server.socket"),
        Verdict::Fail,
        "itself",
        "the directory /run/tunnel",
    ),
    (
        "T105",
        Server,
        |f| {
            server(f).unix = "/other".to_owned();
            f.same_socket = Ok(false);
        },
        Verdict::Fail,
        "listens on /other",
        "--uds-name=/run",
    ),
    (
        "T105",
        Server,
        |f| server(f).mode = Some("http-connect".to_owned()),
        Verdict::Fail,
        "--mode=http-connect",
        "leave --mode out",
    ),
    ("T105", Server, |f| server(f).unix.clear(), Verdict::Fail, "the server has none", "--uds-name"),
    (
        "T106",
        Server,
        |f| f.dial.as_mut().unwrap().failure = Some("refused".to_owned()),
        Verdict::Fail,
        "does not answer a dial",
        "tunnel-server runs",
    ),
    (
        "T110",
        Server,
        |f| pod(f, "--kubelet-certificate-authority", "--other"),
        Verdict::Warn,
        "does not verify",
        "--kubelet-certificate-authority",
    ),
    (
        "T111",
        Server,
        |f| f.kubelets = Ok(vec![kubelet(Ok(404)), kubelet(Ok(403))]),
        Verdict::Fail,
        "forbids kube-apiserver-kubelet-client",
        "--user=kube-apiserver-kubelet-client",
    ),
    (
        "T111",
        Server,
        |f| f.kubelets = Ok(vec![kubelet(Ok(401))]),
        Verdict::Fail,
        "does not know",
        "clientCAFile",
    ),
    (
        "T111",
        Server,
        |f| f.kubelets = Ok(vec![kubelet(Err("No agent available"))]),
        Verdict::Fail,
        "No agent available",
        "probe 10.0.3.7:10250",
    ),
    (
        "T111",
        Server,
        |f| pod(f, "--kubelet-client-certificate", "--other"),
        Verdict::Fail,
        "Unauthorized",
        "--kubelet-client-certificate",
    ),
    (
        "T112",
        Server,
        |f| f.kubelets.as_mut().unwrap()[0].trusted = Err("of an unknown CA".to_owned()),
        Verdict::Fail,
        "unknown CA",
        "serverTLSBootstrap",
    ),
    (
        "T113",
        Server,
        |f| pod(f, "InternalIP,", ""),
        Verdict::Fail,
        "asks for Hostname",
        "InternalIP,ExternalIP,Hostname",
    ),
    (
        "T113",
        Server,
        |f| {
            pod(f, "InternalIP,", "");
            server(f).strategies.push("default".to_owned());
        },
        Verdict::Warn,
        "no agent serves a name",
        "host=$(NODE_NAME)",
    ),
    ("T201", Server, |f| fail(f, Way::Quic, unreachable()), Verdict::Warn, "QUIC fails", "UDP"),
    ("T202", Server, |f| fail(f, Way::Http2, unreachable()), Verdict::Warn, "HTTP/2 fails", "TCP"),
    (
        "T202",
        Server,
        |f| Way::BOTH.map(|link| fail(f, link, unreachable())).into_iter().collect(),
        Verdict::Fail,
        "timed out",
        "TCP",
    ),
    (
        "T203",
        Server,
        |f| f.buffer.as_mut().unwrap().given = 208 << 10,
        Verdict::Warn,
        "208 KiB of 4096 KiB",
        "rmem_max=4194304",
    ),
    ("T204", Server, |f| f.interfaces = Ok(1200), Verdict::Fail, "1200 bytes", "--transport=h2"),
    (
        "T204",
        Server,
        |f| server(f).connected[0].datagram.as_mut().unwrap().now = 1200,
        Verdict::Warn,
        "1 of 1 tunnels",
        "tcp_mtu_probing",
    ),
    (
        "T301",
        Server,
        |f| f.anonymous.as_mut().unwrap()[0] = admitted(Way::Quic),
        Verdict::Fail,
        "is admitted on QUIC",
        "--cluster-ca-cert",
    ),
    (
        "T302",
        Server,
        |f| f.stranger.as_mut().unwrap()[1] = admitted(Way::Http2),
        Verdict::Fail,
        "unknown CA is admitted",
        "--cluster-ca-cert",
    ),
    ("T303", Server, |f| expires(f, 20), Verdict::Warn, "expires in 20d", "renew"),
    ("T303", Server, |f| expires(f, -1), Verdict::Fail, "expired 1d ago", "renew"),
    ("T303", Server, stale, Verdict::Warn, "uses the certificate from before", "log"),
    (
        "T304",
        Server,
        |f| f.named.as_mut().unwrap().1.push("a.b.example".to_owned()),
        Verdict::Fail,
        "not for a.b.example",
        "certSANs",
    ),
    (
        "T304",
        Server,
        |f| f.named.as_mut().unwrap().0.names.clear(),
        Verdict::Fail,
        "no subjectAltName",
        "--cluster-cert",
    ),
    ("T305", Server, |f| f.clock = Ok(-30), Verdict::Warn, "30s behind", "chronyd"),
    ("T305", Server, |f| f.clock = Ok(300), Verdict::Fail, "5m ahead of", "chronyd"),
    (
        "T401",
        Server,
        |f| {
            let Ok(Status::Server(status)) = &mut f.status else { panic!() };
            let missing = Missing { node: "worker-8".to_owned(), since: 42, seen: true };
            status.nodes =
                Some(Nodes { expected: 2, missing: vec![missing], ..status.nodes.clone().unwrap() });
        },
        Verdict::Fail,
        "worker-8 is not on",
        "on worker-8",
    ),
];
