package harness

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// Pair is one server with one agent on the given link.
type Pair struct {
	Link   Link
	Server *Server
	Agent  *Agent
	dir    string
}

// StartPair starts a server and its agent in a fresh directory. The caller
// owes a Stop.
func StartPair(link Link, serverFlags ...string) (*Pair, error) {
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	p := &Pair{Link: link, dir: dir}
	if p.Server, err = StartServer(dir, serverFlags...); err == nil {
		p.Agent, err = StartAgent(p.Server, link)
	}
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// NewPair is StartPair for one test: stopped at its end, logs shown if it
// failed.
func NewPair(t testing.TB, link Link, serverFlags ...string) *Pair {
	t.Helper()
	p, err := StartPair(link, serverFlags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.Logs())
		}
		p.Stop()
	})
	return p
}

// Stop ends both programs and removes their files.
func (p *Pair) Stop() {
	if p.Agent != nil {
		p.Agent.Kill()
	}
	if p.Server != nil && p.Server.Process != nil {
		p.Server.Kill()
	}
	os.RemoveAll(p.dir)
}

// Logs is the end of both logs.
func (p *Pair) Logs() string {
	return fmt.Sprintf("--- tunnel-server (%s)\n%s--- tunnel-agent (%s)\n%s",
		p.Link, p.Server.LogTail(), p.Link, p.Agent.LogTail())
}

// Busy returns nil when exactly n connections are open on both sides, and none
// is being dialled.
func (p *Pair) Busy(n int) error {
	for _, g := range []struct {
		name string
		want int
		read func(string) (float64, error)
	}{
		{ServerConnections, n, p.Server.Gauge},
		{ServerPendingDials, 0, p.Server.Gauge},
		{AgentConnections, n, p.Agent.Gauge},
	} {
		got, err := g.read(g.name)
		if err != nil {
			return err
		}
		if got != float64(g.want) {
			return fmt.Errorf("%s is %v, want %d", g.name, got, g.want)
		}
	}
	return nil
}

// RequireIdle fails the test if a connection or dial is left behind anywhere.
func (p *Pair) RequireIdle(t testing.TB) {
	t.Helper()
	if err := Poll(10*time.Second, func() error { return p.Busy(0) }); err != nil {
		t.Errorf("something is left behind: %v", err)
	}
}
