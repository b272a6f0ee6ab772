package interop

import (
	"fmt"
	"net"
	"testing"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

// Two hundred connections are open at the same time, all of them counted, and
// every one still carries its own bytes in both rounds.
func TestTwoHundredConnectionsAtOnce(t *testing.T) {
	const n = 200
	forEachCombo(t, func(t *testing.T, c combo) {
		addr := targets.Echo(t)
		conns := make([]net.Conn, n)
		defer func() { closeAll(conns) }()
		err := together(n, func(i int) (err error) {
			conns[i], err = dialWithin(step, c.dial, addr)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		// The gauges that must return to 0 elsewhere do move.
		harness.Eventually(t, step, "the gauges", func() error { return c.Busy(n) })
		for round := range 2 {
			harness.Within(t, step, "echoes", func() error {
				return together(n, func(i int) error {
					return roundTrip(conns[i], fmt.Appendf(nil, "round %d connection %d", round, i))
				})
			})
		}
	})
}

// closeAll closes at once what was opened; a gRPC close waits for its answer.
func closeAll(conns []net.Conn) {
	_ = together(len(conns), func(i int) error {
		if conns[i] != nil {
			return closed(conns[i])
		}
		return nil
	})
}
