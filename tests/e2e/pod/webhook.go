package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// review has the fields of an AdmissionReview that matter here, in both directions.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
}

type response struct {
	UID     string `json:"uid"`
	Allowed bool   `json:"allowed"`
	Status  status `json:"status"`
}

type status struct {
	Message string `json:"message"`
}

// webhook denies every object whose name starts with "denied", and serves a conversion and an aggregated API beside that.
// Its certificate is in the image.
func webhook() error {
	http.HandleFunc("/review", answer)
	http.HandleFunc("/convert", convert)
	http.HandleFunc("/apis/", aggregated)
	return http.ListenAndServeTLS(":8443", "/etc/webhook.crt", "/etc/webhook.key", nil)
}

func answer(w http.ResponseWriter, r *http.Request) {
	var asked review
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Request == nil {
		http.Error(w, "not an admission review", http.StatusBadRequest)
		return
	}
	verdict := &response{UID: asked.Request.UID, Allowed: !strings.HasPrefix(asked.Request.Name, "denied")}
	if !verdict.Allowed {
		verdict.Status.Message = fmt.Sprintf("the pod behind the tunnel denies %s", asked.Request.Name)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(review{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: verdict})
}
