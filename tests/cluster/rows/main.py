"""Runs the rows: the first alone, then those that do not disturb each other at the same time, then the others.

What did not come true in time (LATE) may be owed to the other rows: such a row is run once more when all are through,
alone, and what holds then counts. What was seen to be wrong (FAIL) is final, and a row that has such is not run again.
"""

import argparse
import importlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

from cluster import Cluster  # noqa: E402
from harness import Trouble, conclude, output_folder, run_main  # noqa: E402
from report import Report, say  # noqa: E402


@dataclass
class Row:
    """One row: `rows/MODULE.py` has `run(cluster, report)`."""

    name: str
    module: str
    shows: str
    # Rows of a later group begin when those of an earlier one have ended.
    group: int


ROWS = [
    Row("1", "first_call", "from helm install to the agent's first call through the sidecar, in under two minutes", 1),
    Row(
        "2",
        "lifecycle",
        "startup order, Jobs, deletion, an upstream that is down, a sidecar that is restarted or killed",
        2,
    ),
    Row(
        "3",
        "rotation",
        "a Secret, the ConfigMap and the CA are changed without a lost call; a bad configuration is not taken",
        2,
    ),
    Row(
        "4",
        "gateway",
        "a rollout under 30 agents with calls of a minute and open streams; sessions on a second replica",
        3,
    ),
    Row(
        "5",
        "isolation",
        "the agent cannot read the sidecar's secrets; no rights, no privileges, nothing to write to",
        2,
    ),
    Row("6", "prometheus", "a real Prometheus finds and scrapes the sidecar; alerts fire and clear", 3),
    Row("7", "upgrade", "install, upgrade, rollback and uninstall with Helm; two minutes without the API server", 5),
    Row("8", "resources", "memory and CPU at rest, from start to ready", 4),
    Row("docs", "docs", "the commands of docs/kubernetes.md, in order; the manifests that are there to apply", 3),
    Row("examples", "examples", "each of manifests/examples runs under the Pod Security Standard restricted", 3),
]


def play(cluster: Cluster, row: Row) -> Report:
    report = Report(row.name)
    began = time.monotonic()
    report.attempt("the row", importlib.import_module(row.module).run, cluster, report)
    say(f"row {row.name:<9} took {time.monotonic() - began:.0f} s")
    return report


def run_rows(cluster: Cluster, rows: list[Row]) -> list[Report]:
    reports = []
    for group in sorted({row.group for row in rows}):
        together = [row for row in rows if row.group == group]
        with ThreadPoolExecutor(len(together)) as pool:
            reports += pool.map(lambda row: play(cluster, row), together)
    return reports


def again(cluster: Cluster, first: Report) -> Report:
    """A second try, alone: rows that run at the same time on two cores can starve each other. It has to hold in all."""
    say(f"row {first.row}: once more, alone, as not all of it came true in time")
    cluster.suffix = "-again"
    row = next(row for row in ROWS if row.name == first.row)
    return play(cluster, row)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests/cluster/run",
        description="Shows on a real Kubernetes what the sidecar promises there.",
        epilog="A line for each assertion: ok, FAIL (seen to be wrong: final) or LATE (not true in time). A row with "
        "LATE and no FAIL is run once more when all are through, alone, and what holds then counts.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run; default: all")
    parser.add_argument("--list", action="store_true", help="print the rows and what each shows")
    parser.add_argument("--output", type=Path, help="keep logs and values in this folder")
    arguments = parser.parse_args()
    if arguments.list:
        for row in ROWS:
            print(f"{row.name:<9} {row.shows}")
        return 0
    unknown = set(arguments.rows) - {row.name for row in ROWS}
    if unknown:
        raise Trouble(f"there is no row {', '.join(sorted(unknown))}; see --list")
    rows = [row for row in ROWS if not arguments.rows or row.name in arguments.rows]

    began = time.monotonic()
    output = output_folder(arguments.output, "cluster")
    cluster = Cluster(output)
    cluster.start_node()
    cluster.load_images()
    cluster.prepare_charts()
    first = run_rows(cluster, rows)
    reports = [again(cluster, played) if played.late and not played.failed else played for played in first]
    cluster.stop_all()
    if any(report.broken for report in reports):
        subprocess.run(["cp", "-r", cluster.state / "log", output / "cluster-logs"])
    failed = [f"row {report.row}: {line}" for report in reports for line in report.broken]
    passed = sum(report.passed for report in reports)
    summary = f"{passed} as promised, in {time.monotonic() - began:.0f} s"
    # A second try is no way to hide what fails now and then.
    if second := [f"row {played.row}: {line}" for played in first for line in played.broken]:
        summary += "; of the first try did not hold:\n  " + "\n  ".join(second)
    return conclude(failed, output, arguments.output, summary)


if __name__ == "__main__":
    run_main(main)
