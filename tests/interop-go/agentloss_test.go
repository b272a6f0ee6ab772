package interop

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

// lossLimit is how soon the server must have noticed a killed agent. The kernel
// ends the TCP connection of a dead process; after a QUIC peer that is silent
// the server looks, which takes it three seconds.
var lossLimit = map[harness.Link]time.Duration{
	harness.H2:   5 * time.Second,
	harness.QUIC: 8 * time.Second,
}

// A kube-apiserver keeps connections in a pool for 90 s. When the agent dies
// they must end, or every request on one of them hangs.
func TestKilledAgentEndsItsConnections(t *testing.T) {
	const each = 10
	for _, link := range harness.Links {
		t.Run(string(link), func(t *testing.T) {
			t.Parallel()
			pair := harness.NewPair(t, link)
			addr := targets.Echo(t)
			ended := make(chan error, each*len(harness.Frontends))
			for _, frontend := range harness.Frontends {
				dial := pair.Server.EgressDial(t, frontend)
				for range each {
					conn := mustDial(t, dial, addr)
					defer conn.Close()
					harness.Within(t, step, "echo", func() error { return roundTrip(conn, []byte("alive")) })
					go func() {
						n, err := conn.Read(make([]byte, 1))
						if err == nil {
							ended <- fmt.Errorf("%s: read %d bytes after the agent's death", frontend, n)
							return
						}
						ended <- nil
					}()
				}
			}
			pair.Agent.Kill()
			harness.Within(t, lossLimit[link], "the end of the open connections", func() error {
				for range cap(ended) {
					if err := <-ended; err != nil {
						return err
					}
				}
				return nil
			})
			harness.Eventually(t, step, "the server's connections", pair.Server.Idle)
			replaceAgent(t, pair, addr)
		})
	}
}

// replaceAgent starts an agent of the same name and uses it.
func replaceAgent(t *testing.T, pair *harness.Pair, addr string) {
	t.Helper()
	agent, err := harness.StartAgent(pair.Server, pair.Link)
	if err != nil {
		t.Fatal(err)
	}
	pair.Agent = agent
	for _, frontend := range harness.Frontends {
		conn := mustDial(t, pair.Server.EgressDial(t, frontend), addr)
		harness.Within(t, step, "echo through the new agent", func() error { return roundTrip(conn, []byte("again")) })
		conn.Close()
	}
	pair.RequireIdle(t)
}

// becameOf is what the person is told about an agent that was killed: what the
// server found out, rather than what its libraries say of a broken stream. The
// kernel resets the connection of a process that is killed with bytes unread.
var becameOf = map[harness.Link]*regexp.Regexp{
	harness.H2:   regexp.MustCompile("the peer closed without a goodbye|Connection reset by peer"),
	harness.QUIC: regexp.MustCompile("the agent's process is gone"),
}

// A dial that is under way when the agent dies fails with the agent's name and
// with what became of it.
func TestKilledAgentIsNamedByItsDials(t *testing.T) {
	for _, link := range harness.Links {
		t.Run(string(link), func(t *testing.T) {
			t.Parallel()
			pair := harness.NewPair(t, link)
			hole := targets.NewBlackHole(t)
			failed := make(chan error, len(harness.Frontends))
			for _, frontend := range harness.Frontends {
				dial := pair.Server.EgressDial(t, frontend)
				go func() {
					conn, err := dial(t.Context(), "tcp", hole.Addr)
					if err == nil {
						conn.Close()
						err = fmt.Errorf("%s: connected to a black hole", frontend)
					}
					failed <- err
				}()
			}
			harness.Eventually(t, step, "the agent's dials", hole.Want(len(harness.Frontends)))
			pair.Agent.Kill()
			harness.Within(t, lossLimit[link], "the end of the dials", func() error {
				for range cap(failed) {
					err := <-failed
					if words := "was lost while dialling " + hole.Addr; !strings.Contains(err.Error(), words) {
						return fmt.Errorf("%q does not contain %q", err, words)
					}
					if !becameOf[link].MatchString(err.Error()) {
						return fmt.Errorf("%q does not match %q", err, becameOf[link])
					}
				}
				return nil
			})
			harness.Eventually(t, step, "the server's connections", pair.Server.Idle)
			replaceAgent(t, pair, targets.Echo(t))
		})
	}
}
