package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const allScenarios = "connect,list,call,prompt,resource,progress,elicit,sample,roots,log,list_changed,subscribe,cancel"

// peer is one connected client and what it has been told so far.
type peer struct {
	session *mcp.ClientSession
	version string
	seconds float64

	progress, logs, listChanges, updates atomic.Int64
}

type scenario func(*peer, context.Context) (string, error)

var scenarios = map[string]scenario{
	"connect":      (*peer).connected,
	"list":         (*peer).list,
	"call":         (*peer).echo,
	"prompt":       (*peer).prompt,
	"resource":     (*peer).resource,
	"progress":     (*peer).reportProgress,
	"elicit":       expectCall("elicit", "elicit:accept:bob"),
	"sample":       expectCall("sample", "sample:sampled"),
	"roots":        expectCall("roots", "roots:file:///r"),
	"log":          (*peer).log,
	"list_changed": (*peer).listChanged,
	"subscribe":    (*peer).subscribe,
	"cancel":       (*peer).cancel,
	"slow":         (*peer).slow,
	"count":        expectCall("count_calls", "{"),
}

func runClient(args []string) int {
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, "client needs URL and SCENARIO")
		return 64
	}
	url, names := args[0], args[1]
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	era := flags.String("era", "auto", "auto | legacy | modern | VERSION")
	seconds := flags.Float64("seconds", 15, "length of the tool in scenario slow")
	if err := flags.Parse(args[2:]); err != nil {
		return 64
	}
	if names == "all" {
		names = allScenarios
	}

	p := &peer{seconds: *seconds}
	started := time.Now()
	if err := p.connect(url, *era); err != nil {
		p.report("connect", "", err, started)
		return 1
	}
	failed := 0
	for _, name := range strings.Split(names, ",") {
		if !p.run(name) {
			failed = 1
		}
	}
	p.close()
	return failed
}

func (p *peer) run(name string) bool {
	limit := 8 * time.Second
	if name == "slow" {
		limit += time.Duration(p.seconds * float64(time.Second))
	}
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	started := time.Now()
	detail, err := "", errors.New("unknown scenario")
	if play, known := scenarios[name]; known {
		detail, err = play(p, ctx)
	}
	p.report(name, detail, err, started)
	return err == nil
}

func (p *peer) report(name, detail string, err error, started time.Time) {
	if err != nil {
		detail = strings.TrimSpace(detail + " ERR " + err.Error())
	}
	line, _ := json.Marshal(map[string]any{
		"client": "go", "scenario": name, "ok": err == nil, "detail": detail,
		"version": p.version, "ms": time.Since(started).Milliseconds(),
	})
	fmt.Println(string(line))
}

func (p *peer) connect(url, era string) error {
	client := mcp.NewClient(&mcp.Implementation{Name: "go-client", Version: "1"}, p.options())
	client.AddRoots(&mcp.Root{URI: "file:///r", Name: "r"})

	var options *mcp.ClientSessionOptions
	switch era {
	case "auto", "modern": // the SDK tries modern first; no option pins it
	case "legacy":
		options = &mcp.ClientSessionOptions{ProtocolVersion: "2025-11-25"}
	default:
		options = &mcp.ClientSessionOptions{ProtocolVersion: era}
	}
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	session, err := client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: url}, options)
	if err != nil {
		return err
	}
	p.session, p.version = session, session.InitializeResult().ProtocolVersion
	if era == "modern" && !p.modern() {
		return fmt.Errorf("wanted the modern era, got %s", p.version)
	}
	return nil
}

func (p *peer) options() *mcp.ClientOptions {
	return &mcp.ClientOptions{
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"name": "bob"}}, nil
		},
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			content := &mcp.TextContent{Text: "sampled"}
			return &mcp.CreateMessageResult{Role: "assistant", Model: "m", Content: content}, nil
		},
		ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { p.progress.Add(1) },
		LoggingMessageHandler:       func(context.Context, *mcp.LoggingMessageRequest) { p.logs.Add(1) },
		ToolListChangedHandler:      func(context.Context, *mcp.ToolListChangedRequest) { p.listChanges.Add(1) },
		ResourceUpdatedHandler:      func(context.Context, *mcp.ResourceUpdatedNotificationRequest) { p.updates.Add(1) },
	}
}

// close ends the session, but does not wait for a peer that never answers the DELETE.
func (p *peer) close() {
	started := time.Now()
	closed := make(chan error, 1)
	go func() { closed <- p.session.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			p.report("close", "", err, started)
		}
	case <-time.After(5 * time.Second):
		p.report("close", "", errors.New("timeout"), started)
	}
}

func (p *peer) modern() bool { return p.version >= modernVersion }

