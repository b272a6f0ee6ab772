// Package targets holds the programs that the tests dial through the tunnel:
// the kubelets, webhooks and pods of this suite. All listen on 127.0.0.1.
package targets

import (
	"net"
	"sync"
	"testing"
)

// serve runs handle on every connection to a fresh listener until the end of
// the test, and returns the listener's address. handle owns the connection.
func serve(t testing.TB, handle func(*net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := &connSet{conns: make(map[*net.TCPConn]bool)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the listener was closed
			}
			tcp := conn.(*net.TCPConn)
			if !open.add(tcp) {
				continue
			}
			running.Go(func() {
				defer open.remove(tcp)
				handle(tcp)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		open.closeAll()
		running.Wait()
	})
	return listener.Addr().String()
}

// connSet lets the end of a test unblock handlers that still wait for a peer.
type connSet struct {
	mu     sync.Mutex
	conns  map[*net.TCPConn]bool
	closed bool
}

func (s *connSet) add(c *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.conns[c] = true
	return true
}

func (s *connSet) remove(c *net.TCPConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	c.Close()
}

func (s *connSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}
