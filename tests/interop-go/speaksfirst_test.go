package interop

import (
	"fmt"
	"io"
	"testing"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

// The kube-apiserver gives up a CONNECT dial when the first byte of the target
// comes together with the 200, and its gRPC client drops data that overtakes
// the dial. So a target that speaks first is the test of both: the dial must
// succeed, and the banner must come although the client has said nothing.
func TestTargetThatSpeaksFirst(t *testing.T) {
	const n, width = 100, 10
	forEachCombo(t, func(t *testing.T, c combo) {
		addr := targets.SpeaksFirst(t)
		harness.Within(t, 2*step, "banners", func() error {
			return pool(n, width, func(int) error {
				conn, err := dialWithin(step, c.dial, addr)
				if err != nil {
					return fmt.Errorf("dial: %w", err)
				}
				defer conn.Close()
				got := make([]byte, len(targets.Banner))
				if k, err := io.ReadFull(conn, got); err != nil || string(got) != targets.Banner {
					return fmt.Errorf("banner %q: %w", got[:k], err)
				}
				return roundTrip(conn, []byte("and then the client"))
			})
		})
	})
}
