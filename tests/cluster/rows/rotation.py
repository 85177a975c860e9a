"""Row 3: what the sidecar reads is changed under an agent that calls ten times a second."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from byhand import MODERN
from cluster import ADMIN_PORT, Cluster, Upstream, fetch, metric, tally
from report import Report, until

AGENT = ["agent", "--every", "100ms"]
LIMIT = 90


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row3")
    parts = [secret, configuration, authority]
    with ThreadPoolExecutor(len(parts)) as pool:
        for part in parts:
            pool.submit(report.attempt, part.__name__, part, cluster, report, space)


def none_lost(report: Report, pod: dict, during: str) -> None:
    """Twenty calls on, so that what has just changed was used by some."""
    before = tally(pod)["calls"]
    calls = until("twenty more calls", lambda: (now := tally(pod))["calls"] + now["failed"] >= before + 20 and now, 30)
    report.check(
        f"no call was lost {during}", calls["failed"] == 0, f"{calls['calls']} calls {calls['errors'] or ''}".strip()
    )


def secret(cluster: Cluster, report: Report, space: str) -> None:
    upstream = cluster.upstream(space)
    upstream.accept("token-old")
    cluster.secret(space, "mcp-token", {"token": "token-old"})
    pod = cluster.agent(space, "secret", upstream.url, args=AGENT, token="mcp-token")
    until("the agent calls", lambda: tally(pod)["calls"], 30)
    loaded = token_loaded_at(pod)
    report.check(
        "a metric shows the age of what was loaded",
        loaded and 0 <= time.time() - loaded < 120,
        loaded and f"{time.time() - loaded:.0f} s",
    )

    upstream.accept("token-old", "token-new")
    rotated = time.time()
    cluster.secret(space, "mcp-token", {"token": "token-new"})
    used = report.within("a changed Secret is used", LIMIT, lambda: upstream.status()["seen"].get("token-new"))
    if used:
        upstream.accept("token-new")
    none_lost(report, pod, "by the change of the Secret")
    report.check(
        "the metric shows that it is fresh",
        (token_loaded_at(pod) or 0) > rotated - 1,
        f"{time.time() - (token_loaded_at(pod) or 0):.0f} s old",
    )


def token_loaded_at(pod: dict) -> float | None:
    """The sum over the sources; this sidecar has one secret."""
    return metric(pod, "outrigger_secret_loaded_timestamp_seconds")


def document(upstream: Upstream, generation: str) -> str:
    return json.dumps(
        {
            "apiVersion": "outrigger.dev/v1alpha1",
            "kind": "SidecarConfig",
            "servers": [
                {
                    "name": "mcp",
                    "endpoints": [{"url": upstream.url}],
                    "allowPlaintext": True,
                    "headers": {"static": [{"name": "X-Generation", "value": generation}]},
                }
            ],
        }
    )


def configuration(cluster: Cluster, report: Report, space: str) -> None:
    upstream = cluster.upstream(space, "config")
    cluster.config_map(space, "profile", {"outrigger.yaml": document(upstream, "first")})
    sidecar = {"profile": {"name": "profile", "create": False}}
    pod = cluster.agent(space, "configuration", upstream.url, args=AGENT, sidecar=sidecar)
    until("the agent calls", lambda: tally(pod)["calls"], 30)

    cluster.config_map(space, "profile", {"outrigger.yaml": document(upstream, "second")})
    report.within("a changed ConfigMap is used", LIMIT, lambda: upstream.status()["generations"].get("second"))
    none_lost(report, pod, "by the change of the ConfigMap")

    failures = metric(pod, "outrigger_config_reload_failures_total") or 0
    cluster.config_map(
        space, "profile", {"outrigger.yaml": document(upstream, "third").replace('"mcp"', '"mcp", "nonsense": 1', 1)}
    )
    report.within(
        "a bad configuration is counted",
        LIMIT,
        lambda: (metric(pod, "outrigger_config_reload_failures_total") or 0) > failures,
    )
    report.check(
        "a metric says that the old one is in use", metric(pod, "outrigger_config_last_reload_successful") == 0
    )
    log = cluster.kubectl("-n", space, "logs", pod["metadata"]["name"], "-c", "outrigger")
    told = [line for line in log.splitlines() if "nonsense" in line]
    report.check("the log says what is wrong with it", told, told[-1][:120] if told else log[-300:])
    status = fetch(f"http://{pod['status']['podIP']}:{ADMIN_PORT}/status")
    # The page asks nobody who he is, so it has no word of the file, but what kind of mistake is where.
    report.check("and the status says of what kind, and where", "unknown-key" in status and "nonsense" not in status)
    none_lost(report, pod, "by the bad configuration")
    report.check("the old one goes on", "third" not in upstream.status()["generations"])

    cluster.config_map(space, "profile", {"outrigger.yaml": document(upstream, "fourth")})
    report.within("one that is right again is used", LIMIT, lambda: upstream.status()["generations"].get("fourth"))
    report.check("and the metric says so", metric(pod, "outrigger_config_last_reload_successful") == 1)


def authority(cluster: Cluster, report: Report, space: str) -> None:
    """Two servers, with certificates of an old and a new CA. The bundle learns the new one beside the old one."""
    names = {"old": "tls-old", "new": "tls-new"}
    bundles = {}
    for age, name in names.items():
        bundles[age], certificate, key = certificates(cluster.output / "tls", age, f"{name}.{space}.svc.cluster.local")
        cluster.secret(space, name, {"tls.crt": certificate, "tls.key": key})
    old, new = (cluster.upstream(space, name, tls_secret=name) for name in names.values())
    cluster.config_map(space, "ca", {"ca.crt": bundles["old"]})
    trust = {"tls": {"caFile": "/etc/outrigger-ca/ca.crt"}}
    servers = [
        {"name": "mcp", "endpoints": [{"url": old.url}], **trust},
        {"name": "next", "endpoints": [{"url": new.url}], **trust},
    ]
    sidecar = {"servers": servers, "caBundle": {"configMap": "ca"}}
    first = "http://127.0.0.1:8000/servers/mcp/mcp"
    pod = cluster.agent(space, "authority", old.url, args=["agent", first, *AGENT[1:]], sidecar=sidecar)
    until("the agent calls", lambda: tally(pod)["calls"], 30)

    def call_next() -> dict:
        return cluster.post(pod, "http://127.0.0.1:8000/servers/next/mcp", echo())

    # More than one: it is the bundle that decides, not who calls first.
    answers = [call_next() for _ in range(3)]
    refused = all(answer["status"] >= 500 for answer in answers)
    report.check("calls to a server with a certificate of an unknown CA fail", refused, answers[0]["body"][:120])
    causes = {cause(answer) for answer in answers}
    report.check("their cause is tls_certificate", causes == {"tls_certificate"}, causes)
    seen = new.status()
    report.check("and the server has seen nothing of them", not seen["seen"] and not seen["calls"], seen)

    cluster.config_map(space, "ca", {"ca.crt": bundles["old"] + bundles["new"]})
    report.within("a changed CA bundle is used", LIMIT, lambda: "echo:hi" in call_next()["body"], every=1)
    calls = new.status()["calls"]
    report.check("the call that went through was executed once, and none before it", calls == {"echo": 1}, calls)
    none_lost(report, pod, "by the change of the CA bundle")


def echo() -> dict:
    """A call that needs no session."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "peer", "version": "1"},
    }
    params = {"name": "echo", "arguments": {"text": "hi"}, "_meta": meta}
    return {"jsonrpc": "2.0", "id": "call-1", "method": "tools/call", "params": params}


def cause(answer: dict) -> str | None:
    """What the sidecar says went wrong, in an answer that is a JSON-RPC error."""
    return json.loads(answer["body"]).get("error", {}).get("data", {}).get("cause")


def certificates(folder: Path, name: str, host: str) -> tuple[str, str, str]:
    """A CA, and a certificate of it with its key, all PEM."""
    folder.mkdir(exist_ok=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    authority = folder / f"{name}-ca"
    openssl("req", "-x509", *key, "-subj", f"/CN={name} CA", "-keyout", f"{authority}.key", "-out", f"{authority}.crt")
    leaf = folder / name
    openssl(
        "req",
        "-x509",
        *key,
        "-subj",
        "/CN=server",
        "-addext",
        f"subjectAltName=DNS:{host}",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-CA",
        f"{authority}.crt",
        "-CAkey",
        f"{authority}.key",
        "-keyout",
        f"{leaf}.key",
        "-out",
        f"{leaf}.crt",
    )
    return tuple(Path(path).read_text() for path in (f"{authority}.crt", f"{leaf}.crt", f"{leaf}.key"))
