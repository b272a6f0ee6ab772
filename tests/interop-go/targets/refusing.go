package targets

import (
	"fmt"
	"syscall"
	"testing"
)

// Refusing is an address that refuses connections. Its port is bound but not
// listened on, so that nobody else can start to answer there.
func Refusing(t testing.TB) string {
	t.Helper()
	_, port := boundSocket(t)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// boundSocket is a TCP socket with a port of 127.0.0.1, open until the end of
// the test.
func boundSocket(t testing.TB) (fd, port int) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, name.(*syscall.SockaddrInet4).Port
}