func (p *peer) call(ctx context.Context, tool string, args map[string]any, meta mcp.Meta) (string, error) {
	if args == nil {
		args = map[string]any{}
	}
	result, err := p.session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args, Meta: meta})
	if err != nil {
		return "", err
	}
	answer := ""
	if len(result.Content) > 0 {
		if content, ok := result.Content[0].(*mcp.TextContent); ok {
			answer = content.Text
		}
	}
	if result.IsError {
		return "", fmt.Errorf("isError: %s", answer)
	}
	return answer, nil
}

func expectCall(tool, prefix string) scenario {
	return func(p *peer, ctx context.Context) (string, error) {
		answer, err := p.call(ctx, tool, nil, nil)
		return expect(answer, prefix, err)
	}
}

func expect(got, prefix string, err error) (string, error) {
	if err == nil && !strings.HasPrefix(got, prefix) {
		err = fmt.Errorf("expected %q", prefix)
	}
	return got, err
}

// arrived waits up to three seconds for a counter to reach a number.
func arrived(counter *atomic.Int64, number int64) error {
	for range 60 {
		if counter.Load() >= number {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%d of %d notifications", counter.Load(), number)
}

func (p *peer) connected(context.Context) (string, error) {
	if info := p.session.InitializeResult().ServerInfo; info != nil {
		return info.Name, nil
	}
	return "", nil
}

func (p *peer) list(ctx context.Context) (string, error) {
	result, err := p.session.ListTools(ctx, nil)
	if err != nil {
		return "", err
	}
	if len(result.Tools) < 11 {
		err = errors.New("expected 11 tools or more")
	}
	return fmt.Sprint(len(result.Tools)), err
}

func (p *peer) echo(ctx context.Context) (string, error) {
	answer, err := p.call(ctx, "echo", map[string]any{"text": "hi"}, nil)
	return expect(answer, "echo:hi", err)
}

func (p *peer) prompt(ctx context.Context) (string, error) {
	params := &mcp.GetPromptParams{Name: "hello", Arguments: map[string]string{"name": "x"}}
	result, err := p.session.GetPrompt(ctx, params)
	if err != nil {
		return "", err
	}
	return expect(result.Messages[0].Content.(*mcp.TextContent).Text, "hello x", nil)
}

func (p *peer) resource(ctx context.Context) (string, error) {
	result, err := p.session.ReadResource(ctx, &mcp.ReadResourceParams{URI: "test://res"})
	if err != nil {
		return "", err
	}
	return expect(result.Contents[0].Text, "res-text", nil)
}

func (p *peer) reportProgress(ctx context.Context) (string, error) {
	before := p.progress.Load()
	answer, err := p.call(ctx, "progress", nil, mcp.Meta{"progressToken": "token-1"})
	if answer, err = expect(answer, "progressed", err); err != nil {
		return answer, err
	}
	return answer, arrived(&p.progress, before+5)
}

func (p *peer) log(ctx context.Context) (string, error) {
	before := p.logs.Load()
	var meta mcp.Meta
	if p.modern() {
		meta = mcp.Meta{"io.modelcontextprotocol/logLevel": "info"}
	} else if err := p.session.SetLoggingLevel(ctx, &mcp.SetLoggingLevelParams{Level: "info"}); err != nil {
		return "logging/setLevel", err
	}
	answer, err := p.call(ctx, "log", nil, meta)
	if err != nil {
		return answer, err
	}
	return answer, arrived(&p.logs, before+1)
}

func (p *peer) listChanged(ctx context.Context) (string, error) {
	before := p.listChanges.Load()
	time.Sleep(200 * time.Millisecond) // for the stream that brings it
	answer, err := p.call(ctx, "add_tool", nil, nil)
	if err != nil {
		return answer, err
	}
	return answer, arrived(&p.listChanges, before+1)
}

func (p *peer) subscribe(ctx context.Context) (string, error) {
	before := p.updates.Load()
	if err := p.session.Subscribe(ctx, &mcp.SubscribeParams{URI: "test://res"}); err != nil {
		return "resources/subscribe", err
	}
	time.Sleep(200 * time.Millisecond)
	answer, err := p.call(ctx, "touch", nil, nil)
	if err == nil {
		err = arrived(&p.updates, before+1)
	}
	return answer, errors.Join(err, p.session.Unsubscribe(ctx, &mcp.UnsubscribeParams{URI: "test://res"}))
}

// cancel abandons a slow call and waits until the server says that it noticed.
func (p *peer) cancel(ctx context.Context) (string, error) {
	before, err := p.call(ctx, "stats", nil, nil)
	if err != nil {
		return "", err
	}
	impatient, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	if _, err := p.call(impatient, "slow", nil, nil); err == nil {
		return "", errors.New("the call was not cancelled")
	}
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		if after, err := p.call(ctx, "stats", nil, nil); err == nil && after != before {
			return before + "->" + after, nil
		}
	}
	return before, errors.New("the server did not notice")
}

func (p *peer) slow(ctx context.Context) (string, error) {
	answer, err := p.call(ctx, "slow", map[string]any{"seconds": p.seconds}, nil)
	return expect(answer, "slow done", err)
}
