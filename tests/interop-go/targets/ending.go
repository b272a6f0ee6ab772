package targets

import (
	"net"
	"testing"
)

// The commands an Ending target understands.
const (
	SayFIN byte = 'F'
	SayRST byte = 'R'
)

// Ending waits for one byte and then ends the connection the way it says.
func Ending(t testing.TB) string {
	return serve(t, func(c *net.TCPConn) {
		var command [1]byte
		if _, err := c.Read(command[:]); err != nil {
			return
		}
		if command[0] == SayRST {
			// With no linger time the kernel sends RST instead of FIN.
			_ = c.SetLinger(0)
		}
		c.Close()
	})
}
