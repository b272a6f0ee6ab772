package targets

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
)

// Received is what a Collector got on one connection.
type Received struct {
	ID   uint64 // the first eight bytes
	Size int64  // of the rest
	Hash [sha256.Size]byte
	Err  error // nil if the stream ended with a FIN
}

// Collector never writes. It reads each connection to its end and reports what
// came. room is how many reports fit before anyone takes one.
func Collector(t testing.TB, room int) (string, <-chan Received) {
	reports := make(chan Received, room)
	addr := serve(t, func(c *net.TCPConn) {
		var id [8]byte
		var r Received
		if _, r.Err = io.ReadFull(c, id[:]); r.Err == nil {
			r.ID = binary.BigEndian.Uint64(id[:])
			r.Hash, r.Size, r.Err = Hash(c)
		} else {
			r.Err = fmt.Errorf("before its number came: %w", r.Err)
		}
		select {
		case reports <- r:
		default: // more connections than the test made; it will miss one
		}
	})
	return addr, reports
}
