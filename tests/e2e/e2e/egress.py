"""The three ways a kube-apiserver can be told to use a tunnel server, and none."""


def selector(connection):
    return {
        "apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": connection}],
    }


def connection(frontend, server, pki):
    """`server` says where the tunnel server listens: a Unix socket and a TCP port, both at once."""
    if frontend == "direct":
        return {"proxyProtocol": "Direct"}
    if frontend == "connect-tcp":
        certificate, key = pki.frontend_client
        return {"proxyProtocol": "HTTPConnect", "transport": {"tcp": {
            "url": f"https://127.0.0.1:{server.frontend_port}",
            "tlsConfig": {"caBundle": pki.frontend.certificate, "clientCert": certificate, "clientKey": key}}}}
    protocol = {"grpc-uds": "GRPC", "connect-uds": "HTTPConnect"}[frontend]
    return {"proxyProtocol": protocol, "transport": {"uds": {"udsName": server.socket}}}
