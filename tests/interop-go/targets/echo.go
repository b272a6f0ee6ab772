package targets

import (
	"io"
	"net"
	"testing"
)

// Echo sends back what it gets, as it gets it.
func Echo(t testing.TB) string {
	return serve(t, echo)
}

// Banner is what the Banner target says.
const Banner = "220 this target speaks first\r\n"

// SpeaksFirst sends Banner as soon as it is connected to, as SSH, SMTP and
// MySQL servers do, and then echoes.
func SpeaksFirst(t testing.TB) string {
	return serve(t, func(c *net.TCPConn) {
		if _, err := io.WriteString(c, Banner); err == nil {
			echo(c)
		}
	})
}

func echo(c *net.TCPConn) {
	// Ends with the connection, however that ends; the dialling side judges.
	_, _ = io.Copy(c, c)
}
