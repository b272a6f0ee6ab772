package harness

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Gauges the suite reads. All must be 0 when nothing is going on.
const (
	ServerConnections  = "tunnel_server_connections"
	ServerPendingDials = "tunnel_server_pending_dials"
	AgentConnections   = "tunnel_agent_connections"
)

// Connections are not kept: an idle keep-alive connection would count among
// the descriptors that OpenFiles compares.
var httpClient = &http.Client{
	Timeout:   5 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true},
}

func get(url string) (int, string, error) {
	resp, err := httpClient.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func wantOK(url string) error {
	code, body, err := get(url)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("%s answered %d: %s", url, code, body)
	}
	return nil
}

// gauge sums a metric over its labels. A metric that is not there at all is an
// error, so that a renamed gauge cannot pass for 0.
func gauge(base, name string) (float64, error) {
	code, body, err := get(base + "/metrics")
	if err != nil {
		return 0, err
	}
	if code != http.StatusOK {
		return 0, fmt.Errorf("%s/metrics answered %d", base, code)
	}
	found := strings.Contains(body, "# TYPE "+name+" ")
	sum := 0.0
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || (rest[0] != '{' && rest[0] != ' ') {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric line %q: %w", lines.Text(), err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("%s/metrics has no %s", base, name)
	}
	return sum, nil
}
