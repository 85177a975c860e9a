package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// post sends one message of the modern era, with the headers that repeat what is in it, and prints status and body of
// the answer: an SDK would show its own error instead of them.
func post(url, message string) {
	var told struct {
		Method string `json:"method"`
		Params struct {
			Name string `json:"name"`
		} `json:"params"`
	}
	if err := json.Unmarshal([]byte(message), &told); err != nil {
		fail(64, err)
	}
	request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(message))
	if err != nil {
		fail(64, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/event-stream")
	request.Header.Set("Mcp-Protocol-Version", modernVersion)
	request.Header.Set("Mcp-Method", told.Method)
	if told.Params.Name != "" {
		request.Header.Set("Mcp-Name", told.Params.Name)
	}
	client := http.Client{Timeout: 30 * time.Second}
	answer, err := client.Do(request)
	if err != nil {
		fail(1, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		fail(1, err)
	}
	say(map[string]any{"status": answer.StatusCode, "body": string(body)})
}
