package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// fixture is the server's state, shared by all sessions of both eras.
type fixture struct {
	server    *mcp.Server
	cancelled atomic.Int64
	added     atomic.Int64
	mu        sync.Mutex
	calls     map[string]int
}

type none struct{}

type toolFunc[In any] func(context.Context, *mcp.CallToolRequest, In) (*mcp.CallToolResult, error)

// addTool registers a tool whose executions are counted by name.
func addTool[In any](f *fixture, name string, run toolFunc[In]) {
	mcp.AddTool(f.server, &mcp.Tool{Name: name}, func(ctx context.Context, req *mcp.CallToolRequest, in In) (*mcp.CallToolResult, any, error) {
		f.mu.Lock()
		f.calls[name]++
		f.mu.Unlock()
		result, err := run(ctx, req, in)
		return result, nil, err
	})
}

func text(format string, args ...any) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprintf(format, args...)}}}
}

func newFixture(options *mcp.ServerOptions) *fixture {
	options.SubscribeHandler = func(context.Context, *mcp.SubscribeRequest) error { return nil }
	options.UnsubscribeHandler = func(context.Context, *mcp.UnsubscribeRequest) error { return nil }
	f := &fixture{
		server: mcp.NewServer(&mcp.Implementation{Name: "go-counterpart", Version: "1"}, options),
		calls:  map[string]int{},
	}
	f.addPlainTools()
	f.addInteractiveTools()
	f.addNotifyingTools()
	f.addResourceAndPrompt()
	return f
}

func (f *fixture) addPlainTools() {
	type echoInput struct {
		Text string `json:"text"`
	}
	addTool(f, "echo", func(_ context.Context, _ *mcp.CallToolRequest, in echoInput) (*mcp.CallToolResult, error) {
		return text("echo:%s", in.Text), nil
	})

	// Silent: the SDK sends not even response headers before the first message.
	type slowInput struct {
		Seconds float64 `json:"seconds,omitempty"`
	}
	addTool(f, "slow", func(ctx context.Context, _ *mcp.CallToolRequest, in slowInput) (*mcp.CallToolResult, error) {
		if in.Seconds == 0 {
			in.Seconds = 15
		}
		select {
		case <-ctx.Done():
			f.cancelled.Add(1)
			return nil, ctx.Err()
		case <-time.After(time.Duration(in.Seconds * float64(time.Second))):
			return text("slow done"), nil
		}
	})

	addTool(f, "stats", func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, error) {
		return text(`{"cancelled":%d}`, f.cancelled.Load()), nil
	})
	addTool(f, "count_calls", func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		counts, err := json.Marshal(f.calls)
		return text("%s", counts), err
	})
}

// addInteractiveTools answers `input_required`; for a legacy session the SDK turns that into a pushed request.
func (f *fixture) addInteractiveTools() {
	ask := func(input mcp.InputRequest) *mcp.CallToolResult {
		return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"q": input}, RequestState: "asked"}
	}

	addTool(f, "elicit", func(_ context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, error) {
		if answer, ok := req.Params.InputResponses["q"].(*mcp.ElicitResult); ok {
			return text("elicit:%s:%v", answer.Action, answer.Content["name"]), nil
		}
		return ask(&mcp.ElicitParams{Message: "name?", RequestedSchema: map[string]any{
			"type":       "object",
			"properties": map[string]any{"name": map[string]any{"type": "string"}},
			"required":   []string{"name"},
		}}), nil
	})

	addTool(f, "sample", func(_ context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, error) {
		switch answer := req.Params.InputResponses["q"].(type) {
		case *mcp.CreateMessageResult:
			return text("sample:%s", answer.Content.(*mcp.TextContent).Text), nil
		case *mcp.CreateMessageWithToolsResult:
			return text("sample:%s", answer.Content[0].(*mcp.TextContent).Text), nil
		}
		message := &mcp.SamplingMessage{Role: "user", Content: &mcp.TextContent{Text: "hi"}}
		return ask(&mcp.CreateMessageParams{MaxTokens: 10, Messages: []*mcp.SamplingMessage{message}}), nil
	})

	addTool(f, "roots", func(_ context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, error) {
		if answer, ok := req.Params.InputResponses["q"].(*mcp.ListRootsResult); ok {
			return text("roots:%s", answer.Roots[0].URI), nil
		}
		return ask(&mcp.ListRootsParams{}), nil
	})
}

