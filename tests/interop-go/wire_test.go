package interop

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"

	"tunnel.test/interop/harness"
)

// The tests of this file need none of our programs. They pin what the client
// side of this suite's module versions puts on the wire, so that an update that
// changes it is seen here and not as a riddle elsewhere.

// listenAs serves one connection of a fresh Unix socket and returns a channel
// with how that went.
func listenAs(t *testing.T, serve func(net.Conn) error) (socket string, served <-chan error) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		done <- serve(conn)
	}()
	return socket, done
}

// The trap for every HTTP/2 server that checks :authority: grpc-go sends the
// percent-encoded path of the socket, which is no authority at all.
func TestGRPCSendsTheSocketPathAsAuthority(t *testing.T) {
	const target = "10.99.0.1:10250"
	var call []hpack.HeaderField
	var message []byte
	socket, served := listenAs(t, func(conn net.Conn) (err error) {
		call, message, err = acceptCall(conn)
		return err // and the connection closes: the dial must fail
	})
	dial := harness.EgressDial(t, harness.UDSConnection("GRPC", socket))
	if _, err := dialWithin(step, dial, target); err == nil {
		t.Error("a dial succeeded without an answer")
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		":method":      "POST",
		":scheme":      "http",
		":path":        "/ProxyService/Proxy",
		":authority":   url.PathEscape(socket),
		"content-type": "application/grpc",
		"te":           "trailers",
	}
	for _, f := range call {
		if value, ok := want[f.Name]; ok && f.Value != value {
			t.Errorf("%s is %q, want %q", f.Name, f.Value, value)
		}
		delete(want, f.Name)
	}
	if len(want) > 0 {
		t.Errorf("not sent: %v", want)
	}
	checkDialRequest(t, message, target)
}

// acceptCall reads the headers and the first message of a call.
func acceptCall(conn net.Conn) (call []hpack.HeaderField, message []byte, err error) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil || string(preface) != http2.ClientPreface {
		return nil, nil, fmt.Errorf("preface %q: %v", preface, err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		return nil, nil, err
	}
	const prefix = 5
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return nil, nil, err
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			call = f.Fields
		case *http2.DataFrame:
			message = append(message, f.Data()...)
		}
		if len(message) >= prefix && len(message) >= prefix+int(binary.BigEndian.Uint32(message[1:])) {
			return call, message[prefix:], nil
		}
	}
}

func checkDialRequest(t *testing.T, message []byte, target string) {
	t.Helper()
	packet := new(client.Packet)
	if err := proto.Unmarshal(message, packet); err != nil {
		t.Fatal(err)
	}
	req := packet.GetDialRequest()
	if packet.Type != client.PacketType_DIAL_REQ || req.GetProtocol() != "tcp" || req.GetAddress() != target || req.GetRandom() <= 0 {
		t.Errorf("the first packet is %v", packet)
	}
	// A DIAL_REQ is number 0, which proto3 leaves out: the packet starts with
	// field 2, not with its type.
	if message[0] != 2<<3|2 {
		t.Errorf("the first packet starts with byte %#x", message[0])
	}
}

func TestConnectSendsTwoLines(t *testing.T) {
	const target = "[fd00::1]:10250"
	var head strings.Builder
	socket, served := listenAs(t, func(conn net.Conn) error {
		if err := readHead(conn, &head); err != nil {
			return err
		}
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		return err
	})
	dial := harness.EgressDial(t, harness.UDSConnection("HTTPConnect", socket))
	mustDial(t, dial, target).Close()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if want := "CONNECT " + target + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"; head.String() != want {
		t.Errorf("sent %q, want %q", head.String(), want)
	}
}

// Why a server must hold back a target that speaks first.
func TestConnectRefusesBytesWithTheAnswer(t *testing.T) {
	socket, served := listenAs(t, func(conn net.Conn) error {
		if err := readHead(conn, io.Discard); err != nil {
			return err
		}
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nhello")
		return err
	})
	dial := harness.EgressDial(t, harness.UDSConnection("HTTPConnect", socket))
	_, err := dial(context.Background(), "tcp", "10.0.0.1:22")
	if err == nil || !strings.Contains(err.Error(), "unexpected 5 bytes of buffered data") {
		t.Errorf("the dial returned %v", err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

func readHead(conn net.Conn, to io.Writer) error {
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if _, err := io.WriteString(to, line); err != nil {
			return err
		}
		if line == "\r\n" {
			return nil
		}
	}
}
