package targets

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BlackHole is an address that neither answers nor refuses, without a packet
// leaving the machine: a listener that never accepts and whose queue is full,
// so the kernel drops every SYN.
type BlackHole struct {
	Addr string
	port int
}

// NewBlackHole opens one and proves that it swallows dials.
func NewBlackHole(t testing.TB) *BlackHole {
	t.Helper()
	fd, port := boundSocket(t)
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	hole := &BlackHole{Addr: fmt.Sprintf("127.0.0.1:%d", port), port: port}
	hole.fill(t)
	return hole
}

// fill connects until a connection is no longer taken.
func (b *BlackHole) fill(t testing.TB) {
	t.Helper()
	for range 8 {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", b.Addr)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("this kernel takes every connection to a listener that never accepts")
}

// Dialling counts the sockets of this machine that are waiting for the hole to
// answer, as the kernel sees them.
func (b *BlackHole) Dialling() (int, error) {
	table, err := os.Open("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	defer table.Close()
	const synSent = "02"
	// The kernel prints the address as the machine's own integer, here 127.0.0.1
	// on a little-endian one, as all are that this suite runs on.
	remote := fmt.Sprintf("0100007F:%04X", b.port)
	n := 0
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > 3 && f[2] == remote && f[3] == synSent {
			n++
		}
	}
	return n, lines.Err()
}

// Want returns a check that exactly n sockets are waiting for an answer.
func (b *BlackHole) Want(n int) func() error {
	return func() error {
		got, err := b.Dialling()
		if err == nil && got != n {
			err = fmt.Errorf("%d sockets wait for %s to answer, want %d", got, b.Addr, n)
		}
		return err
	}
}
