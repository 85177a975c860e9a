"""docs/kubernetes.md as its reader would follow it: each command block, in order, in one shell. And what is applied.

A block of commands to follow is marked `sh` there. One marked `bash` is a choice, or for when something went wrong: of
such it is only shown that a shell can read it.
"""

import re
import shutil
import subprocess
from pathlib import Path

from cluster import SIDECAR_IMAGE, VERSION, Cluster
from harness import ROOT, Trouble
from report import Report

TOKEN = "docs-token"
MARK = "=== block"
# The command that makes a step, and what its reader is told to see. A step is judged by its own blocks alone.
STEPS = {
    "the first call, by the library chart": (
        "kubectl wait job/first-call",
        r"job\.batch/first-call condition met[\s\S]*The server works",
    ),
    "the same without Helm": (
        "kubectl wait job/agent-job",
        r"job\.batch/agent-job condition met[\s\S]*The server works",
    ),
    "the gateway, and helm test through its Service": (
        "helm test outrigger",
        r"(?i)test suite:\s+outrigger[\s\S]*phase:\s+succeeded",
    ),
    "what one of its pods sees": ("/proxy/status", r'"example": \{\s*"endpoints"[\s\S]*"state": "available"'),
    "a rollout of the gateway": (
        "kubectl rollout status deployment/outrigger",
        r'deployment "outrigger" successfully rolled out',
    ),
    "a changed Secret": ("kubectl replace", r"secret/mcp-token replaced"),
    "an upgrade and a rollback": ("helm rollback outrigger", r"Rollback was a success"),
    "its end": ("kubectl delete namespace", r'namespace "docs\S*" deleted'),
}
# Kinds that are the Prometheus operator's: this API server has none of its definitions.
OPERATOR = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}


def run(cluster: Cluster, report: Report) -> None:
    upstream = cluster.upstream(cluster.namespace("docs-upstream"))
    upstream.accept(TOKEN)
    follow(cluster, report, upstream.url)
    space = cluster.namespace("docs-manifests")
    manifests(cluster, report, space)
    goldens(cluster, report, space)


def follow(cluster: Cluster, report: Report, url: str) -> None:
    # A copy: Helm writes the charts that a chart depends on into its folder.
    folder = cluster.output / f"docs{cluster.suffix}"
    for name in ("charts", "manifests"):
        shutil.copytree(ROOT / name, folder / name)
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = fenced(page, "sh")
    said = cluster.shell(
        "\n".join(f"echo '{MARK} {number}'\n{block}" for number, block in enumerate(blocks)) + f"\necho '{MARK} end'",
        folder,
        {
            "NAMESPACE": folder.name,
            "OUTRIGGER_IMAGE": SIDECAR_IMAGE,
            "AGENT_IMAGE": f"{SIDECAR_IMAGE}:{VERSION}",
            "MCP_URL": url,
            "MCP_TOKEN": TOKEN,
            "MCP_ALLOW_PLAINTEXT": "true",
        },
    )
    # What came before the first mark, and then by turns a mark and what was said after it.
    parts = re.split(rf"^{MARK} (\d+|end)\n", said, flags=re.MULTILINE)
    outputs = dict(zip(parts[1::2], parts[2::2], strict=True))
    if "end" in outputs:
        report.check("docs/kubernetes.md: each block's commands succeed", blocks, f"{len(blocks)} blocks")
    else:
        last = len(outputs) - 1
        begin = blocks[last].splitlines()[0]
        what = f"docs/kubernetes.md: the commands of the block that begins with {begin!r} succeed"
        output = outputs[str(last)].strip()[-600:]
        # What kubectl and Helm say of what they waited for in vain.
        if re.search(r"timed out waiting|deadline exceeded", output):
            report.overdue(what, output)
            return
        report.check(what, False, output)
    for what, (command, pattern) in STEPS.items():
        its = "".join(outputs.get(str(number), "") for number, block in enumerate(blocks) if command in block)
        found = re.search(pattern, its)
        report.check(f"docs/kubernetes.md: {what}", found, "" if found else its[-600:] or f"no output of {command!r}")
    others = fenced(page, "bash")
    refused = [words for block in others if (words := unreadable(block))]
    what = "docs/kubernetes.md: a shell can read the blocks that are not run"
    report.check(what, not refused, refused or len(others))


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def unreadable(block: str) -> str:
    return subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True).stderr.strip()


def manifests(cluster: Cluster, report: Report, space: str) -> None:
    folder = ROOT / "manifests"
    for what, arguments in {
        "the rendered gateway, by its kustomization": ["-k", folder],
        "the network policies": ["-f", folder / "policy"],
    }.items():
        taken, answer = offer(cluster, space, *arguments)
        report.check(f"manifests: {what} is taken by the API server", taken, answer)


def goldens(cluster: Cluster, report: Report, space: str) -> None:
    """What the charts make of the values that they are tested with."""
    found = sorted((ROOT / "charts").glob("*/ci/*-golden.yaml"))
    report.check("there are charts' golden files", found, len(found))
    for path in found:
        documents = [text for text in re.split(r"^---$", path.read_text(), flags=re.MULTILINE) if kind(text)]
        offered = [text for text in documents if kind(text) not in OPERATOR]
        left = sorted(kind(text) for text in documents if kind(text) in OPERATOR)
        # A Pod is refused without its ServiceAccount, which is not there after a dry run.
        for account in set(re.findall(r'^\s*serviceAccountName: "?([\w-]+)"?$', "".join(offered), re.MULTILINE)):
            cluster.api.apply({"kind": "ServiceAccount", "metadata": {"name": account}}, space)
        here = [re.sub(r"^  namespace: .*\n", "", text, flags=re.MULTILINE) for text in offered]
        taken, answer = offer(cluster, space, "-f", "-", given="\n---\n".join(here))
        figure = f"{len(offered)} objects" + (f", without {', '.join(left)}" if left else "")
        holds = offered and taken == len(offered)
        report.check(f"{short(path)} is taken by the API server", holds, figure if holds else f"{figure}: {answer}")


def offer(cluster: Cluster, space: str, *arguments: object, given: str | None = None) -> tuple[int, str]:
    """How many objects the API server would take, and what it says."""
    try:
        answer = cluster.kubectl(
            "-n", space, "apply", "--dry-run=server", "--validate=strict", *arguments, given=given
        ).strip()
    except Trouble as trouble:
        return 0, str(trouble)
    taken = answer.count("(server dry run)")
    return taken, f"{taken} objects" if taken == len(answer.splitlines()) else answer


def kind(document: str) -> str | None:
    found = re.search(r"^kind: (\S+)$", document, re.MULTILINE)
    return found and found[1].strip('"')


def short(path: Path) -> Path:
    return path.relative_to(ROOT)
