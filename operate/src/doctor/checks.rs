//! All checks, in the order of their ids. An id keeps its meaning for ever; a new check gets a
//! new one.

use super::{Check, Side, agents, control_plane, identity, kubelets, network};

use Side::{Agent, Both, Server};

/// T1xx control plane, T2xx network, T3xx identity and certificates, T4xx agents and kubelets.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "T100",
        title: "the program answers on its admin socket",
        side: Both,
        judge: |facts, program| control_plane::answers(facts, program),
        symptom: "status, probe and most checks of doctor have no answer.",
        cause: "The program does not run, has no --admin-socket, or belongs to another user.",
        cure: "Start it with --admin-socket, and run the command as the same user or as root. In a pod: kubectl exec.",
    },
    Check {
        id: "T101",
        title: "the egress file parses",
        side: Server,
        judge: |facts, _| control_plane::parses(facts),
        symptom: "The kube-apiserver does not start, or does not start after an upgrade.",
        cause: "Kubernetes 1.32 and newer refuse unknown fields, fields in another case and another apiVersion; older \
                versions ignore them. http:// makes every version crash.",
        cure: "Correct the file: apiVersion apiserver.k8s.io/v1beta1, kind EgressSelectorConfiguration, and in each of \
               egressSelections a name and a connection with proxyProtocol GRPC, HTTPConnect or Direct.",
    },
    Check {
        id: "T102",
        title: "connections to nodes use the tunnel",
        side: Server,
        judge: |facts, _| control_plane::traffic(facts),
        symptom: "logs, exec and webhooks time out, and the tunnel sees no connection.",
        cause: "The egress file does not name `cluster`, or gives it proxyProtocol: Direct. A name that is missing is \
                dialled directly.",
        cure: "Give `cluster` the server's socket. Webhooks by URL, OIDC and audit use `controlplane`, which stays \
               direct unless they are behind the tunnel, too.",
    },
    Check {
        id: "T103",
        title: "the kube-apiserver reads this egress file",
        side: Server,
        judge: |facts, _| control_plane::file_is_used(facts),
        symptom: "A change of the egress file has no effect, or the kube-apiserver does not start.",
        cause: "--egress-selector-config-file is missing, names another file, or its directory is not mounted.",
        cure: "Add the flag, and a volume with the file's directory. kubeadm upgrade writes the manifest anew: change \
               the ConfigMap kubeadm-config as well.",
    },
    Check {
        id: "T104",
        title: "the kube-apiserver sees the socket",
        side: Server,
        judge: |facts, _| control_plane::socket_is_mounted(facts),
        symptom: "\"dial unix …: no such file or directory\", or it works until the server restarts.",
        cause: "The socket's directory is not mounted into the kube-apiserver, or the socket itself is: a restarted \
                server makes a new one.",
        cure: "Mount the directory of udsName as a hostPath volume of type DirectoryOrCreate.",
    },
    Check {
        id: "T105",
        title: "the egress file names this server's frontend",
        side: Server,
        judge: |facts, _| control_plane::socket_is_ours(facts),
        symptom: "The kube-apiserver dials a socket or port on which nobody listens, or another server.",
        cause: "udsName or url differ from --uds-name or --server-port, or proxyProtocol from --mode.",
        cure: "Make them the same. Without --mode the server serves both protocols.",
    },
    Check {
        id: "T106",
        title: "the frontend answers a dial",
        side: Server,
        judge: |facts, _| control_plane::frontend_answers(facts),
        symptom: "Every connection of the kube-apiserver hangs or fails.",
        cause: "Nobody listens on the frontend, or the listener speaks another protocol. The check dials \
                doctor.invalid, as the kube-apiserver does; a refusal is an answer.",
        cure: "Start tunnel-server, and compare T105. On TCP see the client certificate in tlsConfig and \
               --server-ca-cert.",
    },
    Check {
        id: "T110",
        title: "the kube-apiserver verifies kubelets",
        side: Server,
        judge: |facts, _| kubelets::are_verified(facts),
        symptom: "None, until somebody redirects a connection to a node.",
        cause: "kubeadm sets no --kubelet-certificate-authority, because kubelets sign their own certificates.",
        cure: "Set serverTLSBootstrap: true in the kubelets' configuration, approve their requests (kubectl get csr), \
               then give the kube-apiserver --kubelet-certificate-authority.",
    },
    Check {
        id: "T111",
        title: "kubelets authorise the kube-apiserver",
        side: Server,
        judge: |facts, _| kubelets::authorise(facts),
        symptom: "kubectl logs and exec say Forbidden or Unauthorized, although the tunnel works.",
        cause: "The kubelet asks the Kubernetes API whether the user of --kubelet-client-certificate may use \
                nodes/proxy. kubeadm binds that user with kubeadm:apiserver-kubelet-client; hand-made clusters do not. \
                401 means that the kubelet does not know the certificate's CA.",
        cure: "403: kubectl create clusterrolebinding apiserver-kubelet --clusterrole=system:kubelet-api-admin \
               --user=NAME. 401: authentication.x509.clientCAFile of the kubelet.",
    },
    Check {
        id: "T112",
        title: "the kube-apiserver trusts the kubelets' certificates",
        side: Server,
        judge: |facts, _| kubelets::are_trusted(facts),
        symptom: "logs and exec say x509: certificate signed by unknown authority, or is valid for another name.",
        cause: "--kubelet-certificate-authority is set, and a kubelet has a certificate of its own or for another \
                address.",
        cure: "serverTLSBootstrap: true on that node, approve its request, and see --kubelet-preferred-address-types.",
    },
    Check {
        id: "T113",
        title: "agents serve the addresses that the kube-apiserver asks for",
        side: Server,
        judge: |facts, _| kubelets::addresses_are_served(facts),
        symptom: "No agent available, or names of nodes that do not resolve on nodes.",
        cause: "--kubelet-preferred-address-types begins with Hostname by default, and agents announce addresses only, \
                or the other way round.",
        cure: "Set InternalIP,ExternalIP,Hostname as kubeadm does, or announce host= and ipv4= together.",
    },
    Check {
        id: "T201",
        title: "QUIC handshakes",
        side: Both,
        judge: |facts, _| network::quic(facts),
        symptom: "Tunnels use HTTP/2, or with --transport=quic there is none.",
        cause: "A firewall, NetworkPolicy or load balancer does not let UDP through to the agents' port. A load \
                balancer may also answer in place of the server.",
        cure: "Open the port for UDP both ways. The handshake is the agents' own, with their ALPN, and ends before \
               the agent is registered.",
    },
    Check {
        id: "T202",
        title: "HTTP/2 handshakes",
        side: Both,
        judge: |facts, _| network::http2(facts),
        symptom: "There is no tunnel where UDP is blocked.",
        cause: "TCP does not reach the agents' port, or a proxy in between ends TLS or strips the ALPN tunnel/1.",
        cure: "Open the port for TCP, and make load balancers pass TLS through.",
    },
    Check {
        id: "T203",
        title: "UDP sockets get large buffers",
        side: Both,
        judge: |facts, _| network::buffer(facts),
        symptom: "QUIC is slower than HTTP/2, and the kernel counts receive buffer errors (nstat UdpRcvbufErrors).",
        cause: "net.core.rmem_max is below the 4 MiB that QUIC sockets request. Most distributions have 208 KiB.",
        cure: "sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304 on the host, and restart the program.",
    },
    Check {
        id: "T204",
        title: "the MTU is large enough for QUIC",
        side: Both,
        judge: |facts, _| network::mtu(facts),
        symptom: "QUIC does not connect, or is slow on a fast network.",
        cause: "An interface carries less than 1248 bytes, or the path less than the interface: an overlay or a VPN.",
        cure: "Raise the MTU of the overlay, or leave it: QUIC measures the path by itself (RFC 8899). Where large \
               packets vanish without an ICMP error, sysctl -w net.ipv4.tcp_mtu_probing=1 on nodes and control \
               plane lets TCP do the same; without it, an agent whose HTTP/2 tunnel fell silent makes the next one \
               with small segments.",
    },
    Check {
        id: "T205",
        title: "names of servers resolve",
        side: Agent,
        judge: |facts, _| network::names_resolve(facts),
        symptom: "The agent has no tunnel, and its log says that a name cannot be resolved.",
        cause: "--proxy-server-host has a typing error, or the pod's resolver does not know the name.",
        cure: "See dnsPolicy of the agent's pod, or name servers by address.",
    },
    Check {
        id: "T206",
        title: "proxy settings suit the link",
        side: Agent,
        judge: |facts, _| network::proxy(facts),
        symptom: "Tunnels use HTTP/2 only, or there is none with --transport=quic.",
        cause: "HTTPS_PROXY leads to the servers. HTTP proxies carry TCP only.",
        cure: "Add the servers to NO_PROXY where they can be reached directly; otherwise leave --transport=auto.",
    },
    Check {
        id: "T207",
        title: "the resolver does not depend on the cluster",
        side: Agent,
        judge: |facts, _| network::resolver(facts),
        symptom: "After a restart of the whole cluster agents find no server.",
        cause: "The names of servers are resolved by the cluster's DNS, whose pods may wait for webhooks or an API that \
                needs the tunnel.",
        cure: "dnsPolicy: Default for agents, or servers by address.",
    },
    Check {
        id: "T301",
        title: "an anonymous agent is refused",
        side: Server,
        judge: |facts, _| identity::anonymous(facts),
        symptom: "None: strangers could receive the control plane's connections.",
        cause: "--insecure-allow-anonymous-agents, or a load balancer that authenticates in place of the agent.",
        cure: "Authenticate agents by --cluster-ca-cert, by tokens, or by both.",
    },
    Check {
        id: "T302",
        title: "an agent with a certificate of an unknown CA is refused",
        side: Server,
        judge: |facts, _| identity::stranger(facts),
        symptom: "None: strangers could receive the control plane's connections.",
        cause: "--insecure-allow-anonymous-agents, or an agents' port without --cluster-ca-cert and tokens.",
        cure: "Give --cluster-ca-cert the CA of the agents, and nothing else.",
    },
    Check {
        id: "T303",
        title: "certificates are valid for a month",
        side: Both,
        judge: |facts, _| identity::expiries(facts),
        symptom: "On one day no new tunnel or connection is accepted.",
        cause: "A certificate of a flag or of the kubeconfig has expired or is about to. kubeadm's live for a year. Or its file was renewed, and cannot be used.",
        cure: "Renew it (kubeadm certs renew). The program reads it within ten seconds; if not, its log says why.",
    },
    Check {
        id: "T304",
        title: "the server's certificate is what agents expect",
        side: Both,
        judge: |facts, _| identity::server_names(facts),
        symptom: "Agents log tls: invalid peer certificate.",
        cause: "The certificate is not for the name in --proxy-server-host, of another CA than --ca-cert, or expired.",
        cure: "Issue --cluster-cert with every name that agents dial; with kubeadm: apiServer.certSANs. Give agents \
               its CA.",
    },
    Check {
        id: "T305",
        title: "the clock is right",
        side: Both,
        judge: |facts, _| identity::clock(facts),
        symptom: "Certificates and tokens are refused as expired or not valid yet; Leases run out.",
        cause: "This host's clock differs from the kube-apiserver's by more than seconds.",
        cure: "Start a time service: chronyd or systemd-timesyncd.",
    },
    Check {
        id: "T306",
        title: "the service account token is valid",
        side: Agent,
        judge: |facts, _| identity::token(facts),
        symptom: "Servers refuse the agent: the token is missing, expired or for another audience.",
        cause: "The projected volume is missing, has another audience than --authentication-audience, or the kubelet \
                does not renew it.",
        cure: "Mount a projected serviceAccountToken with the servers' audience, system:konnectivity-server by custom.",
    },
    Check {
        id: "T401",
        title: "every node has a connected agent",
        side: Server,
        judge: |facts, _| agents::nodes(facts),
        symptom: "logs and exec fail for pods of some nodes: No agent available.",
        cause: "No agent of the node is connected to this server: it does not run, reaches other servers only, or has \
                other identifiers.",
        cure: "tunnel-agent doctor on that node. Behind a load balancer see --server-count.",
    },
    Check {
        id: "T402",
        title: "servers admit this agent",
        side: Agent,
        judge: |facts, _| agents::admitted(facts),
        symptom: "Handshakes work, and there is no tunnel.",
        cause: "The server does not accept the agent's certificate or token. The check greets each server with the \
                agent's own credentials and leaves before it is registered; running tunnels are not touched.",
        cure: "Compare the CA, the audience and the service account with the server's flags.",
    },
    Check {
        id: "T403",
        title: "this agent has a tunnel to every server",
        side: Agent,
        judge: |facts, _| agents::tunnels(facts),
        symptom: "The kube-apiserver beside a server without a tunnel cannot reach this node.",
        cause: "A server is not reached, or an address of a load balancer leads to the same server again and again.",
        cure: "See the address and its error, and T201, T202 and T402.",
    },
    Check {
        id: "T404",
        title: "this agent reaches the node's kubelet",
        side: Agent,
        judge: |facts, _| agents::own_kubelet(facts),
        symptom: "logs and exec fail with connection refused or a timeout, although the tunnel works.",
        cause: "A NetworkPolicy or firewall keeps the agent's pod from port 10250, or its ipv4= identifier is not the \
                node's address.",
        cure: "Allow the agent's pod to reach the node's port 10250, and see --agent-identifiers.",
    },
];
