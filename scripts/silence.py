"""A long silent call, watched byte by byte: what an SDK would hide."""

import http.client
import json
import time
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
