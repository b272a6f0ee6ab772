// Command pod is every program that the suite's pods run, in one static binary.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	commands := map[string]func() error{
		"wait":    wait,
		"count":   count,
		"serve":   serve,
		"webhook": webhook,
	}
	if len(os.Args) != 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: pod wait|count|serve|webhook")
		os.Exit(2)
	}
	go exitOnTerm()
	if err := commands[os.Args[1]](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// exitOnTerm is needed because process 1 of a container ignores signals it does not handle.
func exitOnTerm() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	<-signals
	os.Exit(0)
}

// wait does nothing; a timer, because a program without one is a deadlock to Go.
func wait() error {
	for {
		time.Sleep(time.Hour)
	}
}

// count prints a number and the time it was printed, each second. The reader is on the same
// machine, so the time tells how late a line arrives, and the number whether one is missing.
func count() error {
	ticker := time.NewTicker(time.Second)
	for number := 1; ; number++ {
		if _, err := fmt.Printf("%d %d\n", number, time.Now().UnixNano()); err != nil {
			return err
		}
		<-ticker.C
	}
}
