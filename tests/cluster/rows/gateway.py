"""Row 4: gateway mode. A rollout under agents at work, and a second replica."""

from concurrent.futures import ThreadPoolExecutor

from byhand import Peer
from cluster import PEER_IMAGE, RESTRICTED, SIDECAR_IMAGE, Cluster, container_status, is_ready, tally
from harness import Trouble
from report import Report, until

# Agents are pods of their own, each with three clients: three sessions and three streams.
LEGACY_PODS, MODERN_PODS, CLIENTS = 6, 4, 3
AGENTS = (LEGACY_PODS + MODERN_PODS) * CLIENTS
CALL = 60  # seconds


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row4")
    upstream = cluster.upstream(space)
    values = {
        "image": {"repository": SIDECAR_IMAGE, "pullPolicy": "Never"},
        "servers": [{"name": "mcp", "endpoints": [{"url": upstream.url}], "allowPlaintext": True}],
        "sessionKey": {"generate": True},
    }
    cluster.helm_install("gateway", "outrigger", space, values, "--wait", "--timeout", "90s")
    labels = "app.kubernetes.io/instance=gateway"
    [old] = gateway_pods(cluster, space, labels)

    start_agents(
        cluster, space, f"http://{service(cluster, space, labels)}.{space}.svc.cluster.local:8000/servers/mcp/mcp"
    )
    until(f"{AGENTS} calls of {CALL} s are under way", lambda: total(cluster, space, "long_begun") == AGENTS, 60)
    deployment = cluster.api.list("Deployment", space, labels)[0]["metadata"]["name"]
    cluster.kubectl("-n", space, "rollout", "restart", f"deployment/{deployment}")
    cluster.kubectl("-n", space, "rollout", "status", f"deployment/{deployment}", "--timeout=90s", limit=100)
    report.check(
        "the rollout is done while the calls go on",
        total(cluster, space, "long_done") == 0,
        f"{AGENTS} calls of {CALL} s",
    )

    with ThreadPoolExecutor(2) as pool:
        end = pool.submit(watch_end, cluster, space, old["metadata"]["name"])
        until(
            "the long calls end",
            lambda: total(cluster, space, "long_done") + total(cluster, space, "failed") >= AGENTS,
            CALL + 40,
        )
        code = end.result()
    calls = total(cluster, space, "calls")
    errors = [error for pod in agents_now(cluster, space) for error in tally(pod)["errors"]]
    report.check(
        "none of the long calls was lost",
        total(cluster, space, "long_done") == AGENTS,
        f"{total(cluster, space, 'long_done')} of {AGENTS}",
    )
    report.check("nor any of the quick ones", not errors, f"{calls} calls {errors[:3] or ''}".strip())
    report.check("the old pod ended with 0 within its grace period", code == 0, code)

    before = notifications(cluster, space)
    upstream.post("/notify")
    told = LEGACY_PODS * CLIENTS

    def each_told() -> bool:
        # Client by client: what one is told twice makes up for no other.
        more = [count - before[client] for client, count in notifications(cluster, space).items()]
        return len(more) == told and min(more) >= 1

    report.within(f"each of {told} streams brings the server's next notification", 30, each_told)
    report.check(
        "no agent had to open a new session",
        total(cluster, space, "connected") == AGENTS,
        f"{total(cluster, space, 'connected')} sessions",
    )
    second_replica(cluster, report, space, labels, deployment)


def service(cluster: Cluster, space: str, labels: str) -> str:
    return cluster.api.list("Service", space, labels)[0]["metadata"]["name"]


def gateway_pods(cluster: Cluster, space: str, labels: str) -> list[dict]:
    return [pod for pod in cluster.pods(space, labels) if is_ready(pod)]


def start_agents(cluster: Cluster, space: str, url: str) -> None:
    for era, pods in (("legacy", LEGACY_PODS), ("modern", MODERN_PODS)):
        labels = {"app": "agents", "era": era}
        container = {
            "name": "agent",
            "image": PEER_IMAGE,
            "imagePullPolicy": "Never",
            "securityContext": RESTRICTED,
            "args": ["agent", url, "--era", era, "--clients", str(CLIENTS), "--hold", f"{CALL}s", "--every", "500ms"],
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
        cluster.api.apply(
            {
                "kind": "Deployment",
                "metadata": {"name": f"agents-{era}"},
                "spec": {
                    "replicas": pods,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": spec},
                },
            },
            space,
        )


def agents_now(cluster: Cluster, space: str, era: str = "") -> list[dict]:
    return [
        pod for pod in cluster.pods(space, f"app=agents,era={era}" if era else "app=agents") if "podIP" in pod["status"]
    ]


def total(cluster: Cluster, space: str, what: str) -> int:
    return sum(tally(pod)[what] for pod in agents_now(cluster, space))


def notifications(cluster: Cluster, space: str) -> dict[tuple[str, int], int]:
    """How many each legacy client has had, by pod and number."""
    return {
        (pod["metadata"]["name"], number): count
        for pod in agents_now(cluster, space, "legacy")
        for number, count in enumerate(tally(pod)["list_changed_by"])
    }


def watch_end(cluster: Cluster, space: str, pod: str) -> int | None:
    """The exit code of a gateway's pod that is being deleted; None if nobody saw it."""
    seen: list[int] = []

    def gone() -> bool:
        try:
            ended = container_status(cluster.api.get("Pod", space, pod), "outrigger")["state"].get("terminated")
        except Trouble:
            return True
        if ended:
            seen.append(ended["exitCode"])
        return False

    until("the old pod is gone", gone, 100, every=0.05)
    return seen[-1] if seen else None


def second_replica(cluster: Cluster, report: Report, space: str, labels: str, deployment: str) -> None:
    """Sessions that one replica opened are used at the other."""
    cluster.kubectl("-n", space, "scale", f"deployment/{deployment}", "--replicas=2")
    pods = until("two replicas", lambda: len(found := gateway_pods(cluster, space, labels)) == 2 and found, 60)
    first, second = (Peer(f"http://{pod['status']['podIP']}:8000/servers/mcp/mcp") for pod in pods)
    first.initialize()
    second.headers = dict(first.headers)
    answers = [peer.call("echo", {"text": "hi"}) for peer in (first, second, first)]
    report.check(
        "a second replica serves sessions that the first one opened",
        all(answer.status == 200 and "echo:hi" in answer.text for answer in answers)
        and "Mcp-Session-Id" in first.headers,
        [answer.status for answer in answers],
    )
