package interop

import (
	"strings"
	"testing"
	"time"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

// The reason of a failed dial is all that a user of kubectl sees, and runbooks
// search for Go's words.
func TestRefusalsNameTheirReason(t *testing.T) {
	cases := []struct {
		name    string
		address string
		words   string
	}{
		{"nobody listens", targets.Refusing(t), "connection refused"},
		{"unknown host", "no-such-host.invalid:443", "no such host"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			forEachCombo(t, func(t *testing.T, c combo) {
				wantRefusal(t, c.dial, tc.address, tc.words)
			})
		})
	}
}

// The broadcast address has no route for TCP: the kernel says so by itself and
// nothing leaves the machine. A policy may refuse it before the kernel does,
// so only a prompt reason that names the address is asked for.
func TestUnroutableAddressFailsAtOnce(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		wantRefusal(t, c.dial, "255.255.255.255:443", "255.255.255.255")
	})
}

func wantRefusal(t *testing.T, dial harness.Dial, address, words string) {
	t.Helper()
	const prompt = 8 * time.Second
	conn, err := dialWithin(prompt, dial, address)
	if err == nil {
		conn.Close()
		t.Fatalf("dial %s succeeded", address)
	}
	if !strings.Contains(err.Error(), words) {
		t.Fatalf("dial %s: %q does not contain %q", address, err, words)
	}
}

func TestNoAgent(t *testing.T) {
	server := harness.NewServer(t)
	if err := server.Ready(); err == nil {
		t.Error("the server says it is ready without an agent")
	}
	for _, frontend := range harness.Frontends {
		t.Run(string(frontend), func(t *testing.T) {
			wantRefusal(t, server.EgressDial(t, frontend), "127.0.0.1:10250", "No agent available")
		})
	}
	harness.Eventually(t, step, "the server's dials", func() error {
		return server.Idle()
	})
}
