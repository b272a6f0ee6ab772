package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const startLimit = 15 * time.Second

// Server is a running tunnel-server with all its frontends open.
type Server struct {
	*Process
	PKI *PKI
	// UDS and TCP are the frontend addresses; each serves gRPC and CONNECT.
	UDS, TCP  string
	dir       string
	agentPort int
	health    string
}

// StartServer starts a tunnel-server in dir and waits until it serves. It is
// not ready yet: that takes an agent.
func StartServer(dir string, extra ...string) (*Server, error) {
	pki, err := MakePKI(dir)
	if err != nil {
		return nil, err
	}
	// Another process may take a port between the look and the bind.
	for attempt := 0; ; attempt++ {
		s, err := tryServer(dir, pki, extra)
		if err == nil || attempt == 2 || !strings.Contains(err.Error(), "in use") {
			return s, err
		}
	}
}

// NewServer is StartServer for one test that wants no agent.
func NewServer(t testing.TB, extra ...string) *Server {
	t.Helper()
	dir, err := newDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := StartServer(dir, extra...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- tunnel-server\n%s", s.LogTail())
		}
		s.Kill()
	})
	return s
}

// newDir makes the directory of one server. It is not t.TempDir(): a socket's
// path may have 107 bytes, and the name of a test alone can have more.
func newDir() (string, error) { return os.MkdirTemp("", "interop-") }

func tryServer(dir string, pki *PKI, extra []string) (*Server, error) {
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	s := &Server{
		PKI:       pki,
		UDS:       filepath.Join(dir, "frontend.sock"),
		TCP:       fmt.Sprintf("127.0.0.1:%d", ports[0]),
		dir:       dir,
		agentPort: ports[1],
		health:    fmt.Sprintf("http://127.0.0.1:%d", ports[2]),
	}
	args := []string{
		"--uds-name=" + s.UDS,
		"--delete-existing-uds-file=true",
		fmt.Sprintf("--server-port=%d", ports[0]),
		"--server-bind-address=127.0.0.1",
		"--server-cert=" + pki.Server.Cert,
		"--server-key=" + pki.Server.Key,
		"--server-ca-cert=" + pki.FrontendCA,
		"--cluster-cert=" + pki.Cluster.Cert,
		"--cluster-key=" + pki.Cluster.Key,
		"--cluster-ca-cert=" + pki.ClusterCA,
		fmt.Sprintf("--agent-port=%d", ports[1]),
		"--agent-bind-address=127.0.0.1",
		fmt.Sprintf("--health-port=%d", ports[2]),
		"--health-bind-address=127.0.0.1",
		fmt.Sprintf("--admin-port=%d", ports[3]),
		"--admin-bind-address=127.0.0.1",
		"--proxy-strategies=destHost,default",
		"--server-id=interop",
	}
	if s.Process, err = startProcess(dir, "tunnel-server", append(args, extra...)); err != nil {
		return nil, err
	}
	return s, waitServing(s.Process, s.health+"/healthz")
}

// waitServing kills the process if it does not serve in time, so that an error
// leaves nothing running.
func waitServing(p *Process, url string) error {
	var ended error
	err := Poll(startLimit, func() error {
		if ended = p.Alive(); ended != nil {
			return nil // no use asking again
		}
		return wantOK(url)
	})
	if ended != nil {
		return ended
	}
	if err != nil {
		p.Kill()
		return fmt.Errorf("%s: %w\n%s", p.Name, err, p.LogTail())
	}
	return nil
}

// Ready returns nil when the server says it has an agent.
func (s *Server) Ready() error { return wantOK(s.health + "/readyz") }

// Gauge reads one of the server's gauges, summed over its labels.
func (s *Server) Gauge(name string) (float64, error) { return gauge(s.health, name) }

// Idle returns nil when no client connection is open or being dialled.
func (s *Server) Idle() error {
	for _, name := range []string{ServerConnections, ServerPendingDials} {
		n, err := s.Gauge(name)
		if err != nil {
			return err
		}
		if n != 0 {
			return fmt.Errorf("%s is %v, want 0", name, n)
		}
	}
	return nil
}
