package interop

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

const (
	closers     = 1000
	closerWidth = 32
	// Large enough to be in several pieces and buffers when the close comes.
	closerMost = 192 << 10
)

// A client writes and closes. The target must get every byte, and then a FIN,
// not a reset.
func TestClientWritesThenCloses(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		addr, reports := targets.Collector(t, closers)
		sizes := randomSizes()
		harness.Within(t, 2*step, "writing and closing", func() error {
			return pool(closers, closerWidth, func(i int) error {
				conn, err := dialWithin(step, c.dial, addr)
				if err != nil {
					return err
				}
				if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, uint64(i))); err != nil {
					conn.Close()
					return err
				}
				if _, err := io.Copy(conn, targets.Data(uint64(i), sizes[i])); err != nil {
					conn.Close()
					return err
				}
				return closed(conn)
			})
		})
		harness.Within(t, step, "what the target got", func() error {
			return checkReports(reports, sizes)
		})
	})
}

func randomSizes() []int64 {
	sizes := make([]int64, closers)
	for i := range sizes {
		sizes[i] = rand.Int64N(rand.Int64N(closerMost) + 1) // many small, some large
	}
	return sizes
}

func checkReports(reports <-chan targets.Received, sizes []int64) error {
	seen := make(map[uint64]bool)
	for len(seen) < len(sizes) {
		r := <-reports
		switch {
		case r.Err != nil:
			return fmt.Errorf("connection %d ended after %d bytes with %w, want a FIN", r.ID, r.Size, r.Err)
		case r.ID >= uint64(len(sizes)) || seen[r.ID]:
			return fmt.Errorf("connection number %d is not one of ours or came twice", r.ID)
		case r.Size != sizes[r.ID]:
			return fmt.Errorf("connection %d: the target got %d of %d bytes", r.ID, r.Size, sizes[r.ID])
		}
		if want, _, err := targets.Hash(targets.Data(r.ID, r.Size)); err != nil || r.Hash != want {
			return fmt.Errorf("connection %d: the target got other bytes than were sent", r.ID)
		}
		seen[r.ID] = true
	}
	return nil
}

// The other way round: the target sends its answer and closes at once.
func TestTargetWritesThenCloses(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		addr := targets.Source(t)
		sizes := randomSizes()
		harness.Within(t, 2*step, "reading what the targets sent", func() error {
			return pool(closers, closerWidth, func(i int) error {
				conn, err := dialWithin(step, c.dial, addr)
				if err != nil {
					return err
				}
				defer conn.Close()
				request := targets.Request{Seed: uint64(i), Size: sizes[i]}
				if _, err := conn.Write(request.Bytes()); err != nil {
					return err
				}
				got, n, err := targets.Hash(conn)
				if err != nil || n != sizes[i] {
					return fmt.Errorf("connection %d: got %d of %d bytes, then %v", i, n, sizes[i], err)
				}
				if want, _, err := targets.Hash(targets.Data(uint64(i), n)); err != nil || got != want {
					return fmt.Errorf("connection %d: other bytes came than the target sent", i)
				}
				return nil
			})
		})
	})
}

// closeWriter is what a CONNECT dial returns beyond net.Conn. gRPC's packets
// have no half-close.
type closeWriter interface{ CloseWrite() error }

func TestHalfCloseKeepsTheOtherHalf(t *testing.T) {
	const size = 1 << 20
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Digest(t))
		defer conn.Close()
		half, ok := conn.(closeWriter)
		if ok == (c.frontend == harness.GRPCOverUDS) {
			t.Fatalf("%T has CloseWrite: %v", conn, ok)
		}
		if !ok {
			return
		}
		harness.Within(t, step, "the answer after a half-close", func() error {
			if _, err := io.Copy(conn, targets.Data(3, size)); err != nil {
				return err
			}
			if err := half.CloseWrite(); err != nil {
				return err
			}
			answer, err := io.ReadAll(conn)
			if err != nil {
				return err
			}
			want, _, err := targets.Hash(targets.Data(3, size))
			if err != nil || len(answer) != sha256.Size || [sha256.Size]byte(answer) != want {
				return fmt.Errorf("answer %x, want %x", answer, want)
			}
			return nil
		})
	})
}
