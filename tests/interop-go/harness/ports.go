package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are picked below the kernel's ephemeral range: an outgoing connection
// of any other process can then not take one between our look and the
// program's bind, and the numbers stay inside what Konnectivity's flags allow.
const lowestPort, highestPort = 15000, 32000

// freePorts returns n different ports that are free on 127.0.0.1 for TCP and
// UDP alike; the agent port is one number for both.
func freePorts(n int) ([]int, error) {
	seen := make(map[int]bool)
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > 200 {
			return nil, fmt.Errorf("no free port on 127.0.0.1 after %d tries", tries)
		}
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if !seen[port] && isFree(port) {
			seen[port] = true
			ports = append(ports, port)
		}
	}
	return ports, nil
}

func isFree(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return udp.Close() == nil
}
