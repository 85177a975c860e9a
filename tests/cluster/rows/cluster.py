"""The cluster of a run, and what every row does with it."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from api import Api
from harness import ROOT, Process, Processes, Trouble
from report import say, until

HERE = ROOT / "tests" / "cluster"
CACHE = Path(
    os.environ.get("OUTRIGGER_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outrigger"
)
VERSION = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
SIDECAR_IMAGE = "localhost/outrigger"
PEER_IMAGE = "localhost/peer:1"
ADMIN_PORT = 9464
# What Pod Security `restricted` wants of every container.
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Cluster(Processes):
    """The processes of a run and its cluster: all end with the script, however it ends."""

    def __init__(self, output: Path) -> None:
        self.state = CACHE / "cluster" / "run"
        self.output = output
        self.bin = CACHE / "cluster" / "bin"
        self.charts = output / "charts"
        # What tells the names of a second try from those of the first.
        self.suffix = ""
        self._names = threading.Lock()
        self._count = 0
        self._scripts: set[subprocess.Popen] = set()
        (output / "logs").mkdir(parents=True, exist_ok=True)
        self._alone()
        super().__init__(output / "logs")

    def _alone(self) -> None:
        """One run at a time: the next one begins by removing what it finds."""
        self.state.parent.mkdir(parents=True, exist_ok=True)
        self._lock = (self.state.parent / "run.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble("another run of tests/cluster/run is going on") from None

    def stop_all(self) -> None:
        super().stop_all()
        for script in list(self._scripts):
            # With its whole group: it cleans up by itself once what it waits for is gone.
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGTERM)
            script.wait(30)
        subprocess.run([HERE / "down", self.state], stdin=subprocess.DEVNULL, start_new_session=True)

    # ---- Start

    def start_node(self) -> None:
        self._script(HERE / "binaries")
        # Beside a cluster that somebody plays with.
        os.environ.setdefault("OUTRIGGER_CLUSTER_NET", "10.78")
        subprocess.run([HERE / "down", self.state], check=True)  # what a killed run has left
        began = time.monotonic()
        self._script(HERE / "up", self.state)
        self.api = Api(
            self.state / "pki",
            json.loads(self.kubectl("config", "view", "-o", "json", "--raw"))["clusters"][0]["cluster"][
                "server"
            ].removeprefix("https://"),
        )
        say(f"the node is ready after {time.monotonic() - began:.1f} s")

    def load_images(self) -> None:
        """The sidecar's own image, as it is shipped unless one is named, and one of a program for server and agent."""
        archive = os.environ.get("OUTRIGGER_IMAGE") or self._script(ROOT / "scripts" / "image").splitlines()[-1]
        self.load(Path(archive))
        self.pack(PEER_IMAGE, "peer")

    def pack(self, image: str, program: str) -> None:
        archive = self.output / f"{program}.tar"
        self._run([HERE / "archive", image, archive, self.bin / program])
        self.load(archive)

    def load(self, archive: Path) -> None:
        self._run([self.state / "ctr", "images", "import", archive])

    def prepare_charts(self) -> None:
        """Copies: Helm writes a chart's dependencies into its folder."""
        for name in ("outrigger", "outrigger-sidecar"):
            shutil.copytree(ROOT / "charts" / name, self.charts / name)
        shutil.copytree(HERE / "agent-chart", self.charts / "agent")
        self.helm("dependency", "update", self.charts / "agent")

    # ---- Commands

    def _run(
        self,
        command: list[object],
        given: str | None = None,
        limit: float = 120,
        environment: dict[str, str] | None = None,
        codes: tuple[int, ...] = (0,),
    ) -> str:
        words = [str(word) for word in command]
        try:
            result = subprocess.run(
                words,
                input=given,
                stdin=None if given is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=limit,
                env=os.environ | (environment or {}),
            )
        except subprocess.TimeoutExpired:
            raise Trouble(f"{' '.join(words)[:200]} did not end within {limit:.0f} s") from None
        if result.returncode not in codes:
            raise Trouble(f"{' '.join(words)[:200]} ended with {result.returncode}: {(result.stderr or result.stdout).strip()[-800:]}")
        return result.stdout

    def _script(self, *command: object) -> str:
        """One of the project's scripts: what it says while it works is shown."""
        words = [str(word) for word in command]
        script = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._scripts.add(script)
        output, _ = script.communicate()
        self._scripts.discard(script)
        if script.returncode != 0:
            raise Trouble(f"{Path(words[0]).name} ended with {script.returncode}")
        return output.strip()

    def kubectl(
        self, *arguments: object, given: str | None = None, limit: float = 120, codes: tuple[int, ...] = (0,)
    ) -> str:
        """Its standard output, if it ends with one of these codes."""
        command = [self.bin / "kubectl", f"--kubeconfig={self.state / 'kubeconfig'}", *arguments]
        return self._run(command, given, limit, codes=codes)

    def helm(self, *arguments: object, limit: float = 180) -> str:
        homes = {f"HELM_{name}_HOME": str(self.output / "helm" / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        return self._run(
            [self.bin / "helm", f"--kubeconfig={self.state / 'kubeconfig'}", *arguments], None, limit, homes
        )

    def shell(self, commands: str, folder: Path, environment: dict[str, str]) -> str:
        """What commands say that somebody types into one shell. The first that fails ends it."""
        homes = {f"HELM_{name}_HOME": str(folder / ".helm" / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        tools = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.state / "kubeconfig"),
        }
        script = f"cd '{folder}'\nexec 2>&1\n{commands}"
        every = tuple(range(256))  # how far it came is for its reader to judge
        return self._run(["bash", "-euo", "pipefail", "-c", script], None, 480, homes | tools | environment, every)

    def helm_install(
        self, release: str, chart: str, namespace: str, values: dict, *arguments: object, action: str = "install"
    ) -> str:
        """With values that are checked against the chart's schema, from a file as a user would have it."""
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=self.output, delete=False) as file:
            json.dump(values, file)
        return self.helm(
            action, release, self.charts / chart, "--namespace", namespace, "--values", file.name, *arguments
        )

    def follow_log(self, namespace: str, pod: str, container: str) -> Process:
        """What a container writes from now to its end, which outlives the pod."""
        with self._names:
            self._count += 1
            name = f"{pod}-{container}-{self._count}"
        command = [
            self.bin / "kubectl",
            f"--kubeconfig={self.state / 'kubeconfig'}",
            "-n",
            namespace,
            "logs",
            "-f",
            pod,
            "-c",
            container,
        ]
        return self.start(name, command)

    # ---- Objects

    def namespace(self, name: str) -> str:
        """A namespace where only pods of the Pod Security Standard `restricted` may run."""
        name += self.suffix
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.api.apply({"kind": "Namespace", "metadata": {"name": name, "labels": labels}}, None)
        until("the default ServiceAccount", lambda: self.api.get("ServiceAccount", name, "default"), 30)
        return name

    def secret(self, namespace: str, name: str, data: dict[str, str]) -> None:
        self.api.apply({"kind": "Secret", "metadata": {"name": name}, "stringData": data}, namespace)

    def config_map(self, namespace: str, name: str, data: dict[str, str]) -> None:
        self.api.apply({"kind": "ConfigMap", "metadata": {"name": name}, "data": data}, namespace)

    def pods(self, namespace: str, labels: str) -> list[dict]:
        """Without those that are being deleted."""
        return [pod for pod in self.api.list("Pod", namespace, labels) if "deletionTimestamp" not in pod["metadata"]]

    def await_pod(self, namespace: str, labels: str, limit: float = 60) -> dict:
        """The one pod with these labels, once it is ready."""

        def ready() -> dict | None:
            pods = self.pods(namespace, labels)
            return pods[0] if len(pods) == 1 and is_ready(pods[0]) else None

        try:
            return until(f"a ready pod with {labels}", ready, limit)
        except Trouble as trouble:
            raise Trouble(f"{trouble}; {self.explain(namespace)}") from None

    def explain(self, namespace: str) -> str:
        """What the cluster says about the pods of a namespace, for a failure's message."""
        lines = []
        for event in self.api.list("Event", namespace):
            if event.get("type") != "Normal":
                lines.append(f"{event['involvedObject']['name']}: {event.get('message', '')[:300]}")
        return "; ".join(lines[-5:]) or "no warnings"

    def upstream(self, namespace: str, name: str = "mcp", tls_secret: str | None = None) -> "Upstream":
        """A real MCP server behind a Service."""
        arguments, mounts, volumes = ["server"], [], []
        if tls_secret:
            arguments += ["--certificate", "/tls/tls.crt", "--key", "/tls/tls.key"]
            mounts = [{"name": "tls", "mountPath": "/tls"}]
            volumes = [{"name": "tls", "secret": {"secretName": tls_secret, "defaultMode": 0o444}}]
        container = {
            "name": "server",
            "image": PEER_IMAGE,
            "imagePullPolicy": "Never",
            "args": arguments,
            "ports": [{"name": "mcp", "containerPort": 8080}],
            "securityContext": RESTRICTED,
            "volumeMounts": mounts,
            "readinessProbe": {"tcpSocket": {"port": 8081}, "periodSeconds": 1},
        }
        labels = {"app": name}
        self.api.apply(
            {
                "kind": "Deployment",
                "metadata": {"name": name},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "containers": [container],
                            "volumes": volumes,
                            "terminationGracePeriodSeconds": 1,
                            "automountServiceAccountToken": False,
                        },
                    },
                },
            },
            namespace,
        )
        self.api.apply(
            {
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"selector": labels, "ports": [{"name": "mcp", "port": 8080}]},
            },
            namespace,
        )
        pod = self.await_pod(namespace, f"app={name}")
        scheme = "https" if tls_secret else "http"
        return Upstream(f"{scheme}://{name}.{namespace}.svc.cluster.local:8080/mcp", pod["status"]["podIP"])

    def post(self, pod: dict, url: str, message: dict) -> dict:
        """Status and body of the answer to one MCP request, as the agent's container gets it."""
        return self.execute(pod, "/peer", "post", url, json.dumps(message))

    def agent(self, namespace: str, release: str, url: str, **values: object) -> dict:
        """Installs an agent with its sidecar by Helm, and gives its pod once it is ready."""
        self.install_agent(namespace, release, url, **values)
        return self.await_pod(namespace, f"app={release}")

    def install_agent(self, namespace: str, release: str, url: str, **values: object) -> None:
        self.helm_install(release, "agent", namespace, agent_values(url, **values))

    # ---- Containers

    def container_pid(self, pod: dict, container: str) -> int:
        """The process of a container, as the host sees it."""
        statuses = self.api.get("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])["status"]
        for status in statuses.get("initContainerStatuses", []) + statuses["containerStatuses"]:
            if status["name"] == container and "running" in status["state"]:
                wanted = status["containerID"].removeprefix("containerd://")
                for line in self._run([self.state / "ctr", "tasks", "list"]).splitlines():
                    if line.startswith(wanted):
                        return int(line.split()[1])
        raise Trouble(f"{container} of {pod['metadata']['name']} does not run")

    def restarts(self, pod: dict, container: str = "outrigger") -> int:
        return self.container_status(pod, container)["restartCount"]

    def container_status(self, pod: dict, container: str) -> dict:
        found = self.api.get("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
        return container_status(found, container)

    def execute(self, pod: dict, *command: object) -> dict:
        """What a command in the agent's container prints, as JSON."""
        place = ["-n", pod["metadata"]["namespace"], "exec", pod["metadata"]["name"], "-c", "agent", "--"]
        return json.loads(self.kubectl(*place, *command))


class Upstream:
    """A server's URL within the cluster, and its control interface, reached at its pod."""

    def __init__(self, url: str, address: str) -> None:
        self.url = url
        self._control = f"http://{address}:8081"

    def status(self) -> dict:
        return fetch_json(self._control + "/")

    def post(self, path: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(self._control + path, method="POST"), timeout=5):
            pass

    def accept(self, *tokens: str) -> None:
        self.post("/accept?" + "&".join(f"token={token}" for token in tokens))


def agent_values(
    url: str,
    *,
    args: list[str],
    token: str | None = None,
    server: dict | None = None,
    sidecar: dict | None = None,
    **values: object,
) -> dict:
    """Values of the agent's chart: one server, with the token in the Secret that is named."""
    entry: dict = {"name": "mcp", "endpoints": [{"url": url}], "allowPlaintext": url.startswith("http:")} | (
        server or {}
    )
    settings: dict = {"image": {"repository": SIDECAR_IMAGE, "pullPolicy": "Never"}, "servers": [entry]}
    if token:
        entry["auth"] = {"type": "bearer", "token": {"valueFrom": {"file": "/run/secrets/outrigger/mcp/token"}}}
        settings["secrets"] = [{"name": "mcp", "secretName": token}]
    return {"image": PEER_IMAGE, "args": args, "outrigger-sidecar": settings | (sidecar or {})} | values


def is_ready(pod: dict) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions", []))


def container_status(pod: dict, container: str) -> dict:
    statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", [])
    named = {status["name"]: status for status in statuses}
    return named[container]


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def fetch_json(url: str) -> dict:
    return json.loads(fetch(url))


def tally(pod: dict) -> dict:
    """What an agent has done so far."""
    return fetch_json(f"http://{pod['status']['podIP']}:9100/")


def metric(pod: dict, name: str, **labels: str) -> float | None:
    """The sum of a sidecar's series with these labels, by its own port; None if there is none."""
    values = []
    for line in fetch(f"http://{pod['status']['podIP']}:{ADMIN_PORT}/metrics").splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)(?: \d+)?", line)
        if found and all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
            values.append(float(found[2]))
    return sum(values) if values else None
