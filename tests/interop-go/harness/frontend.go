package harness

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apiserver/pkg/server/egressselector"
)

// Frontend is one way for a kube-apiserver to reach the server.
type Frontend string

// These three are all that a released kube-apiserver accepts.
const (
	GRPCOverUDS    Frontend = "grpc-uds"
	ConnectOverUDS Frontend = "connect-uds"
	ConnectOverTCP Frontend = "connect-tcp"
)

// Frontends lists every frontend.
var Frontends = []Frontend{GRPCOverUDS, ConnectOverUDS, ConnectOverTCP}

// Dial is what the egress selector hands to the kube-apiserver's clients.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// EgressDial builds the kube-apiserver's dialler for the server from a
// configuration file, by the calls the kube-apiserver makes at its start.
func (s *Server) EgressDial(t testing.TB, f Frontend) Dial {
	t.Helper()
	return EgressDial(t, s.connection(f))
}

// EgressDial builds the dialler for a `connection` of the configuration.
func EgressDial(t testing.TB, connection string) Dial {
	t.Helper()
	file := filepath.Join(t.TempDir(), "egress.yaml")
	yaml := "apiVersion: apiserver.k8s.io/v1beta1\nkind: EgressSelectorConfiguration\negressSelections:\n" +
		"- name: cluster\n  connection: " + connection + "\n"
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := egressselector.ReadEgressSelectorConfiguration(file)
	if err != nil {
		t.Fatalf("read %s: %v", yaml, err)
	}
	if errs := egressselector.ValidateEgressSelectorConfiguration(config); len(errs) > 0 {
		t.Fatalf("validate %s: %v", yaml, errs)
	}
	selector, err := egressselector.NewEgressSelector(config)
	if err != nil {
		t.Fatal(err)
	}
	dial, err := selector.Lookup(egressselector.Cluster.AsNetworkContext())
	if err != nil {
		t.Fatal(err)
	}
	if dial == nil {
		t.Fatal("the egress selector has no dialler for the cluster")
	}
	return Dial(dial)
}

// UDSConnection is the `connection` of a Unix socket frontend.
func UDSConnection(protocol, socket string) string {
	return fmt.Sprintf("{proxyProtocol: %s, transport: {uds: {udsName: %s}}}", protocol, socket)
}

func (s *Server) connection(f Frontend) string {
	switch f {
	case GRPCOverUDS:
		return UDSConnection("GRPC", s.UDS)
	case ConnectOverUDS:
		return UDSConnection("HTTPConnect", s.UDS)
	default:
		return fmt.Sprintf("{proxyProtocol: HTTPConnect, transport: {tcp: {url: 'https://%s', tlsConfig: {caBundle: %s, clientCert: %s, clientKey: %s}}}}",
			s.TCP, s.PKI.FrontendCA, s.PKI.Client.Cert, s.PKI.Client.Key)
	}
}

// RawConnect opens the transport of a CONNECT frontend and says nothing on it.
func (s *Server) RawConnect(f Frontend) (net.Conn, error) {
	if f == ConnectOverUDS {
		return net.Dial("unix", s.UDS)
	}
	config, err := s.PKI.ClientTLS()
	if err != nil {
		return nil, err
	}
	return tls.Dial("tcp", s.TCP, config)
}
