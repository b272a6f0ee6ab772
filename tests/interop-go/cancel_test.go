package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

// cancelled is how many dials are given up at once: a leak of one descriptor
// each is then plain to see.
const cancelled = 20

// A dial whose context ends while the agent still waits for the target must
// come back at once and leave no socket, descriptor or count behind.
func TestCancelledDialLeavesNothing(t *testing.T) {
	forEachLink(t, func(t *testing.T, pair *harness.Pair) {
		dial := pair.Server.EgressDial(t, harness.GRPCOverUDS)
		hole := targets.NewBlackHole(t)
		check := leaveNothing(t, pair, hole)

		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		results := make(chan error, cancelled)
		for range cancelled {
			go func() {
				_, err := dial(ctx, "tcp", hole.Addr)
				results <- err
			}()
		}
		harness.Eventually(t, step, "the agent's dials", hole.Want(cancelled))
		harness.Eventually(t, step, "the server's count of dials", func() error {
			return wantPending(pair, cancelled)
		})
		cancel()
		harness.Within(t, 2*time.Second, "cancelled dials", func() error {
			for range cancelled {
				if err := <-results; err == nil || !strings.Contains(err.Error(), "dial timeout, context") {
					return fmt.Errorf("a cancelled dial returned %v", err)
				}
			}
			return nil
		})
		check()
	})
}

// The kube-apiserver's CONNECT dialler does not look at its context once the
// socket is open, so there a dial is given up only by the end of the process:
// the server sees the socket close while nothing was answered.
func TestAbandonedConnectLeavesNothing(t *testing.T) {
	for _, frontend := range []harness.Frontend{harness.ConnectOverUDS, harness.ConnectOverTCP} {
		t.Run(string(frontend), func(t *testing.T) {
			forEachLink(t, func(t *testing.T, pair *harness.Pair) {
				hole := targets.NewBlackHole(t)
				check := leaveNothing(t, pair, hole)
				var conns []net.Conn
				for range cancelled {
					conn, err := pair.Server.RawConnect(frontend)
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", hole.Addr); err != nil {
						t.Fatal(err)
					}
					conns = append(conns, conn)
				}
				harness.Eventually(t, step, "the agent's dials", hole.Want(cancelled))
				for _, conn := range conns {
					conn.Close()
				}
				check()
			})
		})
	}
}

// leaveNothing takes the programs' descriptor counts and returns the check that
// they, the gauges and the sockets in the kernel are back where they were.
func leaveNothing(t *testing.T, pair *harness.Pair, hole *targets.BlackHole) func() {
	t.Helper()
	// Shorter than any dial limit: the cancel must have arrived, not a timeout.
	const prompt = 3 * time.Second
	before := make(map[*harness.Process]int)
	for _, p := range []*harness.Process{pair.Server.Process, pair.Agent.Process} {
		n, err := p.OpenFiles()
		if err != nil {
			t.Fatal(err)
		}
		before[p] = n
	}
	return func() {
		t.Helper()
		harness.Eventually(t, prompt, "the agent's sockets", hole.Want(0))
		harness.Eventually(t, prompt, "the gauges", func() error { return pair.Busy(0) })
		for p, was := range before {
			harness.Eventually(t, prompt, "the descriptors of "+p.Name, func() error {
				is, err := p.OpenFiles()
				if err == nil && is > was {
					err = fmt.Errorf("%d are open, %d were before", is, was)
				}
				return err
			})
		}
	}
}

func wantPending(pair *harness.Pair, n int) error {
	got, err := pair.Server.Gauge(harness.ServerPendingDials)
	if err == nil && got != float64(n) {
		err = fmt.Errorf("%s is %v, want %d", harness.ServerPendingDials, got, n)
	}
	return err
}

// The server must end a dial by itself: with CONNECT nobody else will.
func TestServerLimitsADial(t *testing.T) {
	const limit, grace = 2 * time.Second, 2500 * time.Millisecond
	for _, link := range harness.Links {
		t.Run(string(link), func(t *testing.T) {
			t.Parallel()
			pair := harness.NewPair(t, link, "--backend-dial-timeout="+limit.String())
			hole := targets.NewBlackHole(t)
			words := map[harness.Frontend]string{
				harness.GRPCOverUDS:    "time",
				harness.ConnectOverUDS: "code 504",
				harness.ConnectOverTCP: "code 504",
			}
			for _, frontend := range harness.Frontends {
				dial := pair.Server.EgressDial(t, frontend)
				start := time.Now()
				_, err := dialWithin(limit+grace, dial, hole.Addr)
				if err == nil || errors.Is(err, errHang) || errors.Is(err, io.EOF) {
					t.Fatalf("%s: after %v: %v", frontend, time.Since(start), err)
				}
				if !strings.Contains(err.Error(), words[frontend]) || strings.Contains(err.Error(), "timeout, context") {
					t.Errorf("%s: %q is not the server's own time limit (want %q)", frontend, err, words[frontend])
				}
			}
			harness.Eventually(t, step, "the agent's sockets", hole.Want(0))
			pair.RequireIdle(t)
		})
	}
}
