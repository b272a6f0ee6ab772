package interop

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

func TestEchoOfManySizes(t *testing.T) {
	// Around every buffer size of the known implementations; 3 MiB is one gRPC
	// message still below grpc-go's default limit.
	sizes := []int{1, 2, 100, 4095, 4096, 4097, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 1 << 20, 3 << 20}
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Echo(t))
		defer conn.Close()
		for _, size := range sizes {
			message, err := io.ReadAll(targets.Data(uint64(size), int64(size)))
			if err != nil {
				t.Fatal(err)
			}
			harness.Within(t, step, fmt.Sprintf("echo of %d bytes", size), func() error {
				return roundTrip(conn, message)
			})
		}
	})
}

// An empty write is an empty DATA message on gRPC and an empty record on TLS;
// neither may be taken for the end of the stream.
func TestEmptyWriteIsHarmless(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Echo(t))
		defer conn.Close()
		for _, message := range []string{"before", "after"} {
			if _, err := conn.Write(nil); err != nil {
				t.Fatalf("empty write: %v", err)
			}
			harness.Within(t, step, "echo around an empty write", func() error {
				return roundTrip(conn, []byte(message))
			})
		}
	})
}

// Many writes of odd sizes are under way while the reader takes ten bytes at a
// time: what was one write may arrive in any pieces, but in order.
func TestInterleavedReadsAndWrites(t *testing.T) {
	const total = 64 << 10
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Echo(t))
		defer conn.Close()
		want, err := io.ReadAll(targets.Data(7, total))
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		go func() {
			for rest, size := want, 1; len(rest) > 0; size = size*3%1021 + 1 {
				piece := rest[:min(size, len(rest))]
				rest = rest[len(piece):]
				if _, err := conn.Write(piece); err != nil {
					written <- err
					return
				}
			}
			written <- nil
		}()
		harness.Within(t, step, "reading ten bytes at a time", func() error {
			got := make([]byte, 0, total)
			for len(got) < total {
				piece := make([]byte, 10)
				n, err := conn.Read(piece)
				if err != nil {
					return fmt.Errorf("after %d bytes: %w", len(got), err)
				}
				got = append(got, piece[:n]...)
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("the echo differs")
			}
			return <-written
		})
	})
}
