package rawh2

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// prefix is the length of what gRPC puts before each message: a flag and four
// bytes of length.
const prefix = 5

// Stream is one Proxy call.
type Stream struct {
	client *Client
	id     uint32
	data   bytes.Buffer // received and not yet taken
	status string       // grpc-status of the trailers
	ended  bool
}

// Message is a packet as gRPC frames it.
func Message(p *client.Packet) ([]byte, error) {
	body, err := proto.Marshal(p)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...), nil
}

// Write sends bytes of messages, in one DATA frame.
func (s *Stream) Write(b []byte) error {
	return s.client.framer.WriteData(s.id, false, b)
}

// Send sends a packet in one DATA frame.
func (s *Stream) Send(p *client.Packet) error {
	message, err := Message(p)
	if err != nil {
		return err
	}
	return s.Write(message)
}

// Receive waits for the next packet.
func (s *Stream) Receive() (*client.Packet, error) {
	for {
		if b := s.data.Bytes(); len(b) >= prefix {
			if size := prefix + int(binary.BigEndian.Uint32(b[1:])); len(b) >= size {
				p := new(client.Packet)
				err := proto.Unmarshal(s.data.Next(size)[prefix:], p)
				return p, err
			}
		}
		if s.ended {
			return nil, fmt.Errorf("stream %d ended with grpc-status %q, a packet was due", s.id, s.status)
		}
		if err := s.client.readFrame(); err != nil {
			return nil, err
		}
	}
}

// End waits for the end of the call and returns its grpc-status. A packet that
// comes before the end is an error.
func (s *Stream) End() (string, error) {
	for !s.ended {
		if s.data.Len() > 0 {
			return "", fmt.Errorf("stream %d: %d bytes came, the end was due", s.id, s.data.Len())
		}
		if err := s.client.readFrame(); err != nil {
			return "", err
		}
	}
	return s.status, nil
}

func (s *Stream) take(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.DataFrame:
		s.data.Write(f.Data())
		s.ended = s.ended || f.StreamEnded()
	case *http2.MetaHeadersFrame:
		for _, field := range f.Fields {
			if field.Name == "grpc-status" {
				s.status = field.Value
			}
			if field.Name == ":status" && field.Value != "200" {
				return fmt.Errorf("stream %d: HTTP status %s", s.id, field.Value)
			}
		}
		s.ended = s.ended || f.StreamEnded()
	case *http2.RSTStreamFrame:
		// After a whole answer a server may ask for no more requests so
		// (RFC 9113 section 8.1); grpc-go's own servers do.
		if s.ended && f.ErrCode == http2.ErrCodeNo {
			return nil
		}
		return fmt.Errorf("the server reset stream %d: %v", s.id, f.ErrCode)
	}
	return nil
}
