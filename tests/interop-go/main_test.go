package interop

import (
	"fmt"
	"os"
	"testing"

	"tunnel.test/interop/harness"
)

// shared holds one running pair per link. Starting a pair takes longer than
// most tests, so the tests that do no harm to one share it.
var shared = make(map[harness.Link]*harness.Pair)

func TestMain(m *testing.M) {
	if err := harness.CheckBinaries(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	for _, pair := range shared {
		pair.Stop()
	}
	os.Exit(code)
}

func sharedPair(t *testing.T, link harness.Link) *harness.Pair {
	t.Helper()
	if shared[link] == nil {
		pair, err := harness.StartPair(link)
		if err != nil {
			t.Fatal(err)
		}
		shared[link] = pair
	}
	return shared[link]
}

// discard makes the next test start a pair of its own, so that what one test
// broke is not reported by all that follow.
func discard(link harness.Link) {
	if pair := shared[link]; pair != nil {
		pair.Stop()
		delete(shared, link)
	}
}

// combo is one way from a kube-apiserver to a target.
type combo struct {
	*harness.Pair
	frontend harness.Frontend
	dial     harness.Dial
}

// forEachLink runs a test on the shared pair of every link. Tests end their
// own connections; one left behind on the server or the agent fails the test.
func forEachLink(t *testing.T, test func(*testing.T, *harness.Pair)) {
	t.Helper()
	for _, link := range harness.Links {
		t.Run(string(link), func(t *testing.T) {
			onSharedPair(t, link, test)
		})
	}
}

// forEachCombo runs a test for every frontend over every link.
func forEachCombo(t *testing.T, test func(*testing.T, combo)) {
	t.Helper()
	for _, link := range harness.Links {
		for _, frontend := range harness.Frontends {
			t.Run(fmt.Sprintf("%s/%s", frontend, link), func(t *testing.T) {
				onSharedPair(t, link, func(t *testing.T, pair *harness.Pair) {
					test(t, combo{pair, frontend, pair.Server.EgressDial(t, frontend)})
				})
			})
		}
	}
}

func onSharedPair(t *testing.T, link harness.Link, test func(*testing.T, *harness.Pair)) {
	t.Helper()
	pair := sharedPair(t, link)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(pair.Logs())
			discard(link)
		}
	})
	test(t, pair)
	// Before the targets go away: their end would end a leaked connection too.
	pair.RequireIdle(t)
}
