// Command peer is what runs in the pods beside the sidecar: a real MCP server and a real agent, both on the official
// Go SDK, and the questions that a test asks from inside a container.
//
//	peer server [--listen ADDRESS] [--certificate FILE --key FILE] [--control ADDRESS]
//	peer agent [URL] [--era legacy|modern] [--clients N] [--every TIME] [--calls N] [--hold TIME] [--linger TIME] [--patient] [--forgive]
//	             without a URL: what MCP_SERVER_URL or OUTRIGGER_SERVERS names, with MCP_API_KEY if there is one
//	peer search TEXT...      which files and environments of this container hold one of the texts
//	peer write PATH...       which of these files can be created
//	peer flood URL REQUESTS BYTES
//	             what becomes of so many requests that all stop before the last byte of their bodies
//	peer post URL MESSAGE    status and body of the answer to one request, made by hand
//	peer sleep TIME
//
// Both server and agent tell what they have seen as JSON on their control address.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail(64, "usage: peer server|agent|search|write|flood|post|sleep ...")
	}
	arguments := os.Args[2:]
	switch os.Args[1] {
	case "server":
		runServer(arguments)
	case "agent":
		os.Exit(runAgent(arguments))
	case "search":
		search(arguments)
	case "write":
		write(arguments)
	case "flood":
		if len(arguments) != 3 {
			fail(64, "usage: peer flood URL REQUESTS BYTES")
		}
		requests, errRequests := strconv.Atoi(arguments[1])
		length, errLength := strconv.Atoi(arguments[2])
		if err := errors.Join(errRequests, errLength); err != nil {
			fail(64, err)
		}
		flood(arguments[0], requests, length)
	case "post":
		if len(arguments) != 2 {
			fail(64, "usage: peer post URL MESSAGE")
		}
		post(arguments[0], arguments[1])
	case "sleep":
		length, err := time.ParseDuration(arguments[0])
		if err != nil {
			fail(64, err)
		}
		time.Sleep(length)
	default:
		fail(64, "there is no command ", os.Args[1])
	}
}

func fail(code int, causes ...any) {
	fmt.Fprintln(os.Stderr, append([]any{"peer:"}, causes...)...)
	os.Exit(code)
}

// say writes one line of JSON to standard output.
func say(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		fail(70, err)
	}
	fmt.Println(string(line))
}
