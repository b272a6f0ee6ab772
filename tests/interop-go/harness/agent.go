package harness

import (
	"fmt"
	"strings"
)

// Link is the protocol between agent and server.
type Link string

// The links under test.
const (
	QUIC Link = "quic"
	H2   Link = "h2"
)

// Links lists every link.
var Links = []Link{QUIC, H2}

// Agent is a running tunnel-agent.
type Agent struct {
	*Process
	health string
}

// StartAgent starts an agent of the server and waits until both say they are
// connected.
func StartAgent(s *Server, link Link) (*Agent, error) {
	for attempt := 0; ; attempt++ {
		a, err := tryAgent(s, link)
		if err == nil || attempt == 2 || !strings.Contains(err.Error(), "in use") {
			return a, err
		}
	}
}

func tryAgent(s *Server, link Link) (*Agent, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	a := &Agent{health: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}
	a.Process, err = startProcess(s.dir, "tunnel-agent", []string{
		"--ca-cert=" + s.PKI.ClusterCA,
		"--agent-cert=" + s.PKI.Agent.Cert,
		"--agent-key=" + s.PKI.Agent.Key,
		"--proxy-server-host=127.0.0.1",
		fmt.Sprintf("--proxy-server-port=%d", s.agentPort),
		"--transport=" + string(link),
		"--agent-id=interop",
		"--agent-identifiers=ipv4=127.0.0.1",
		"--health-server-host=127.0.0.1",
		fmt.Sprintf("--health-server-port=%d", ports[0]),
		"--admin-bind-address=127.0.0.1",
		fmt.Sprintf("--admin-server-port=%d", ports[1]),
	})
	if err != nil {
		return nil, err
	}
	if err := waitServing(a.Process, a.health+"/readyz"); err != nil {
		return nil, err
	}
	if err := Poll(startLimit, s.Ready); err != nil {
		a.Kill()
		return nil, fmt.Errorf("the agent is ready, the server is not: %w\n%s", err, s.LogTail())
	}
	return a, nil
}

// Gauge reads one of the agent's gauges, summed over its labels.
func (a *Agent) Gauge(name string) (float64, error) { return gauge(a.health, name) }
