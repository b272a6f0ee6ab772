package main

import (
	"encoding/json"
	"net/http"
)

// conversion has the fields of a ConversionReview that matter here, in both directions.
type conversion struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Request    *toConvert    `json:"request,omitempty"`
	Response   *hasConverted `json:"response,omitempty"`
}

type toConvert struct {
	UID               string           `json:"uid"`
	DesiredAPIVersion string           `json:"desiredAPIVersion"`
	Objects           []map[string]any `json:"objects"`
}

type hasConverted struct {
	UID              string           `json:"uid"`
	ConvertedObjects []map[string]any `json:"convertedObjects"`
	Result           outcome          `json:"result"`
}

type outcome struct {
	Status string `json:"status"`
}

// convert gives objects the version that is asked for and notes in them which one they had.
func convert(w http.ResponseWriter, r *http.Request) {
	var asked conversion
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Request == nil {
		http.Error(w, "not a conversion review", http.StatusBadRequest)
		return
	}
	for _, object := range asked.Request.Objects {
		object["convertedFrom"] = object["apiVersion"]
		object["apiVersion"] = asked.Request.DesiredAPIVersion
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(conversion{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: &hasConverted{
		UID: asked.Request.UID, ConvertedObjects: asked.Request.Objects, Result: outcome{"Success"}}})
}
