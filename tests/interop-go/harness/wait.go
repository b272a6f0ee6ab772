package harness

import (
	"fmt"
	"testing"
	"time"
)

const pollInterval = 20 * time.Millisecond

// Poll asks check again and again until it returns nil, and gives up with the
// error of a check that began after the limit: one look before a pause without
// a processor is not enough. State of another process can only be asked for, so
// this is the one place that waits by the clock.
func Poll(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		late := time.Now().After(deadline)
		err := check()
		if err == nil {
			return nil
		}
		if late {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		<-tick.C
	}
}

// Eventually is Poll for a test.
func Eventually(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	if err := Poll(limit, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Within runs f and fails the test if it has not returned by the limit. The
// tunnel's net.Conns have no deadlines, so a hang must be seen from outside.
func Within(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(limit):
		t.Fatalf("%s: still not done after %v", what, limit)
	}
}
