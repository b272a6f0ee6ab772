package targets

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// Data is n pseudo-random bytes that both ends can make by themselves. They do
// not repeat, so a lost, doubled or swapped piece changes the hash.
func Data(seed uint64, n int64) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// Hash is the SHA-256 of everything in r.
func Hash(r io.Reader) ([sha256.Size]byte, int64, error) {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return [sha256.Size]byte(h.Sum(nil)), n, err
}

// Request asks a Source for data, or announces an upload to a Sink.
type Request struct {
	Seed uint64 // of a Source's data; a Sink does not look at it
	Size int64
}

// requestSize is the length of a Request on the wire.
const requestSize = 16

// Bytes is the request as it is sent.
func (r Request) Bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, r.Seed)
	return binary.BigEndian.AppendUint64(b, uint64(r.Size))
}

func readRequest(r io.Reader) (Request, error) {
	var b [requestSize]byte
	_, err := io.ReadFull(r, b[:])
	return Request{
		Seed: binary.BigEndian.Uint64(b[:8]),
		Size: int64(binary.BigEndian.Uint64(b[8:])),
	}, err
}

// Source answers a Request with its data and closes at once.
func Source(t testing.TB) string {
	return serve(t, func(c *net.TCPConn) {
		if req, err := readRequest(c); err == nil {
			// A failure shows as missing bytes at the other end.
			_, _ = io.Copy(c, Data(req.Seed, req.Size))
		}
	})
}

// Sink reads as many bytes as the Request announces and answers with the
// SHA-256 of what it got.
func Sink(t testing.TB) string {
	return serve(t, func(c *net.TCPConn) {
		req, err := readRequest(c)
		if err != nil {
			return
		}
		if hash, n, err := Hash(io.LimitReader(c, req.Size)); err == nil && n == req.Size {
			_, _ = c.Write(hash[:])
		}
	})
}

// Digest reads to the end of the stream and then answers with the SHA-256: it
// works only if the dialling side's half-close arrives and leaves the other
// direction open.
func Digest(t testing.TB) string {
	return serve(t, func(c *net.TCPConn) {
		if hash, _, err := Hash(c); err == nil {
			_, _ = c.Write(hash[:])
		}
	})
}
