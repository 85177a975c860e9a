// Command counterpart is the Go SDK as a real MCP peer: a server with the tools, and a client with the
// scenarios, that ../README.md describes.
//
//	counterpart server --port N [--mode both|legacy|modern|stateless]
//	counterpart client URL SCENARIO[,..]|all [--era auto|legacy|modern|VERSION] [--seconds N]
package main

import (
	"fmt"
	"os"
)

const modernVersion = "2026-07-28"

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "server":
			os.Exit(runServer(os.Args[2:]))
		case "client":
			os.Exit(runClient(os.Args[2:]))
		}
	}
	fmt.Fprintln(os.Stderr, "usage: counterpart server --port N | client URL SCENARIO[,..]|all")
	os.Exit(64)
}
