package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// workload is what an agent is told to do, and tally what came of it.
type workload struct {
	urls    []string
	era     string
	clients int           // of each server
	every   time.Duration // between two quick calls of a client
	calls   int           // quick calls of a client before it ends; 0: until it is told to
	hold    time.Duration // length of the one long call that each client makes first
	linger  time.Duration // how long it goes on calling after SIGTERM
	patient bool          // tries again until it is connected
	forgive bool          // calls that failed are told, and do not make it fail

	mu    sync.Mutex
	tally tally

	termed time.Time
}

type tally struct {
	Connected     int      `json:"connected"`
	Calls         int      `json:"calls"`
	Failed        int      `json:"failed"`
	Late          int      `json:"late"`    // calls that ended well after SIGTERM
	LateMs        int64    `json:"late_ms"` // when the last of them did, from SIGTERM
	LongBegun     int      `json:"long_begun"`
	LongDone      int      `json:"long_done"`
	ListChanged   int      `json:"list_changed"`
	ListChangedBy []int    `json:"list_changed_by"`  // the same for each client
	FirstConnect  int64    `json:"first_connect_ms"` // of the process's life
	FirstCall     int64    `json:"first_call_ms"`
	Slowest       int64    `json:"slowest_ms"`
	Version       string   `json:"version"`
	Errors        []string `json:"errors"`
}

var born = time.Now()

func runAgent(arguments []string) int {
	w := &workload{tally: tally{Errors: []string{}}}
	flags := flag.NewFlagSet("agent", flag.ExitOnError)
	flags.StringVar(&w.era, "era", "legacy", "legacy | modern")
	flags.IntVar(&w.clients, "clients", 1, "clients at the same time, each with a session of its own")
	flags.DurationVar(&w.every, "every", 200*time.Millisecond, "between two quick calls")
	flags.IntVar(&w.calls, "calls", 0, "quick calls of each client before it ends; 0 for no end")
	flags.DurationVar(&w.hold, "hold", 0, "length of a long call beside the quick ones")
	flags.DurationVar(&w.linger, "linger", 0, "how long to go on calling after SIGTERM")
	flags.BoolVar(&w.patient, "patient", false, "try again until connected")
	flags.BoolVar(&w.forgive, "forgive", false, "end with 0 also if calls have failed")
	control := flags.String("control", "0.0.0.0:9100", "address that tells what came of it")
	if len(arguments) > 0 && !strings.HasPrefix(arguments[0], "-") {
		w.urls, arguments = arguments[:1], arguments[1:]
	} else {
		w.urls = urlsFromEnvironment()
	}
	flags.Parse(arguments)

	go func() { fail(1, http.ListenAndServe(*control, http.HandlerFunc(w.tell))) }()
	ctx, stop := context.WithCancel(context.Background())
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-term
		w.mu.Lock()
		w.termed = time.Now()
		w.mu.Unlock()
		say(map[string]any{"event": "term"})
		time.Sleep(w.linger)
		stop()
	}()

	w.count(func(t *tally) { t.ListChangedBy = make([]int, len(w.urls)*w.clients) })
	var group sync.WaitGroup
	for place, url := range w.urls {
		for each := range w.clients {
			group.Go(func() { w.play(ctx, url, place*w.clients+each) })
		}
	}
	group.Wait()

	w.mu.Lock()
	defer w.mu.Unlock()
	say(map[string]any{"event": "end", "tally": w.tally})
	if w.tally.Calls == 0 || w.tally.Failed > 0 && !w.forgive {
		return 1
	}
	return 0
}

// urlsFromEnvironment finds the servers as an agent in a pod does, who is told where they are.
func urlsFromEnvironment() []string {
	if url := os.Getenv("MCP_SERVER_URL"); url != "" {
		return []string{url}
	}
	var told struct {
		Servers map[string]struct {
			URL string `json:"url"`
		} `json:"mcpServers"`
	}
	if err := json.Unmarshal([]byte(os.Getenv("OUTRIGGER_SERVERS")), &told); err != nil || len(told.Servers) == 0 {
		fail(64, "there is no URL, and neither MCP_SERVER_URL nor OUTRIGGER_SERVERS has one")
	}
	urls := []string{}
	for _, server := range told.Servers {
		urls = append(urls, server.URL)
	}
	return urls
}

