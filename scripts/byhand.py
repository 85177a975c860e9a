"""An MCP client by hand, for what an SDK would hide: when bytes come, and that a session was lost."""

import concurrent.futures
import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

LEGACY = "2025-11-25"
MODERN = "2026-07-28"


@dataclass
class Answer:
    """An answer as it arrived."""

    status: int = 0
    headers_after: float = 0
    longest_silence: float = 0
    comments: int = 0
    text: str = ""

    def complaints(self, what: str, answer_id: str) -> list[str]:
        """What is wrong with it, where comments were due."""
        found = []
        if self.status != 200 or "slow done" not in self.text or f'"{answer_id}"' not in self.text:
            found.append(f"{what}: HTTP {self.status}, {self.text[-200:]!r}")
        if self.headers_after > 5:
            found.append(f"{what}: response headers after {self.headers_after:.0f} s")
        if self.comments == 0 or self.longest_silence > 20:
            found.append(f"{what}: {self.comments} comments, longest silence {self.longest_silence:.0f} s")
        return found


@dataclass
class Peer:
    """A client by hand."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def post(self, message: dict, headers: dict[str, str] | None = None) -> Answer:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=90)
        plain = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        started = last = time.monotonic()
        connection.request("POST", address.path, json.dumps(message), plain | self.headers | (headers or {}))
        response = connection.getresponse()
        answer = Answer(response.status, time.monotonic() - started)
        chunks = []
        while chunk := response.read1(65536):
            now = time.monotonic()
            answer.longest_silence = max(answer.longest_silence, now - last)
            last = now
            chunks.append(chunk)
        if session := response.headers.get("Mcp-Session-Id"):
            self.headers["Mcp-Session-Id"] = session
        connection.close()
        answer.text = b"".join(chunks).decode(errors="replace")
        answer.comments = sum(line.startswith(":") for line in answer.text.splitlines())
        return answer

    def initialize(self) -> None:
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "interop", "version": "1"}}
        self.post({"jsonrpc": "2.0", "id": "init-1", "method": "initialize", "params": params})
        self.headers["MCP-Protocol-Version"] = LEGACY
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def end(self) -> int:
        """Ends its session; gives the status of the answer."""
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=30)
        connection.request("DELETE", address.path, headers=self.headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def call(self, tool: str, arguments: dict, answer_id: str = "call-1") -> Answer:
        params = {"name": tool, "arguments": arguments}
        return self.post({"jsonrpc": "2.0", "id": answer_id, "method": "tools/call", "params": params})


def watch(what: str, url: str, modern: bool, seconds: float) -> list[str]:
    """Calls `slow` and says what was wrong: headers come soon, comments on the way, the result at the end."""
    peer = Peer(url)
    params: dict = {"name": "slow", "arguments": {"seconds": seconds}}
    headers = {}
    started = time.monotonic()
    try:
        if modern:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": {"name": "interop", "version": "1"},
            }
            headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "slow"}
        else:
            peer.initialize()
        answer = peer.post({"jsonrpc": "2.0", "id": "slow-1", "method": "tools/call", "params": params}, headers)
    except (OSError, http.client.HTTPException) as error:
        return [f"{what}: {error!r} after {time.monotonic() - started:.0f} s"]
    return answer.complaints(what, "slow-1")


def outlive_restart(
    what: str, direct_url: str, proxied_url: str, restart: Callable[[], None], sessions: int
) -> list[str]:
    """Legacy sessions call a tool after their server was restarted: each call succeeds and is executed once."""
    control, peers = Peer(direct_url), [Peer(proxied_url) for _ in range(sessions)]
    found = []
    try:
        with concurrent.futures.ThreadPoolExecutor(sessions) as pool:
            for peer in (control, *peers):
                peer.initialize()
            restart()
            if (lost := control.call("echo", {"text": "lost"})).status != 404:
                found.append(f"{what}: without the sidecar a lost session is answered {lost.status}, not 404")
            answers = list(pool.map(lambda peer: peer.call("echo", {"text": "again"}), peers))
        failed = [answer for answer in answers if answer.status != 200 or "echo:again" not in answer.text]
        if failed:
            found.append(f"{what}: {len(failed)} of {sessions} calls failed: {failed[0].status} {failed[0].text[:200]}")
        fresh = Peer(direct_url)
        fresh.initialize()
        counted = fresh.call("count_calls", {}).text
        if f'\\"echo\\":{sessions}' not in counted.replace(" ", ""):
            found.append(f"{what}: expected {sessions} executions, the server counts {counted[-200:]!r}")
    except (OSError, http.client.HTTPException) as error:
        found.append(f"{what}: {error!r}")
    return found
