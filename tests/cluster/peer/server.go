package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const modernVersion = "2026-07-28"

// upstream is the MCP server with what it is told to demand and what it has seen.
type upstream struct {
	server *mcp.Server

	mu       sync.Mutex
	accepted []string       // tokens; empty accepts everyone
	seen     map[string]int // requests by the token that they carried
	gens     map[string]int // requests by their X-Generation
	refused  int
	calls    map[string]int // executions by tool
	unwell   bool           // answers 503 to everything
	added    int
}

// status is what the control address answers.
type status struct {
	Accepted []string       `json:"accepted"`
	Seen     map[string]int `json:"seen"`
	Gens     map[string]int `json:"generations"`
	Refused  int            `json:"refused"`
	Calls    map[string]int `json:"calls"`
	Unwell   bool           `json:"unwell"`
}

type nothing struct{}

func runServer(arguments []string) {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	listen := flags.String("listen", "0.0.0.0:8080", "address of /mcp")
	control := flags.String("control", "0.0.0.0:8081", "address of the control interface")
	certificate := flags.String("certificate", "", "PEM file; with it /mcp is https")
	key := flags.String("key", "", "PEM file")
	flags.Parse(arguments)

	up := &upstream{seen: map[string]int{}, gens: map[string]int{}, calls: map[string]int{}}
	up.server = mcp.NewServer(&mcp.Implementation{Name: "peer", Version: "1"}, nil)
	up.addTools()

	go func() { fail(1, http.ListenAndServe(*control, up.control())) }()
	// What a client does not like about the certificate is the client's to say.
	quiet := log.New(io.Discard, "", 0)
	server := &http.Server{Addr: *listen, Handler: up.guard(up.eras()), ErrorLog: quiet}
	if *certificate == "" {
		fail(1, server.ListenAndServe())
	}
	server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	fail(1, server.ListenAndServeTLS(*certificate, *key))
}

func (up *upstream) addTools() {
	type echo struct {
		Text string `json:"text"`
	}
	addTool(up, "echo", func(_ context.Context, in echo) (string, error) { return "echo:" + in.Text, nil })

	type slow struct {
		Seconds float64 `json:"seconds"`
	}
	addTool(up, "slow", func(ctx context.Context, in slow) (string, error) {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Duration(in.Seconds * float64(time.Second))):
			return "slow done", nil
		}
	})
}

func addTool[In any](up *upstream, name string, run func(context.Context, In) (string, error)) {
	mcp.AddTool(up.server, &mcp.Tool{Name: name}, func(ctx context.Context, _ *mcp.CallToolRequest, in In) (*mcp.CallToolResult, any, error) {
		up.mu.Lock()
		up.calls[name]++
		up.mu.Unlock()
		answer, err := run(ctx, in)
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: answer}}}, nil, err
	})
}

// eras routes by era: one handler of the SDK cannot do sessions and stateless calls at once.
func (up *upstream) eras() http.Handler {
	server := func(*http.Request) *mcp.Server { return up.server }
	sessions := mcp.NewStreamableHTTPHandler(server, nil)
	stateless := mcp.NewStreamableHTTPHandler(server, &mcp.StreamableHTTPOptions{
		Stateless:                    true,
		PropagateRequestCancellation: true,
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Protocol-Version") >= modernVersion {
			stateless.ServeHTTP(w, r)
		} else {
			sessions.ServeHTTP(w, r)
		}
	})
	return mux
}

// guard counts requests by token and refuses those that it was told not to accept.
func (up *upstream) guard(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		up.mu.Lock()
		up.seen[token]++
		up.gens[r.Header.Get("X-Generation")]++
		unwell := up.unwell
		accepted := len(up.accepted) == 0 || slices.Contains(up.accepted, token)
		if !accepted {
			up.refused++
		}
		up.mu.Unlock()
		switch {
		case unwell:
			http.Error(w, "told to fail", http.StatusServiceUnavailable)
		case !accepted:
			w.Header().Set("WWW-Authenticate", `Bearer realm="peer"`)
			http.Error(w, "this token is not accepted", http.StatusUnauthorized)
		default:
			inner.ServeHTTP(w, r)
		}
	})
}

// control: GET / tells, POST /accept?token=A&token=B, /unwell, /well and /notify change.
func (up *upstream) control() http.Handler {
	mux := http.NewServeMux()
	change := func(path string, act func(*http.Request)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			up.mu.Lock()
			act(r)
			up.mu.Unlock()
			w.WriteHeader(http.StatusNoContent)
		})
	}
	change("/accept", func(r *http.Request) { up.accepted = r.URL.Query()["token"] })
	change("/unwell", func(*http.Request) { up.unwell = true })
	change("/well", func(*http.Request) { up.unwell = false })
	// A new tool: each session is told so, by the stream that it holds open.
	change("/notify", func(*http.Request) {
		up.added++
		name := fmt.Sprintf("added%d", up.added)
		go addTool(up, name, func(context.Context, nothing) (string, error) { return name, nil })
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		up.mu.Lock()
		defer up.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status{up.accepted, up.seen, up.gens, up.refused, up.calls, up.unwell})
	})
	return mux
}
