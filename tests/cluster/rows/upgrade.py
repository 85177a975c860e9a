"""Row 7: the life of a release with Helm 4, and pods without an API server."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from api import Refused
from cluster import SIDECAR_IMAGE, VERSION, Cluster, container_status, tally
from harness import Trouble
from report import Report, until

OUTAGE = 120  # seconds


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row7")
    versions(cluster, report)
    releases(cluster, report, space)
    outage(cluster, report, space)


def versions(cluster: Cluster, report: Report) -> None:
    client = cluster.helm("version", "--short").strip()
    report.check("the client is Helm 4", client.startswith("v4."), client)
    for name in ("outrigger", "outrigger-sidecar"):
        shown = cluster.helm("show", "chart", cluster.charts / name)
        fields = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)
        both = {fields["version"], fields["appVersion"].strip('"')}
        report.check(f"the version of {name} is the crate's", both == {VERSION}, f"{sorted(both)} and {VERSION}")


def releases(cluster: Cluster, report: Report, space: str) -> None:
    upstream = cluster.upstream(space)
    values = {
        "image": {"repository": SIDECAR_IMAGE, "pullPolicy": "Never"},
        "servers": [{"name": "mcp", "endpoints": [{"url": upstream.url}], "allowPlaintext": True}],
        "sessionKey": {"generate": True},
    }
    labels = "app.kubernetes.io/instance=gateway"
    waiting = ("--wait", "--timeout", "90s")

    def replicas() -> int:
        return len([pod for pod in cluster.pods(space, labels) if pod["status"]["phase"] == "Running"])

    def key() -> str:
        [secret] = cluster.api.list("Secret", space, labels)
        return json.dumps(secret["data"])

    cluster.helm_install("gateway", "outrigger", space, values, *waiting)
    report.check("install", replicas() == 1)
    first = key()
    tested = cluster.helm("test", "gateway", "--namespace", space, "--timeout", "60s")
    report.check("helm test", "Succeeded" in tested, tested.strip().splitlines()[-1][:80])
    cluster.helm_install("gateway", "outrigger", space, values | {"replicas": 2}, *waiting, action="upgrade")
    report.check("upgrade to two replicas, with the same key", replicas() == 2 and key() == first)
    cluster.helm("rollback", "gateway", "1", "--namespace", space, *waiting)
    report.within("rollback to one, with the same key", 30, lambda: replicas() == 1 and key() == first)
    cluster.helm("uninstall", "gateway", "--namespace", space, *waiting)
    left = [
        kind
        for kind in ("Deployment", "Service", "ConfigMap", "PodDisruptionBudget", "ServiceAccount")
        if cluster.api.list(kind, space, labels)
    ]
    report.check("uninstall leaves nothing but the key", not left and key() == first, left)


def outage(cluster: Cluster, report: Report, space: str) -> None:
    upstream = cluster.upstream(space, "steady")
    pod = cluster.agent(space, "agent", upstream.url, args=["agent"])
    # With a key, so that the session outlives the process that opened it.
    cluster.secret(space, "victim-key", {"session-key": "5e" * 32})
    kept = {"sessionKey": {"existingSecret": "victim-key"}}
    victim = cluster.agent(space, "victim", upstream.url, args=["agent", "--patient"], sidecar=kept)
    for each in (pod, victim):
        until("the agents call", lambda each=each: tally(each)["calls"], 30)
    before = tally(pod)["calls"]
    doomed = cluster.container_pid(victim, "outrigger")

    stop_api_server(cluster)
    began = time.monotonic()
    os.kill(doomed, signal.SIGKILL)
    until("the sidecar that was killed is back, without the API server", lambda: calls_go_on(victim), 60)
    report.check("a sidecar that dies meanwhile is started again", True, f"{time.monotonic() - began:.0f} s")
    until("two minutes", lambda: time.monotonic() - began > OUTAGE, OUTAGE + 5, every=1)
    try:
        cluster.api.list("Pod", space)
        report.check("the API server was gone", False)
    except (Trouble, OSError) as error:
        report.check("the API server was gone", not isinstance(error, Refused), f"{time.monotonic() - began:.0f} s")
    calls = tally(pod)
    report.check(
        "pods went on calling",
        calls["failed"] == 0 and calls["calls"] > before + OUTAGE,
        f"{calls['calls'] - before} calls {calls['errors'] or ''}".strip(),
    )
    start_api_server(cluster)
    # Until the kubelet has reported, the API server tells what it knew before.
    until("the kubelet reports the sidecar that was started again", lambda: cluster.restarts(victim) >= 1, 60)
    now = cluster.api.get("Pod", space, pod["metadata"]["name"])
    restarts = {name: container_status(now, name)["restartCount"] for name in ("outrigger", "agent")}
    same = now["metadata"]["uid"] == pod["metadata"]["uid"] and not any(restarts.values())
    figure = f"restarts: {restarts}, of the sidecar that was killed: {cluster.restarts(victim)}"
    report.check("the pods are the same after it", same, figure)


def calls_go_on(pod: dict) -> bool:
    """Quick calls succeed now: more of them than a moment ago."""
    before = tally(pod)["calls"]
    time.sleep(0.5)
    return tally(pod)["calls"] > before


def stop_api_server(cluster: Cluster) -> None:
    """Killed, as when its machine is lost: nobody is told."""
    pid = int((cluster.state / "run" / "kube-apiserver.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    until("the API server is gone", lambda: not os.path.exists(f"/proc/{pid}/exe"), 10)


def start_api_server(cluster: Cluster) -> None:
    command = (cluster.state / "run" / "kube-apiserver.command").read_text().splitlines()
    with (cluster.state / "log" / "kube-apiserver-again.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    # In the form that `down` reads: the process, and when it was started.
    started = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    (cluster.state / "run" / "kube-apiserver.pid").write_text(f"{server.pid} {started}\n")
    until("the API server is back", lambda: cluster.api.request("GET", "readyz"), 60)