func (f *fixture) addNotifyingTools() {
	addTool(f, "progress", func(ctx context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, error) {
		token := req.Params.GetProgressToken()
		for i := 1; token != nil && i <= 5; i++ {
			params := &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(i), Total: 5}
			if err := req.Session.NotifyProgress(ctx, params); err != nil {
				return nil, err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return text("progressed"), nil
	})

	addTool(f, "log", func(ctx context.Context, req *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, error) {
		params := &mcp.LoggingMessageParams{Level: "warning", Logger: "counterpart", Data: "logged"}
		return text("logged"), req.Session.Log(ctx, params)
	})

	addTool(f, "add_tool", func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, error) {
		name := fmt.Sprintf("added%d", f.added.Add(1))
		addTool(f, name, func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, error) {
			return text("%s", name), nil
		})
		return text("added:%s", name), nil
	})

	addTool(f, "touch", func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, error) {
		time.AfterFunc(50*time.Millisecond, func() {
			params := &mcp.ResourceUpdatedNotificationParams{URI: "test://res"}
			if err := f.server.ResourceUpdated(context.Background(), params); err != nil {
				fmt.Fprintln(os.Stderr, "resource updated:", err)
			}
		})
		return text("touched"), nil
	})
}

func (f *fixture) addResourceAndPrompt() {
	resource := &mcp.Resource{URI: "test://res", Name: "res", MIMEType: "text/plain"}
	f.server.AddResource(resource, func(_ context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		contents := &mcp.ResourceContents{URI: req.Params.URI, MIMEType: "text/plain", Text: "res-text"}
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{contents}}, nil
	})

	prompt := &mcp.Prompt{Name: "hello", Arguments: []*mcp.PromptArgument{{Name: "name", Required: true}}}
	f.server.AddPrompt(prompt, func(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		greeting := &mcp.TextContent{Text: "hello " + req.Params.Arguments["name"]}
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: greeting}}}, nil
	})
}

func runServer(args []string) int {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	port := flags.Int("port", 0, "port on loopback, 0 for a free one")
	mode := flags.String("mode", "both", "both | legacy | modern | stateless")
	if err := flags.Parse(args); err != nil {
		return 64
	}

	options := &mcp.ServerOptions{}
	if *mode == "modern" {
		options.SupportedProtocolVersions = []string{modernVersion}
	}
	f := newFixture(options)

	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Printf("LISTENING http://%s/mcp\n", listener.Addr())
	fmt.Fprintln(os.Stderr, http.Serve(listener, f.handler(*mode)))
	return 1
}

// handler routes by era: one handler of the SDK cannot do stateful sessions and modern calls at once.
func (f *fixture) handler(mode string) http.Handler {
	server := func(*http.Request) *mcp.Server { return f.server }
	stateful := mcp.NewStreamableHTTPHandler(server, nil)
	stateless := mcp.NewStreamableHTTPHandler(server, &mcp.StreamableHTTPOptions{
		Stateless:                    true,
		PropagateRequestCancellation: true,
	})

	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", func(w http.ResponseWriter, r *http.Request) {
		modern := r.Header.Get("Mcp-Protocol-Version") >= modernVersion
		switch {
		case mode == "stateless", mode == "modern", mode == "both" && modern:
			stateless.ServeHTTP(w, r)
		default:
			stateful.ServeHTTP(w, r)
		}
	})
	return mux
}
