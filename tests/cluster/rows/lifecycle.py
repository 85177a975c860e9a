"""Row 2: what happens to the agent when pods start, end, and lose their sidecar."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from cluster import Cluster, Upstream, container_status, is_ready, tally
from report import Report, until

AGENT = ["agent"]
SESSION_KEY = "5e" * 32
PROBE_DELAY = 5  # seconds


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row2")
    upstream = cluster.upstream(space)
    cluster.secret(space, "session-key", {"session-key": SESSION_KEY})
    # Its first run comes with the next full minute; the others use the time until then.
    cluster.install_agent(space, "cron", upstream.url, kind="cronjob", args=[*AGENT, "--calls", "3"])
    parts = [
        start_order,
        slow_start,
        job,
        killed_in_job,
        killed_at_end,
        deletion,
        whole_grace,
        upstream_down,
        restarted,
        crashed,
    ]
    with ThreadPoolExecutor(len(parts)) as pool:
        for part in parts:
            pool.submit(report.attempt, part.__name__, part, cluster, report, space, upstream)
    report.within("a CronJob's run completes", 90, lambda: ended_job(cluster, space, "cron"))


def start_order(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    """With a configuration that it cannot use the sidecar never gets ready, and so the agent must not start."""
    cluster.config_map(space, "order", {"outrigger.yaml": "kind: Nonsense\n"})
    sidecar = {"profile": {"name": "order", "create": False}}
    cluster.install_agent(space, "order", upstream.url, args=AGENT, sidecar=sidecar)

    def sidecar_failed() -> dict | None:
        for pod in cluster.pods(space, "app=order"):
            status = container_status(pod, "outrigger")
            if status["restartCount"] or "terminated" in status["state"]:
                return pod
        return None

    pod = until("the sidecar refuses the configuration", sidecar_failed, 60)
    waits = container_status(pod, "agent")["state"].get("waiting", {}).get("reason")
    report.check("the agent does not start before the sidecar is ready", waits == "PodInitializing", waits)

    cluster.config_map(space, "order", {"outrigger.yaml": configuration(upstream.url)})
    calls = report.within("it starts once the configuration is right", 90, lambda: some_calls(cluster, space, "order"))
    if calls:
        report.check("its first call works", calls["failed"] == 0, f"{calls['first_call_ms']} ms after its start")


def slow_start(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    """The sidecar runs, and its startup probe is not asked before 5 s: so long the agent has to wait."""
    sidecar = {"probes": {"startup": {"initialDelaySeconds": PROBE_DELAY}}}
    pod = cluster.agent(space, "slow-start", upstream.url, args=AGENT, sidecar=sidecar)

    def started(container: str) -> datetime:
        return datetime.fromisoformat(container_status(pod, container)["state"]["running"]["startedAt"])

    waited = (started("agent") - started("outrigger")).total_seconds()
    report.check(
        f"the agent of a sidecar that runs, but is not asked for {PROBE_DELAY} s, starts after that",
        waited >= PROBE_DELAY - 1,  # the times are whole seconds
        f"{waited:.0f} s after the sidecar's start",
    )
    report.check("the sidecar was not restarted for it", cluster.restarts(pod) == 0)


def configuration(url: str) -> str:
    return json.dumps(
        {
            "apiVersion": "outrigger.dev/v1alpha1",
            "kind": "SidecarConfig",
            "servers": [{"name": "mcp", "endpoints": [{"url": url}], "allowPlaintext": True}],
        }
    )


def some_calls(cluster: Cluster, space: str, release: str) -> dict | None:
    for pod in cluster.pods(space, f"app={release}"):
        calls = tally(pod)
        if calls["calls"] or calls["failed"]:
            return calls
    return None


def job(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    cluster.install_agent(space, "job", upstream.url, kind="job", args=[*AGENT, "--calls", "3"])
    pod = report.within("a Job completes", 60, lambda: ended_job(cluster, space, "job"))
    if pod:
        code = exit_code(pod, "outrigger")
        report.check("the sidecar's exit code in it is 0", code == 0, code)


def killed_in_job(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    """The agent forgives the calls that fail meanwhile, so nothing but the sidecar's exit code could fail the Job."""
    arguments = [*AGENT, "--calls", "4", "--every", "2s", "--forgive"]
    cluster.install_agent(space, "killed", upstream.url, kind="job", args=arguments)
    pod = until("the Job's agent calls", lambda: calling_pod(cluster, space, "killed"), 60)
    os.kill(cluster.container_pid(pod, "outrigger"), signal.SIGKILL)
    died = until("the sidecar's death is seen", lambda: last_exit(cluster, pod), 30)
    what = f"a Job whose sidecar ended with {died} meanwhile, and was started again, completes"
    report.within(what, 60, lambda: ended_job(cluster, space, "killed"))


