"""Each of manifests/examples is applied, and its agents call through the sidecar.

What a user would put in is put in: the server's URL (and that it may be plain), the agent's and the session key, the
names of the images, and what the agent is told to do. All else is as it stands there.
"""

# claims: S4.11

import json
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster import PEER_IMAGE, SIDECAR_IMAGE, VERSION, Cluster, Upstream, tally
from harness import ROOT, Trouble
from report import Report, until

EXAMPLES = ROOT / "manifests" / "examples"
CALLS = "5"


def run(cluster: Cluster, report: Report) -> None:
    found = sorted(EXAMPLES.glob("*.yaml"))
    if not found:
        raise Trouble(f"there are no examples in {EXAMPLES}")
    with ThreadPoolExecutor(3) as pool:
        for example in found:
            pool.submit(report.attempt, example.name, play, cluster, report, example)


def play(cluster: Cluster, report: Report, example: Path) -> None:
    space = cluster.namespace(f"example-{example.stem}")
    upstream = cluster.upstream(space)
    objects = documents(cluster, space, example, upstream)
    for document in objects:
        cluster.kubectl("-n", space, "apply", "-f", "-", given=json.dumps(document))
    workloads = [document for document in objects if template(document)]
    ends = all(document["kind"] in ("Job", "CronJob") for document in workloads)
    if ends:
        for document in workloads:
            if document["kind"] == "CronJob":
                name = document["metadata"]["name"]
                cluster.kubectl("-n", space, "create", "job", name, f"--from=cronjob/{name}")
        what, condition = "completes", lambda: completed(cluster, space)
    else:
        what, condition = "runs, and its agents call", lambda: calling(cluster, space)
    try:
        until(f"{example.name} {what}", condition, 90)
        report.check(f"{example.name} {what}", upstream.status()["calls"].get("echo"), f"{upstream.status()['calls']}")
    except Trouble as trouble:
        report.overdue(f"{example.name} {what}", f"{trouble}; {cluster.explain(space)}")
    except AssertionError as error:
        report.check(f"{example.name} {what}", False, f"{error}; {cluster.explain(space)}")


def documents(cluster: Cluster, space: str, example: Path, upstream: Upstream) -> list[dict]:
    """As kubectl reads them. The servers are moved into the cluster; an agent of a Job is told to end."""
    text = example.read_text()
    # Each URL a name of its own: two endpoints with one URL would be refused.
    for place, url in enumerate(sorted(set(re.findall(r"https://[a-z0-9.-]*example\.com[^\s\"',}]*", text)))):
        ports = [{"name": "mcp", "port": 8080}]
        service = {"selector": {"app": "mcp"}, "ports": ports}
        cluster.api.apply({"kind": "Service", "metadata": {"name": f"mcp-{place}"}, "spec": service}, space)
        text = re.sub(re.escape(url) + r"(?![^\s\"',}])", upstream.url.replace("//mcp.", f"//mcp-{place}."), text)
    text = text.replace("allowPlaintext: false", "allowPlaintext: true")
    # What the comments beside them say: a session key of zeros is refused, and an agent's empty key lets nobody in.
    text = re.sub(r'((?:session-)?key): "0{64}"', lambda found: f'{found[1]}: "{secrets.token_hex(32)}"', text)
    text = re.sub(r'^(  agent): ""', lambda found: f'{found[1]}: "{secrets.token_hex(32)}"', text, flags=re.MULTILINE)
    # Under the names that the node has them by.
    text = re.sub(r"image: outrigger:\S+", f"image: {SIDECAR_IMAGE}:{VERSION}", text)
    text = re.sub(r"image: example/agent:\S+", f"image: {PEER_IMAGE}", text)
    listed = cluster.kubectl("create", "--dry-run=client", "--validate=strict", "-o", "json", "-f", "-", given=text)
    objects, decoder = [], json.JSONDecoder()
    while listed := listed.strip():
        document, end = decoder.raw_decode(listed)
        objects += document["items"] if document["kind"] == "List" else [document]
        listed = listed[end:]
    for document in objects:
        document["metadata"].pop("namespace", None)
        for container in (template(document) or {}).get("containers", []):
            if container["image"] == PEER_IMAGE:
                container["args"] = ["agent", "--patient"]
                if document["kind"] in ("Job", "CronJob"):
                    container["args"] += ["--calls", CALLS]
    return objects


def template(document: dict) -> dict | None:
    """The specification of the pods of a workload."""
    match document["kind"]:
        case "Pod":
            return document["spec"]
        case "Job" | "Deployment" | "StatefulSet":
            return document["spec"]["template"]["spec"]
        case "CronJob":
            return document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return None


def completed(cluster: Cluster, space: str) -> bool:
    jobs = cluster.api.list("Job", space)
    states = [
        {item["type"] for item in job["status"].get("conditions", []) if item["status"] == "True"} for job in jobs
    ]
    if any("Failed" in state for state in states):
        raise AssertionError(f"{cluster.explain(space)}")
    return bool(states) and all("Complete" in state for state in states)


def calling(cluster: Cluster, space: str) -> bool:
    """All pods with an agent have made calls, and none of them failed."""
    pods = [
        pod
        for pod in cluster.api.list("Pod", space)
        if any(item["name"] == "agent" for item in pod["spec"]["containers"])
    ]
    for pod in pods:
        calls = tally(pod)
        if calls["failed"]:
            raise AssertionError(f"{pod['metadata']['name']}: {calls['errors'][:2]}")
        if calls["calls"] < 3:
            return False
    return bool(pods)
