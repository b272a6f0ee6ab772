package rawh2

import (
	"bytes"
	"fmt"

	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/proto/client"
)

// DialRequest asks for a connection. random comes back in the answer.
func DialRequest(address string, random int64) *client.Packet {
	return &client.Packet{
		Type: client.PacketType_DIAL_REQ,
		Payload: &client.Packet_DialRequest{
			DialRequest: &client.DialRequest{Protocol: "tcp", Address: address, Random: random},
		},
	}
}

// CloseRequest asks to close a connection.
func CloseRequest(id int64) *client.Packet {
	return &client.Packet{
		Type:    client.PacketType_CLOSE_REQ,
		Payload: &client.Packet_CloseRequest{CloseRequest: &client.CloseRequest{ConnectID: id}},
	}
}

func dataPacket(id int64, data []byte) *client.Packet {
	return &client.Packet{
		Type:    client.PacketType_DATA,
		Payload: &client.Packet_Data{Data: &client.Data{ConnectID: id, Data: data}},
	}
}

// ReceiveDial waits for the answer to a DialRequest: the connection's id, or
// the text of the refusal.
func (s *Stream) ReceiveDial(random int64) (id int64, refusal string, err error) {
	p, err := s.Receive()
	if err != nil {
		return 0, "", err
	}
	r := p.GetDialResponse()
	if p.Type != client.PacketType_DIAL_RSP || r == nil || r.Random != random {
		return 0, "", fmt.Errorf("got %v, want the answer to dial %d", p, random)
	}
	if r.Error == "" && r.ConnectID == 0 {
		return 0, "", fmt.Errorf("the dial succeeded with connection id 0, which clients drop")
	}
	return r.ConnectID, r.Error, nil
}

// Echo sends data on a connection to an echo and waits for it to come back.
func (s *Stream) Echo(id int64, data []byte) error {
	if err := s.Send(dataPacket(id, data)); err != nil {
		return err
	}
	var got []byte
	for len(got) < len(data) {
		p, err := s.Receive()
		if err != nil {
			return err
		}
		if p.Type != client.PacketType_DATA || p.GetData().GetConnectID() != id {
			return fmt.Errorf("got %v, want data of connection %d", p, id)
		}
		got = append(got, p.GetData().GetData()...)
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("the echo differs")
	}
	return nil
}

// ReceiveClose waits for the CLOSE_RSP of a connection and returns its text.
func (s *Stream) ReceiveClose(id int64) (string, error) {
	p, err := s.Receive()
	if err != nil {
		return "", err
	}
	if p.Type != client.PacketType_CLOSE_RSP || p.GetCloseResponse().GetConnectID() != id {
		return "", fmt.Errorf("got %v, want CLOSE_RSP of connection %d", p, id)
	}
	return p.GetCloseResponse().GetError(), nil
}