// withKey sends the agent's own key, which gateways ask for, with each request.
type withKey string

func (key withKey) RoundTrip(request *http.Request) (*http.Response, error) {
	if key != "" {
		request = request.Clone(request.Context())
		request.Header.Set("X-API-Key", string(key))
	}
	return http.DefaultTransport.RoundTrip(request)
}

func (w *workload) tell(writer http.ResponseWriter, _ *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	writer.Header().Set("Content-Type", "application/json")
	json.NewEncoder(writer).Encode(w.tally)
}

// play is one client from connect to its end.
func (w *workload) play(ctx context.Context, url string, number int) {
	session := w.connect(ctx, url, number)
	if session == nil {
		return
	}
	// The session is left open: its end is not what is tested, and a peer that is gone would hold the process up.
	var long sync.WaitGroup
	if w.hold > 0 {
		long.Go(func() { w.callLong(session, number) })
	}
	for made := 0; (w.calls == 0 || made < w.calls) && ctx.Err() == nil; made++ {
		w.call(session, number, "echo", map[string]any{"text": "hi"}, "echo:hi", 30*time.Second)
		select {
		case <-ctx.Done():
		case <-time.After(w.every):
		}
	}
	long.Wait()
}

func (w *workload) connect(ctx context.Context, url string, number int) *mcp.ClientSession {
	for {
		client := mcp.NewClient(&mcp.Implementation{Name: "peer", Version: "1"}, &mcp.ClientOptions{
			ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) {
				w.count(func(t *tally) {
					t.ListChanged++
					t.ListChangedBy[number]++
				})
			},
		})
		var options *mcp.ClientSessionOptions
		if w.era == "legacy" {
			options = &mcp.ClientSessionOptions{ProtocolVersion: "2025-11-25"}
		}
		transport := &mcp.StreamableClientTransport{
			Endpoint:   url,
			HTTPClient: &http.Client{Transport: withKey(os.Getenv("MCP_API_KEY"))},
		}
		session, err := client.Connect(ctx, transport, options)
		if err == nil {
			w.count(func(t *tally) {
				t.Connected++
				t.Version = session.InitializeResult().ProtocolVersion
				say(map[string]any{"event": "connected"})
				if t.FirstConnect == 0 {
					t.FirstConnect = time.Since(born).Milliseconds()
				}
			})
			return session
		}
		if !w.patient {
			w.failed(number, "connect", err)
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (w *workload) callLong(session *mcp.ClientSession, number int) {
	w.count(func(t *tally) { t.LongBegun++ })
	arguments := map[string]any{"seconds": w.hold.Seconds()}
	if w.call(session, number, "slow", arguments, "slow done", w.hold+30*time.Second) {
		w.count(func(t *tally) { t.LongDone++ })
	}
}

func (w *workload) call(session *mcp.ClientSession, number int, tool string, arguments map[string]any, want string, limit time.Duration) bool {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	began := time.Now()
	result, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	if err == nil {
		err = judge(result, want)
	}
	if err != nil {
		w.failed(number, tool, err)
		return false
	}
	w.count(func(t *tally) {
		t.Calls++
		if t.FirstCall == 0 {
			t.FirstCall = time.Since(born).Milliseconds()
		}
		if tool == "echo" {
			t.Slowest = max(t.Slowest, time.Since(began).Milliseconds())
		}
		if !w.termed.IsZero() {
			t.Late++
			t.LateMs = time.Since(w.termed).Milliseconds()
			say(map[string]any{"event": "late", "ms": t.LateMs})
		}
	})
	return true
}

func judge(result *mcp.CallToolResult, want string) error {
	if len(result.Content) == 1 {
		if content, ok := result.Content[0].(*mcp.TextContent); ok && content.Text == want && !result.IsError {
			return nil
		}
	}
	answer, _ := json.Marshal(result)
	return fmt.Errorf("answered %s", answer)
}

func (w *workload) failed(number int, what string, err error) {
	w.count(func(t *tally) {
		t.Failed++
		text := fmt.Sprintf("client %d, %s after %d ms: %v", number, what, time.Since(born).Milliseconds(), err)
		say(map[string]any{"event": "failed", "text": text})
		if len(t.Errors) < 20 {
			t.Errors = append(t.Errors, text)
		}
	})
}

func (w *workload) count(change func(*tally)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.tally)
}
