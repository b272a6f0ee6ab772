package main

import (
	"fmt"
	"net/http"
	"strings"
)

// aggregated is the server of an aggregated API with one resource, whatever the API's group is called.
// It asks nobody who they are: only the tunnel leads here.
func aggregated(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) == 3 && parts[2] == "v1":
		fmt.Fprintf(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"%s/v1","resources":[`+
			`{"name":"greetings","singularName":"greeting","kind":"Greeting","namespaced":true,"verbs":["get","list"]}]}`, parts[1])
	case parts[len(parts)-1] == "greetings":
		fmt.Fprintf(w, `{"kind":"GreetingList","apiVersion":"%[1]s/v1","metadata":{},"items":[{"kind":"Greeting",`+
			`"apiVersion":"%[1]s/v1","metadata":{"name":"first","namespace":"default"},"text":"hello from behind the tunnel"}]}`, parts[1])
	default:
		http.NotFound(w, r)
	}
}
