package interop

import "net"

// closed closes a connection and reports what the server made of it.
//
// konnectivity-client waits for the CLOSE_RSP and for the end of its tunnel at
// once, and the first brings about the second: now and then it finds both and
// picks the end, whatever the server did. That one text says nothing about the
// server. That CLOSE_RSP comes, and without an error, is checked packet by
// packet in the raw tests.
func closed(conn net.Conn) error {
	if err := conn.Close(); err != nil && err.Error() != "tunnel closed" {
		return err
	}
	return nil
}
