package interop

import (
	"crypto/sha256"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

const (
	bulkSize  = 100 << 20
	bulkSeed  = 1
	bulkLimit = time.Minute
)

// bulkHash is made once: every transfer carries the same bytes.
var bulkHash = sync.OnceValue(func() [sha256.Size]byte {
	hash, _, err := targets.Hash(targets.Data(bulkSeed, bulkSize))
	if err != nil {
		panic(err) // a generator in memory cannot fail
	}
	return hash
})

func TestBulkDownload(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Source(t))
		defer conn.Close()
		harness.Within(t, bulkLimit, "download", func() error {
			request := targets.Request{Seed: bulkSeed, Size: bulkSize}
			if _, err := conn.Write(request.Bytes()); err != nil {
				return err
			}
			got, n, err := targets.Hash(conn)
			if err != nil || n != bulkSize {
				return fmt.Errorf("got %d of %d bytes, then %v", n, bulkSize, err)
			}
			return sameHash(got)
		})
	})
}

func TestBulkUpload(t *testing.T) {
	forEachCombo(t, func(t *testing.T, c combo) {
		conn := mustDial(t, c.dial, targets.Sink(t))
		defer conn.Close()
		harness.Within(t, bulkLimit, "upload", func() error {
			if _, err := conn.Write(targets.Request{Size: bulkSize}.Bytes()); err != nil {
				return err
			}
			if _, err := io.Copy(conn, targets.Data(bulkSeed, bulkSize)); err != nil {
				return err
			}
			var got [sha256.Size]byte
			if _, err := io.ReadFull(conn, got[:]); err != nil {
				return fmt.Errorf("the target's hash: %w", err)
			}
			return sameHash(got)
		})
	})
}

func sameHash(got [sha256.Size]byte) error {
	if want := bulkHash(); got != want {
		return fmt.Errorf("hash %x, want %x", got, want)
	}
	return nil
}
