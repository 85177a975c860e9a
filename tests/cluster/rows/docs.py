"""docs/kubernetes.md as its reader would follow it: each command block, in order, in one shell. And what is there to apply."""

import re
import shutil

from cluster import SIDECAR_IMAGE, Cluster
from harness import ROOT
from report import Report

TOKEN = "docs-token"
# What the reader of each step is told to see.
SEEN = {
    "the first call, by the library chart": r"job\.batch/first-call condition met[\s\S]*The server works",
    "the same without Helm": r"job\.batch/agent-job condition met[\s\S]*The server works",
    "the gateway, and helm test through its Service": r"(?i)test suite:\s+outrigger[\s\S]*phase:\s+succeeded",
    "a rollout of the gateway": r'deployment "outrigger" successfully rolled out',
    "an upgrade and a rollback": r"Rollback was a success",
    "its end": r'namespace "docs\S*" deleted',
}


def run(cluster: Cluster, report: Report) -> None:
    upstream = cluster.upstream(cluster.namespace("docs-upstream"))
    upstream.accept(TOKEN)
    # A copy: Helm writes the charts that a chart depends on into its folder.
    folder = cluster.output / f"docs{cluster.suffix}"
    for name in ("charts", "manifests"):
        shutil.copytree(ROOT / name, folder / name)
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    said = cluster.shell(
        "\n".join(blocks),
        folder,
        {
            "NAMESPACE": folder.name,
            "OUTRIGGER_IMAGE": SIDECAR_IMAGE,
            "MCP_URL": upstream.url,
            "MCP_TOKEN": TOKEN,
            "MCP_ALLOW_PLAINTEXT": "true",
        },
    )
    for what, pattern in SEEN.items():
        found = re.search(pattern, said)
        report.check(f"docs/kubernetes.md: {what}", found, "" if found else said[-600:])
    space = cluster.namespace("docs-manifests")
    for what, arguments in {
        "the rendered gateway, by its kustomization": ["-k", folder / "manifests"],
        "the network policies": ["-f", folder / "manifests" / "policy"],
    }.items():
        answer = cluster.kubectl("-n", space, "apply", "--dry-run=server", "--validate=strict", *arguments)
        report.check(f"manifests: {what} is taken by the API server", "(server dry run)" in answer)
