package interop

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

// A target that ends with a FIN is a plain end of file at every frontend.
func TestTargetFINIsEndOfFile(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Ending(t))
		defer conn.Close()
		readErr := endBy(t, conn, targets.SayFIN)
		if readErr != io.EOF {
			t.Errorf("read: %v, want EOF", readErr)
		}
		if err := closed(conn); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// A target that resets must not look as if it had ended in good order where the
// frontend can tell the difference: the gRPC client reports the reason when it
// is closed, and a TLS stream ends without its close_notify. A Unix socket
// cannot carry a reset, there the end only has to come.
func TestTargetRSTIsNotEndOfFile(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Ending(t))
		defer conn.Close()
		readErr := endBy(t, conn, targets.SayRST)
		closeErr := conn.Close()
		switch c.frontend {
		case harness.GRPCOverUDS:
			if closeErr == nil {
				t.Error("close returned nil, want the reason for the reset")
			}
		case harness.ConnectOverTCP:
			if readErr == io.EOF {
				t.Error("read ended with a plain EOF, want an error")
			}
		}
	})
}

// endBy tells an Ending target how to end and returns how the read ended.
func endBy(t *testing.T, conn net.Conn, command byte) (ended error) {
	t.Helper()
	if _, err := conn.Write([]byte{command}); err != nil {
		t.Fatal(err)
	}
	harness.Within(t, step, "the end of the connection", func() error {
		var b [1]byte
		n, err := conn.Read(b[:])
		if n != 0 || err == nil {
			return fmt.Errorf("read %d bytes, %v", n, err)
		}
		ended = err
		return nil
	})
	return ended
}

// A client that breaks off must not look to the target as if it had finished:
// here the TCP connection is reset below TLS, without a close_notify.
func TestClientRSTReachesTheTarget(t *testing.T) {
	forEachLink(t, func(t *testing.T, pair *harness.Pair) {
		addr, reports := targets.Collector(t, 1)
		conn := mustDial(t, pair.Server.EgressDial(t, harness.ConnectOverTCP), addr)
		defer conn.Close()
		if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, 1)); err != nil {
			t.Fatal(err)
		}
		tcp := conn.(*tls.Conn).NetConn().(*net.TCPConn)
		if err := tcp.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		tcp.Close()
		harness.Within(t, step, "the target's end", func() error {
			if r := <-reports; !errors.Is(r.Err, syscall.ECONNRESET) {
				return fmt.Errorf("the target's read ended with %v, want a reset", r.Err)
			}
			return nil
		})
	})
}
