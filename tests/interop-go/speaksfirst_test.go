package interop

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

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
				conn, err := dialHeld(c, addr)
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

// held is a little less than the time for which the server holds a target's
// first bytes back from a client on TCP, whose reading it cannot see.
const held = 450 * time.Millisecond

// dialHeld dials again, four times at most, if the client got no processor for
// as long as the bytes were held: it read them together with the 200.
func dialHeld(c combo, addr string) (net.Conn, error) {
	for tries := 1; ; tries++ {
		began := time.Now()
		conn, err := dialWithin(step, c.dial, addr)
		late := c.frontend == harness.ConnectOverTCP && time.Since(began) >= held
		if err == nil || !late || tries == 5 || !strings.Contains(err.Error(), "of buffered data") {
			return conn, err
		}
	}
}
