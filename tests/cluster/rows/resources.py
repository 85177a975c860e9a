"""Row 8: what a sidecar costs in a pod that has nothing to do."""

import os
import re
import signal
import statistics
import time
from pathlib import Path

from cluster import ADMIN_PORT, Cluster, fetch, tally
from harness import Trouble
from report import Report, until

MEMORY_LIMIT = 12 * 1024 * 1024
START_LIMIT = 100  # ms
CPU_LIMIT = 0.1  # percent of a core: probes are answered all the time
REST = 30  # seconds
STARTS = 3
FLOOD, FLOOD_BYTES = 20, 8 * 1024 * 1024
CONTAINER_LIMIT = 128 * 1024 * 1024


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
    report.timed("CPU at rest is 0", percent < CPU_LIMIT, f"{percent:.2f} % of a core, with its probes")

    resident = resident_bytes(pid)
    working = working_set(cluster, pod)
    report.check(
        "memory at rest is at most 12 MiB",
        max(resident, working) <= MEMORY_LIMIT,
        f"{mebibytes(resident)} resident, {mebibytes(working)} working set",
    )

    flood(cluster, report, pod)

    pods = [cluster.agent(space, f"start{number}", upstream.url, args=arguments) for number in range(STARTS)]
    starts = [exec_to_ready(cluster, pod) for pod in pods]
    figures = ", ".join(f"{ms:.0f} ms" for ms in starts)
    report.timed("from start to ready in under 100 ms", statistics.median(starts) < START_LIMIT, figures)


def flood(cluster: Cluster, report: Report, pod: dict) -> None:
    """More than the memory limit, at once, in bodies that do not come to their end."""
    pid = cluster.container_pid(pod, "outrigger")
    url = "http://127.0.0.1:8000/mcp"
    told = cluster.execute(pod, "/peer", "flood", url, FLOOD, FLOOD_BYTES)
    held, refused = told["held"], told["answers"].get("503", 0)
    report.check(
        f"of {FLOOD} bodies of {mebibytes(FLOOD_BYTES)}, in a limit of {mebibytes(CONTAINER_LIMIT)}, it holds those "
        "that it has room for, and refuses the others with 503",
        0 < held <= CONTAINER_LIMIT // 4 // FLOOD_BYTES and held + refused == FLOOD,
        told,
    )
    began = time.monotonic()
    figures: list[str] = []

    def returned() -> bool:
        resident = resident_bytes(pid)
        figures.append(f"{mebibytes(resident)} after {time.monotonic() - began:.0f} s")
        return resident <= MEMORY_LIMIT

    try:
        until(f"at most {mebibytes(MEMORY_LIMIT)} are resident", returned, 60, every=1)
        report.check("and gives the memory back", True, f"resident: {', '.join([*figures[:-1:5], figures[-1]])}")
    except Trouble:
        report.overdue("and gives the memory back", f"resident: {', '.join(figures[::5])}")
    same = cluster.container_pid(pod, "outrigger") == pid and cluster.restarts(pod) == 0
    report.check("the sidecar has lived through it", same, f"working set {mebibytes(working_set(cluster, pod))}")


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


def exec_to_ready(cluster: Cluster, pod: dict) -> float:
    """Milliseconds from the exec of the sidecar, restarted in place, to /startupz saying 200.

    The process's own start would be the container runtime's, which sets the container up in it before the exec. So the
    pod's cgroup is watched for a process that becomes the sidecar.
    """
    old = cluster.container_pid(pod, "outrigger")
    group = pod_cgroup(old)
    os.kill(old, signal.SIGTERM)
    until("the sidecar is executed", lambda: sidecar_in(group, old), 30, every=0.001)
    began = time.monotonic()
    url = f"http://{pod['status']['podIP']}:{ADMIN_PORT}/startupz"
    until("the sidecar is ready", lambda: fetch(url) or True, 10, every=0.001)
    return (time.monotonic() - began) * 1000


def pod_cgroup(pid: int) -> Path:
    """The folder of the pod's containers, in the hierarchy that has one in either version of cgroups."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "pids":
            return Path("/sys/fs/cgroup/pids" + path).parent
        if controllers == "":
            return Path("/sys/fs/cgroup" + path).parent
    raise Trouble(f"process {pid} is in no cgroup")


def sidecar_in(group: Path, old: int) -> bool:
    for processes in group.glob("*/cgroup.procs"):
        for pid in processes.read_text().split():
            if int(pid) != old and os.readlink(f"/proc/{pid}/exe") == "/outrigger":
                return True
    return False
