"""Row 8: what a sidecar costs in a pod that has nothing to do."""

import os
import re
import statistics
import time
from datetime import datetime
from pathlib import Path

from cluster import ADMIN_PORT, Cluster, fetch, tally
from report import Report, until

MEMORY_LIMIT = 12 * 1024 * 1024
START_LIMIT = 100  # ms
CPU_LIMIT = 0.1  # percent of a core: probes are answered all the time
REST = 30  # seconds
STARTS = 3


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row8")
    upstream = cluster.upstream(space)
    # It makes its calls and then does nothing, with its session and its stream open.
    arguments = ["agent", "--every", "1h"]
    pod = cluster.agent(space, "agent", upstream.url, args=arguments)
    until("the agent has called", lambda: tally(pod)["calls"], 30)
    pid = cluster.container_pid(pod, "outrigger")
    fetch(f"http://{pod['status']['podIP']}:{ADMIN_PORT}/metrics")

    before = cpu_seconds(pid)
    began = time.monotonic()
    until("it has rested", lambda: time.monotonic() - began > REST, REST + 5, every=1)
    percent = (cpu_seconds(pid) - before) / (time.monotonic() - began) * 100
    report.check("CPU at rest is 0", percent < CPU_LIMIT, f"{percent:.2f} % of a core, with its probes")

    resident = resident_bytes(pid)
    working = working_set(cluster, pod)
    report.check(
        "memory at rest is at most 12 MiB",
        max(resident, working) <= MEMORY_LIMIT,
        f"{mebibytes(resident)} resident, {mebibytes(working)} working set",
    )

    starts = [
        start_to_ready(cluster, cluster.agent(space, f"start{number}", upstream.url, args=arguments))
        for number in range(STARTS)
    ]
    report.check(
        "from start to ready in under 100 ms",
        statistics.median(starts) < START_LIMIT,
        ", ".join(f"{ms:.0f} ms" for ms in starts),
    )


def mebibytes(number: float) -> str:
    return f"{number / 1024 / 1024:.1f} MiB"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def working_set(cluster: Cluster, pod: dict) -> float:
    """What the kubelet measures, and an eviction goes by."""
    name = pod["metadata"]["name"]

    def measured() -> float | None:
        text = cluster.api.request("GET", "api/v1/nodes/node1/proxy/metrics/resource")["text"]
        for line in text.splitlines():
            if (
                line.startswith("container_memory_working_set_bytes{")
                and 'container="outrigger"' in line
                and f'pod="{name}"' in line
            ):
                return float(line.split("} ")[1].split()[0])
        return None

    return until("the kubelet's measure of the sidecar", measured, 60, every=1)


def start_to_ready(cluster: Cluster, pod: dict) -> float:
    """Milliseconds from the process's start to the line that says that it listens, by the log's own clock."""
    pid = cluster.container_pid(pod, "outrigger")
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    started = booted + ticks / os.sysconf("SC_CLK_TCK")
    place = ["-n", pod["metadata"]["namespace"], "logs", pod["metadata"]["name"], "-c", "outrigger", "--timestamps"]
    [line] = [line for line in cluster.kubectl(*place).splitlines() if "listening on" in line][:1]
    stamp = line.split()[0]
    listening = datetime.fromisoformat(stamp[:26] + "+00:00").timestamp()
    return (listening - started) * 1000
