package interop

import (
	"fmt"
	"net/url"
	"testing"

	"golang.org/x/net/http2/hpack"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/rawh2"
	"tunnel.test/interop/targets"
)

// unescaped is what grpc-go up to 1.56 sends as :authority, in every
// kube-apiserver up to 1.28; escaped is what it sends since.
func unescaped(p *harness.Pair) string { return p.Server.UDS }
func escaped(p *harness.Pair) string   { return url.PathEscape(p.Server.UDS) }

func withRawClient(t *testing.T, test func(*testing.T, *harness.Pair, *rawh2.Client)) {
	t.Helper()
	forEachLink(t, func(t *testing.T, pair *harness.Pair) {
		c, err := rawh2.Dial(pair.Server.UDS)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		test(t, pair, c)
	})
}

// openDial opens a stream with the block and dials the address on it. random is
// larger than 32 bits, as those of the client are.
func openDial(c *rawh2.Client, block []byte, framing rawh2.Framing, address string) (*rawh2.Stream, int64, error) {
	const random = 1<<62 + 12345
	stream, err := c.Open(block, framing)
	if err != nil {
		return nil, 0, err
	}
	if err := stream.Send(rawh2.DialRequest(address, random)); err != nil {
		return nil, 0, err
	}
	id, refusal, err := stream.ReceiveDial(random)
	if err == nil && refusal != "" {
		err = fmt.Errorf("the dial was refused: %s", refusal)
	}
	return stream, id, err
}

// useAndClose echoes on a dialled stream and closes the connection.
func useAndClose(stream *rawh2.Stream, id int64) error {
	if err := stream.Echo(id, fmt.Appendf(nil, "connection %d", id)); err != nil {
		return err
	}
	if err := stream.Send(rawh2.CloseRequest(id)); err != nil {
		return err
	}
	if text, err := stream.ReceiveClose(id); err != nil || text != "" {
		return fmt.Errorf("CLOSE_RSP %q: %v", text, err)
	}
	return nil
}

func TestAuthorityForms(t *testing.T) {
	forms := map[string]func(*harness.Pair) string{"unescaped": unescaped, "escaped": escaped}
	framings := map[string]rawh2.Framing{
		"one frame":           {},
		"continuations":       {Piece: 7},
		"padded and priority": {Decorate: true},
		"all of it":           {Piece: 20, Decorate: true},
	}
	for form, authority := range forms {
		for name, framing := range framings {
			t.Run(form+"/"+name, func(t *testing.T) {
				withRawClient(t, func(t *testing.T, pair *harness.Pair, c *rawh2.Client) {
					block := mustBlock(t, c, rawh2.CallFields(authority(pair)))
					stream, id, err := openDial(c, block, framing, targets.Echo(t))
					if err != nil {
						t.Fatal(err)
					}
					if err := useAndClose(stream, id); err != nil {
						t.Fatal(err)
					}
				})
			})
		}
	}
}

// The second call of a connection refers to the first one's headers. A server
// that rewrites :authority must keep HPACK's table all the same.
func TestAuthorityFromTheDynamicTable(t *testing.T) {
	for form, authority := range map[string]func(*harness.Pair) string{"unescaped": unescaped, "escaped": escaped} {
		t.Run(form, func(t *testing.T) {
			withRawClient(t, func(t *testing.T, pair *harness.Pair, c *rawh2.Client) {
				addr := targets.Echo(t)
				fields := rawh2.CallFields(authority(pair))
				for i, framing := range []rawh2.Framing{{}, {}, {Piece: 2}, {Decorate: true}} {
					block := mustBlock(t, c, fields)
					if i > 0 && len(block) != len(fields) {
						t.Fatalf("block %d has %d bytes: it is not %d references", i, len(block), len(fields))
					}
					stream, id, err := openDial(c, block, framing, addr)
					if err != nil {
						t.Fatalf("call %d: %v", i, err)
					}
					// Stays open: the calls are concurrent.
					defer func() {
						if err := useAndClose(stream, id); err != nil {
							t.Errorf("call %d: %v", i, err)
						}
					}()
				}
			})
		})
	}
}

// The table shrinks, is emptied and grows, fields come as never-indexed
// literals, and the two forms alternate, all on one connection.
func TestAuthorityWhileTheTableChanges(t *testing.T) {
	withRawClient(t, func(t *testing.T, pair *harness.Pair, c *rawh2.Client) {
		addr := targets.Echo(t)
		steps := []struct {
			table     uint32
			authority string
			sensitive bool
		}{
			{4096, unescaped(pair), false},
			{4096, escaped(pair), false},
			{4096, unescaped(pair), true},
			{128, unescaped(pair), false},
			{128, escaped(pair), false},
			{0, escaped(pair), false},
			{0, unescaped(pair), true},
			{4096, unescaped(pair), false},
			{4096, unescaped(pair), false},
		}
		for i, s := range steps {
			c.Encoder().SetMaxDynamicTableSize(s.table)
			fields := rawh2.CallFields(s.authority)
			for k := range fields {
				fields[k].Sensitive = s.sensitive
			}
			stream, id, err := openDial(c, mustBlock(t, c, fields), rawh2.Framing{}, addr)
			if err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			if err := useAndClose(stream, id); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
	})
}

func mustBlock(t *testing.T, c *rawh2.Client, fields []hpack.HeaderField) []byte {
	t.Helper()
	block, err := c.Block(fields)
	if err != nil {
		t.Fatal(err)
	}
	return block
}
