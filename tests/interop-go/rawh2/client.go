// Package rawh2 is an HTTP/2 client that lets a test choose every byte of a
// gRPC call's headers. grpc-go would only ever send what the version in go.mod
// sends; the kube-apiservers in the field have others.
package rawh2

import (
	"bytes"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Client is one HTTP/2 connection with prior knowledge over a Unix socket. It
// is for one goroutine: it reads frames only while someone waits for one.
type Client struct {
	conn    net.Conn
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	lastID  uint32
	streams map[uint32]*Stream
}

// limit bounds the life of a Client; none does more than a few round trips.
const limit = 15 * time.Second

// Dial connects and exchanges the preface.
func Dial(socket string) (*Client, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, framer: http2.NewFramer(conn, conn), streams: make(map[uint32]*Stream)}
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := c.start(); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) start() error {
	if err := c.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	return c.framer.WriteSettings()
}

// Close drops the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Encoder is the client's HPACK state, for tests that change its table.
func (c *Client) Encoder() *hpack.Encoder { return c.encoder }

// Block encodes fields. Fields that an earlier block put into the dynamic table
// become references to it.
func (c *Client) Block(fields []hpack.HeaderField) ([]byte, error) {
	c.block.Reset()
	for _, f := range fields {
		if err := c.encoder.WriteField(f); err != nil {
			return nil, err
		}
	}
	return bytes.Clone(c.block.Bytes()), nil
}

// CallFields are the headers of a Proxy call in grpc-go's order.
func CallFields(authority string) []hpack.HeaderField {
	return []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/ProxyService/Proxy"},
		{Name: ":authority", Value: authority},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "user-agent", Value: "grpc-go/1.27.1"},
		{Name: "te", Value: "trailers"},
	}
}

// Framing says how a header block is cut into frames.
type Framing struct {
	Piece    int  // bytes per frame, the rest in CONTINUATIONs; 0 is one frame
	Decorate bool // with padding and a priority, which the receiver must skip
}

// Open starts a stream with the header block.
func (c *Client) Open(block []byte, framing Framing) (*Stream, error) {
	id := c.lastID + 1
	if c.lastID > 0 {
		id = c.lastID + 2
	}
	c.lastID = id
	first, rest := cut(block, framing.Piece)
	p := http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: len(rest) == 0}
	if framing.Decorate {
		p.PadLength = 17
		p.Priority = http2.PriorityParam{Weight: 15, Exclusive: true}
	}
	if err := c.framer.WriteHeaders(p); err != nil {
		return nil, err
	}
	for len(rest) > 0 {
		first, rest = cut(rest, framing.Piece)
		if err := c.framer.WriteContinuation(id, len(rest) == 0, first); err != nil {
			return nil, err
		}
	}
	s := &Stream{client: c, id: id}
	c.streams[id] = s
	return s, nil
}

func cut(b []byte, size int) (first, rest []byte) {
	if size <= 0 || size >= len(b) {
		return b, nil
	}
	return b[:size], b[size:]
}

// readFrame reads one frame and gives it to its stream.
func (c *Client) readFrame() error {
	frame, err := c.framer.ReadFrame()
	if err != nil {
		return err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server sent GOAWAY %v %q", f.ErrCode, f.DebugData())
	}
	if s := c.streams[frame.Header().StreamID]; s != nil {
		return s.take(frame)
	}
	return nil
}
