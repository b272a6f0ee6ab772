package interop

import (
	"strings"
	"testing"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/rawh2"
	"tunnel.test/interop/targets"
)

// openCall opens a stream with the headers of a current client.
func openCall(t *testing.T, pair *harness.Pair, c *rawh2.Client) *rawh2.Stream {
	t.Helper()
	stream, err := c.Open(mustBlock(t, c, rawh2.CallFields(escaped(pair))), rawh2.Framing{})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// Old clients keep the connection of a refused dial until the server ends the
// call.
func TestRefusedCallIsEndedByTheServer(t *testing.T) {
	withRawClient(t, func(t *testing.T, pair *harness.Pair, c *rawh2.Client) {
		stream := openCall(t, pair, c)
		if err := stream.Send(rawh2.DialRequest(targets.Refusing(t), 1)); err != nil {
			t.Fatal(err)
		}
		_, refusal, err := stream.ReceiveDial(1)
		if err != nil || !strings.Contains(refusal, "connection refused") {
			t.Fatalf("the dial was answered with %q, %v", refusal, err)
		}
		wantGoodEnd(t, stream)
	})
}

// The same ones keep it after the CLOSE_RSP.
func TestClosedCallIsEndedByTheServer(t *testing.T) {
	withRawClient(t, func(t *testing.T, pair *harness.Pair, c *rawh2.Client) {
		block := mustBlock(t, c, rawh2.CallFields(escaped(pair)))
		stream, id, err := openDial(c, block, rawh2.Framing{}, targets.Echo(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := useAndClose(stream, id); err != nil {
			t.Fatal(err)
		}
		wantGoodEnd(t, stream)
	})
}

func wantGoodEnd(t *testing.T, stream *rawh2.Stream) {
	t.Helper()
	if status, err := stream.End(); err != nil || status != "0" {
		t.Errorf("the call ended with grpc-status %q, %v", status, err)
	}
}

// A client waits ten seconds for every CLOSE_RSP, also for that of a connection
// the server knows nothing of.
func TestUnknownConnectionIsClosedToo(t *testing.T) {
	withRawClient(t, func(t *testing.T, pair *harness.Pair, c *rawh2.Client) {
		stream := openCall(t, pair, c)
		if err := stream.Send(rawh2.CloseRequest(99)); err != nil {
			t.Fatal(err)
		}
		harness.Within(t, step/4, "CLOSE_RSP", func() error {
			_, err := stream.ReceiveClose(99)
			return err
		})
	})
}

// Messages and DATA frames have nothing to do with each other: one message may
// come in many frames, and the end of one with the start of the next.
func TestMessagesInPieces(t *testing.T) {
	withRawClient(t, func(t *testing.T, pair *harness.Pair, c *rawh2.Client) {
		stream := openCall(t, pair, c)
		message, err := rawh2.Message(rawh2.DialRequest(targets.Echo(t), 2))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range message {
			if err := stream.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		id, refusal, err := stream.ReceiveDial(2)
		if err != nil || refusal != "" {
			t.Fatalf("the dial was answered with %q, %v", refusal, err)
		}
		if err := useAndClose(stream, id); err != nil {
			t.Fatal(err)
		}
	})
}
