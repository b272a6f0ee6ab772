package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"tunnel.test/interop/harness"
)

// step bounds everything that takes a moment when it works.
const step = 20 * time.Second

// mustDial dials and leaves closing to the test. A dial gets its own limit
// because the CONNECT dialler of the kube-apiserver waits for ever.
func mustDial(t testing.TB, dial harness.Dial, address string) net.Conn {
	t.Helper()
	conn, err := dialWithin(step, dial, address)
	if err != nil {
		t.Fatalf("dial %s: %v", address, err)
	}
	return conn
}

var errHang = errors.New("the dial never came back")

func dialWithin(limit time.Duration, dial harness.Dial, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := dial(ctx, "tcp", address)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-time.After(limit + time.Second):
		return nil, errHang
	}
}

// roundTrip writes message and reads it back from an echo. It writes and reads
// at the same time, so that a big message cannot fill both directions.
func roundTrip(conn net.Conn, message []byte) error {
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(message)
		written <- err
	}()
	got := make([]byte, len(message))
	if n, err := io.ReadFull(conn, got); err != nil {
		return fmt.Errorf("read back %d of %d bytes: %w", n, len(message), err)
	}
	if err := <-written; err != nil {
		return fmt.Errorf("write %d bytes: %w", len(message), err)
	}
	if string(got) != string(message) {
		return fmt.Errorf("the echo of %d bytes differs", len(message))
	}
	return nil
}

// together runs f for 0..n-1, all at once, and returns the first error.
func together(n int, f func(i int) error) error {
	return pool(n, n, f)
}

// pool runs f for 0..n-1, width at a time, and returns the first error.
func pool(n, width int, f func(i int) error) error {
	var group sync.WaitGroup
	indexes, errs := make(chan int), make([]error, n)
	for range width {
		group.Go(func() {
			for i := range indexes {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		indexes <- i
	}
	close(indexes)
	group.Wait()
	return errors.Join(errs...)
}