def killed_at_end(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    """The sidecar stands still from the agent's last call on: the kubelet has to kill it, and that is how it ends."""
    calls = 2
    arguments = [*AGENT, "--calls", str(calls), "--every", "4s"]
    cluster.install_agent(space, "stopped", upstream.url, kind="job", args=arguments, grace=2)
    pod = until("the Job's agent calls", lambda: calling_pod(cluster, space, "stopped"), 60)
    pid = cluster.container_pid(pod, "outrigger")
    until("its last call", lambda: tally(pod)["calls"] == calls, 30)
    os.kill(pid, signal.SIGSTOP)
    what = "a Job whose sidecar has to be killed at its end is complete"
    ended = report.within(what, 60, lambda: ended_job(cluster, space, "stopped"))
    if ended:
        codes = {container: exit_code(ended, container) for container in ("agent", "outrigger")}
        report.check("its agent ended with 0, and its sidecar with 137", codes == {"agent": 0, "outrigger": 137}, codes)


def calling_pod(cluster: Cluster, space: str, release: str) -> dict | None:
    pods = cluster.pods(space, f"app={release}")
    return pods[0] if pods and tally(pods[0])["calls"] else None


def last_exit(cluster: Cluster, pod: dict) -> int | None:
    status = cluster.container_status(pod, "outrigger")
    ended = status["lastState"].get("terminated") or status["state"].get("terminated")
    return ended and ended["exitCode"]


def job_end(cluster: Cluster, space: str, name: str) -> str | None:
    for condition in cluster.api.get("Job", space, name)["status"].get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["type"]
    return None


def ended_job(cluster: Cluster, space: str, release: str) -> dict | None:
    """The pod of a Job of this release that completed. One that failed is no use in waiting for."""
    pods = cluster.pods(space, f"app={release}")
    for pod in pods:
        if pod["status"]["phase"] == "Failed":
            raise AssertionError(f"{pod['metadata']['name']} failed")
    done = [pod for pod in pods if pod["status"]["phase"] == "Succeeded"]
    return (
        done[0] if done and job_end(cluster, space, done[0]["metadata"]["labels"]["job-name"]) == "Complete" else None
    )


def exit_code(pod: dict, container: str) -> int | None:
    return container_status(pod, container)["state"].get("terminated", {}).get("exitCode")


def deletion(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    """The agent goes on calling for 3 s after SIGTERM and then ends by itself."""
    pod = cluster.agent(space, "deleted", upstream.url, args=[*AGENT, "--linger", "3s"], grace=20)
    late, last, codes = delete_and_watch(cluster, space, "deleted", pod)
    report.check(
        "after deletion each call works until the agent's end",
        late and not last["failed"],
        f"{len(late)} calls, the last after {late[-1] if late else 0} ms",
    )
    report.check("the agent ended by itself", codes.get("agent") == 0, codes)
    report.check("and then the sidecar, with 0", codes.get("outrigger") == 0, codes)


def whole_grace(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    """The agent takes more than the whole grace period of 4 s, and is killed."""
    pod = cluster.agent(space, "grace", upstream.url, args=[*AGENT, "--linger", "60s"], grace=4)
    late, last, codes = delete_and_watch(cluster, space, "grace", pod)
    report.check("also when it uses up the grace period", not last["failed"], last["failed"] or f"{len(late)} calls")
    latest = late[-1] if late else 0
    report.timed("to its end", latest > 3400, f"the last after {latest} ms")
    report.check("the sidecar ended with 0 in what was left", codes.get("outrigger") == 0, codes)


def delete_and_watch(cluster: Cluster, space: str, release: str, pod: dict) -> tuple[list[int], dict, dict[str, int]]:
    """Deletes an agent's workload; gives when calls ended after SIGTERM, what failed, and the exit codes."""
    name = pod["metadata"]["name"]
    log = cluster.follow_log(space, name, "agent")
    log.await_line("connected")
    until("the agent calls", lambda: tally(pod)["calls"] > 2, 20)
    # The pod's object stays until its exit codes have been read.
    held = ("-n", space, "patch", "pod", name, "--type=merge", "-p")
    cluster.kubectl(*held, '{"metadata": {"finalizers": ["outrigger.dev/exit-codes"]}}')
    cluster.api.delete("Deployment", space, release)

    def ended() -> dict[str, int] | None:
        found = cluster.api.get("Pod", space, name)
        codes = {container: exit_code(found, container) for container in ("outrigger", "agent")}
        return codes if None not in codes.values() else None

    codes = until("both containers have ended", ended, 60)
    cluster.kubectl(*held, '{"metadata": {"finalizers": null}}')
    log.wait(10)
    lines = [json.loads(line) for line in log.out.read_text().splitlines() if line.startswith("{")]
    late = [line["ms"] for line in lines if line["event"] == "late"]
    return late, {"failed": [line["text"] for line in lines if line["event"] == "failed"]}, codes


def upstream_down(cluster: Cluster, report: Report, space: str, _upstream: Upstream) -> None:
    url = f"http://absent.{space}.svc.cluster.local:8080/mcp"
    cluster.install_agent(space, "down", url, args=[*AGENT, "--patient"])
    pod = report.within("a pod whose upstream is down starts", 60, lambda: ready_pod(cluster, space, "down"))
    if not pod:
        return
    told = until("the agent runs", lambda: tally(pod), 30)
    report.check("its agent runs, and has no connection", told["connected"] == 0)
    cluster.upstream(space, "absent")
    report.within("it has one when the upstream comes", 60, lambda: tally(pod)["calls"])


def ready_pod(cluster: Cluster, space: str, release: str) -> dict | None:
    pods = cluster.pods(space, f"app={release}")
    return pods[0] if pods and is_ready(pods[0]) else None


def restarted(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    lose_sidecar(cluster, report, upstream, space, signal.SIGTERM, "restarted")


def crashed(cluster: Cluster, report: Report, space: str, upstream: Upstream) -> None:
    lose_sidecar(cluster, report, upstream, space, signal.SIGKILL, "killed")


def lose_sidecar(
    cluster: Cluster, report: Report, upstream: Upstream, space: str, number: signal.Signals, how: str
) -> None:
    """A session of the agent, and its stream, outlive its sidecar if the key is in a Secret.

    Once in each pod: for a second restart the kubelet waits for so long that an SDK gives its stream up.
    """
    sidecar = {"sessionKey": {"existingSecret": "session-key"}}
    pod = cluster.agent(space, f"agent-{how}", upstream.url, args=AGENT, sidecar=sidecar)
    until("the agent calls", lambda: tally(pod)["calls"], 30)
    restarts = cluster.restarts(pod)
    os.kill(cluster.container_pid(pod, "outrigger"), number)

    def back() -> bool:
        return cluster.restarts(pod) > restarts and cluster.container_status(pod, "outrigger")["ready"]

    until("the sidecar is back", back, 90)
    before = tally(pod)["calls"]

    def goes_on() -> dict | None:
        calls = tally(pod)
        return calls if calls["calls"] > before + 5 else None

    after = report.within(f"the agent's session goes on when the sidecar is {how} in place", 20, goes_on)
    if after:
        lost = [error for error in after["errors"] if not re.search(r"connection refused|EOF|reset by peer", error)]
        figure = lost or f"{after['failed']} of {after['calls'] + after['failed']}"
        report.check("only calls while nothing listened failed", not lost, figure)
    told = tally(pod)["list_changed"]

    def told_again() -> bool:
        # The stream may come back at any time, and what is sent before it does is nobody's.
        upstream.post("/notify")
        return tally(pod)["list_changed"] > told

    report.within(f"and so does its stream, {how}", 30, told_again)
    same = tally(pod)["connected"] == 1 and cluster.restarts(pod, "agent") == 0
    report.check(f"it is the same session, {how}, and the agent was not restarted", same)
