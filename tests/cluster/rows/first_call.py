"""Row 1: from `helm install` to the agent's first MCP call through the sidecar, against a real MCP server."""

import time

from cluster import Cluster, tally
from report import Report, say, until

LIMIT = 120


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row1")
    upstream = cluster.upstream(space)
    upstream.accept("first-call-token")
    cluster.secret(space, "mcp-token", {"token": "first-call-token"})

    began = time.monotonic()
    cluster.install_agent(space, "agent", upstream.url, args=["agent"], token="mcp-token")
    calls = until("the agent's first call", lambda: first_call(cluster, space), LIMIT, every=0.1)
    took = time.monotonic() - began
    say(f"first call after {took:.1f} s")

    report.check("from helm install to the first call in under two minutes", took < LIMIT, f"{took:.1f} s")
    report.check("no call failed before it", calls["failed"] == 0, calls["errors"])
    seen = upstream.status()
    report.check("the server executed it", seen["calls"].get("echo", 0) >= 1, f"{seen['calls']}")
    report.check(
        "it came with the token that the agent does not hold",
        set(seen["seen"]) == {"first-call-token"},
        f"{seen['refused']} refused",
    )


def first_call(cluster: Cluster, space: str) -> dict | None:
    for pod in cluster.pods(space, "app=agent"):
        calls = tally(pod)
        if calls["calls"] or calls["failed"]:
            return calls
    return None
