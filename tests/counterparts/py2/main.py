"""The Python SDK 2.x as a real MCP peer: a server with the tools, and a client with the scenarios, that
../README.md describes.

    main.py server --port N [--mode both|stateless]
    main.py client URL SCENARIO[,..]|all [--era auto|legacy|modern] [--seconds N]
"""

import argparse
import asyncio
import logging
import sys
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


def main() -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("server")
    server.add_argument("--port", type=int, default=0)
    server.add_argument("--mode", choices=["both", "stateless"], default="both")
    client = commands.add_parser("client")
    client.add_argument("url")
    client.add_argument("scenarios")
    client.add_argument("--era", choices=["auto", "legacy", "modern"], default="auto")
    client.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()

    # Each side imports only its own half of the SDK.
    if options.command == "server":
        from server import run_server

        run_server(options.port, stateless=options.mode == "stateless")
        return 0
    from client import run_client

    return asyncio.run(run_client(options))


if __name__ == "__main__":
    sys.exit(main())
