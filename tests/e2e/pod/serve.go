package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// serve answers plain HTTP on port 8080.
func serve() error {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", hello)
	mux.HandleFunc("/blob", blob)
	mux.HandleFunc("/upgrade", upgrade)
	return http.ListenAndServe(":8080", mux)
}

func hello(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "hello from the pod")
}

// blob sends the numbers 0, 1, 2, ... as 8 bytes each: no two places are alike, so a lost, repeated
// or misplaced piece changes the checksum, and the other side can make the same bytes itself.
func blob(w http.ResponseWriter, r *http.Request) {
	size, err := strconv.ParseUint(r.URL.Query().Get("bytes"), 10, 40)
	if err != nil || size%8 != 0 {
		http.Error(w, "bytes must be a multiple of 8", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatUint(size, 10))
	out := bufio.NewWriterSize(w, 64<<10)
	var word [8]byte
	for number := uint64(0); number < size/8; number++ {
		binary.LittleEndian.PutUint64(word[:], number)
		if _, err := out.Write(word[:]); err != nil {
			return
		}
	}
	out.Flush()
}

// upgrade leaves HTTP and then returns every byte it gets.
func upgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "e2e-echo" {
		http.Error(w, "ask for the upgrade e2e-echo", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: e2e-echo\r\n\r\n"); err != nil {
		return
	}
	io.Copy(conn, buffered)
}
