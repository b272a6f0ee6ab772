package interop

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/apiserver-network-proxy/konnectivity-client/pkg/client"

	"tunnel.test/interop/harness"
	"tunnel.test/interop/targets"
)

// grpcFrontends are the ways to the gRPC frontend that the client library
// knows; the kube-apiserver itself uses only the first.
var grpcFrontends = []string{"uds", "tcp"}

func forEachGRPC(t *testing.T, test func(*testing.T, *grpcFrontend)) {
	t.Helper()
	for _, kind := range grpcFrontends {
		t.Run(kind, func(t *testing.T) {
			forEachLink(t, func(t *testing.T, pair *harness.Pair) {
				test(t, newGRPCFrontend(t, pair, kind))
			})
		})
	}
}

// grpcFrontend is how the client library reaches the server. It counts the
// connections it makes.
type grpcFrontend struct {
	*harness.Pair
	address string
	options []grpc.DialOption
	dialled atomic.Int32
}

func newGRPCFrontend(t *testing.T, pair *harness.Pair, kind string) *grpcFrontend {
	t.Helper()
	f := &grpcFrontend{Pair: pair, address: pair.Server.UDS}
	network, creds := "unix", insecure.NewCredentials()
	if kind == "tcp" {
		config, err := pair.Server.PKI.ClientTLS()
		if err != nil {
			t.Fatal(err)
		}
		f.address, network, creds = pair.Server.TCP, "tcp", credentials.NewTLS(config)
	}
	f.options = []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			f.dialled.Add(1)
			return new(net.Dialer).DialContext(ctx, network, f.address)
		}),
	}
	return f
}

func (f *grpcFrontend) reusable(t *testing.T) client.ReusableTunnel {
	t.Helper()
	tunnel, err := client.CreateGRPCTunnel(context.Background(), f.address, f.options...)
	if err != nil {
		t.Fatal(err)
	}
	return tunnel
}

// One gRPC connection carries two hundred dials at the same time.
func TestReusableTunnelAtOnce(t *testing.T) {
	const n = 200
	forEachGRPC(t, func(t *testing.T, f *grpcFrontend) {
		tunnel, addr := f.reusable(t), targets.Echo(t)
		defer tunnel.Close()
		conns := make([]net.Conn, n)
		defer func() { closeAll(conns) }()
		err := together(n, func(i int) (err error) {
			conns[i], err = dialWithin(step, tunnel.DialContext, addr)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		harness.Within(t, step, "echoes", func() error {
			return together(n, func(i int) error {
				return roundTrip(conns[i], fmt.Appendf(nil, "connection %d", i))
			})
		})
		f.wantOneConnection(t)
	})
}

// Every dial repeats its headers by reference to HPACK's table, so the five
// hundredth is no longer the first one's bytes.
func TestReusableTunnelInTurn(t *testing.T) {
	const n = 500
	forEachGRPC(t, func(t *testing.T, f *grpcFrontend) {
		tunnel, addr := f.reusable(t), targets.Echo(t)
		defer tunnel.Close()
		harness.Within(t, 2*step, "dials in turn", func() error {
			for i := range n {
				conn, err := dialWithin(step, tunnel.DialContext, addr)
				if err != nil {
					return fmt.Errorf("dial %d: %w", i, err)
				}
				if err := roundTrip(conn, fmt.Appendf(nil, "dial %d", i)); err != nil {
					return fmt.Errorf("dial %d: %w", i, err)
				}
				if err := closed(conn); err != nil {
					return fmt.Errorf("close %d: %w", i, err)
				}
			}
			return nil
		})
		f.wantOneConnection(t)
	})
}

func (f *grpcFrontend) wantOneConnection(t *testing.T) {
	t.Helper()
	if n := f.dialled.Load(); n != 1 {
		t.Errorf("%d gRPC connections were made, want 1", n)
	}
}

// A refused dial, and a close of the whole tunnel, end only what they should.
func TestReusableTunnelKeepsDialsApart(t *testing.T) {
	forEachGRPC(t, func(t *testing.T, f *grpcFrontend) {
		tunnel := f.reusable(t)
		defer tunnel.Close()
		conn := mustDial(t, tunnel.DialContext, targets.Echo(t))
		defer conn.Close()
		wantRefusal(t, tunnel.DialContext, targets.Refusing(t), "connection refused")
		harness.Within(t, step, "the echo beside a refusal", func() error {
			return roundTrip(conn, []byte("still here"))
		})
		harness.Within(t, step, "closing the tunnel", tunnel.Close)
		harness.Within(t, step, "the read after it", func() error {
			if n, err := conn.Read(make([]byte, 1)); err == nil {
				return fmt.Errorf("read %d bytes from a closed tunnel", n)
			}
			return nil
		})
	})
}

func (f *grpcFrontend) singleUse(t *testing.T, ctx context.Context) client.Tunnel {
	t.Helper()
	tunnel, err := client.CreateSingleUseGrpcTunnelWithContext(context.Background(), ctx, f.address, f.options...)
	if err != nil {
		t.Fatal(err)
	}
	return tunnel
}

func TestSingleUseTunnel(t *testing.T) {
	forEachGRPC(t, func(t *testing.T, f *grpcFrontend) {
		tunnel, addr := f.singleUse(t, context.Background()), targets.Echo(t)
		conn := mustDial(t, tunnel.DialContext, addr)
		defer conn.Close()
		harness.Within(t, step, "echo", func() error { return roundTrip(conn, []byte("once")) })
		if _, err := dialWithin(step, tunnel.DialContext, addr); err == nil || !strings.Contains(err.Error(), "already dialed") {
			t.Errorf("the second dial returned %v", err)
		}
		// An error if the server does not answer the CLOSE_REQ within ten seconds.
		harness.Within(t, step, "close", func() error { return closed(conn) })
		harness.Within(t, step, "the end of the tunnel", func() error {
			<-tunnel.Done()
			return nil
		})
	})
}

// The end of the tunnel's context is the end of its connection.
func TestSingleUseTunnelCancelled(t *testing.T) {
	forEachGRPC(t, func(t *testing.T, f *grpcFrontend) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		tunnel := f.singleUse(t, ctx)
		conn := mustDial(t, tunnel.DialContext, targets.Echo(t))
		harness.Within(t, step, "echo", func() error { return roundTrip(conn, []byte("once")) })
		cancel()
		harness.Within(t, step, "the end of the tunnel", func() error {
			<-tunnel.Done()
			return nil
		})
	})
}
