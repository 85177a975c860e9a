"""Row 5: what the agent can get at, and what the sidecar could do if it were taken over."""

import errno
import json
import os

from api import Refused
from cluster import PEER_IMAGE, RESTRICTED, Cluster, tally
from report import Report, until

TOKEN = "isolation-4711-token"
KEY = "c0ffee" * 10 + "c0de"


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row5")
    upstream = cluster.upstream(space)
    upstream.accept(TOKEN)
    cluster.secret(space, "mcp-token", {"token": TOKEN})
    cluster.secret(space, "session-key", {"session-key": KEY})
    sidecar = {"sessionKey": {"existingSecret": "session-key"}, "serviceAccountToken": {"audience": "mcp.example.com"}}
    pod = cluster.agent(space, "agent", upstream.url, args=["agent"], token="mcp-token", sidecar=sidecar)
    until("the agent calls", lambda: tally(pod)["calls"], 30)
    report.check("the sidecar uses the token", upstream.status()["seen"].get(TOKEN))

    secrets(cluster, report, space, pod)
    rights(cluster, report, space, pod)
    privileges(cluster, report, pod)
    restricted(cluster, report, space)


def secrets(cluster: Cluster, report: Report, space: str, pod: dict) -> None:
    found = cluster.execute(pod, "/peer", "search", TOKEN, KEY)
    report.check(
        "the agent finds neither token nor key in all that it can read",
        found["found"] == [] and found["read"] > 1,
        f"{found['read']} files, {found['processes']} processes",
    )

    # The same search where the Secret is mounted finds it: that nothing was found above says something.
    container = {
        "name": "agent",
        "image": PEER_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["sleep", "1h"],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "token", "mountPath": "/token"}],
    }
    volume = {"name": "token", "secret": {"secretName": "mcp-token", "defaultMode": 0o444}}
    labels = {"app": "control"}
    spec = {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 0}
    cluster.api.apply({"kind": "Pod", "metadata": {"name": "control", "labels": labels}, "spec": spec}, space)
    control = cluster.execute(cluster.await_pod(space, "app=control"), "/peer", "search", TOKEN)
    report.check("the search finds it where it is mounted", control["found"], control["found"][:1])

    # Read as the user of the sidecar: 0444 is what makes them readable there, and the mount what keeps them there.
    pid = cluster.container_pid(pod, "outrigger")
    projected = f"/proc/{pid}/root/run/secrets/outrigger/serviceaccount/token"
    report.check("the projected token is in the sidecar", os.path.getsize(projected) > 100)
    agent = cluster.container_pid(pod, "agent")
    report.check(
        "and nothing of it in the agent's container", not os.path.exists(f"/proc/{agent}/root/run/secrets/outrigger")
    )


def rights(cluster: Cluster, report: Report, space: str, pod: dict) -> None:
    asked = [
        ("get", "secrets"),
        ("list", "pods"),
        ("create", "pods"),
        ("watch", "configmaps"),
        ("create", "serviceaccounts", "--subresource=token"),
    ]

    def answers(account: str) -> list[str]:
        subject = f"--as=system:serviceaccount:{space}:{account}"
        # can-i ends with 1 for a no, as it does when it cannot tell: so what it prints counts.
        return [cluster.kubectl("-n", space, "auth", "can-i", *one, subject, codes=(0, 1)).strip() for one in asked]

    def each(said: list[str]) -> str:
        return ", ".join(f"{' '.join(one)}: {word}" for one, word in zip(asked, said, strict=True))

    account = pod["spec"]["serviceAccountName"]
    said = answers(account)
    report.check("the pod's ServiceAccount has no rights", set(said) == {"no"}, f"{account}: {each(said)}")

    # Somebody who has them all is told so: that the answers above are no says something.
    cluster.api.apply({"kind": "ServiceAccount", "metadata": {"name": "mighty"}}, space)
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["watch"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    ]
    cluster.api.apply({"kind": "Role", "metadata": {"name": "mighty"}, "rules": rules}, space)
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": "mighty"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mighty"},
        "subjects": [{"kind": "ServiceAccount", "name": "mighty", "namespace": space}],
    }
    cluster.api.apply(binding, space)
    report.within("one that has them is told so", 30, lambda: set(answers("mighty")) == {"yes"}, every=1)


def privileges(cluster: Cluster, report: Report, pod: dict) -> None:
    """What the kernel says of the sidecar's process, and of its file systems, even to root."""
    pid = cluster.container_pid(pod, "outrigger")
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    uids = set(status["Uid"].split()) | set(status["Gid"].split())
    report.check("the sidecar runs as 65532", uids == {"65532"}, ", ".join(sorted(uids)))
    held = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    report.check(
        "it has no capability, and cannot get one",
        all(int(value, 16) == 0 for value in held.values()) and status["NoNewPrivs"].strip() == "1",
    )
    report.check(
        "its system calls are filtered", status["Seccomp"].strip() == "2", f"Seccomp {status['Seccomp'].strip()}"
    )

    # The kernel gives the files of a process that is not dumpable to root: others of its user are kept out of its
    # environment and its root, also where a pod shares its process namespace.
    owner = os.stat(f"/proc/{pid}/environ").st_uid
    report.check("others of its user cannot look into its process", owner == 0, f"uid {owner}")

    writable = []
    for folder in ("/", "/etc", "/etc/outrigger", "/run", "/run/secrets/outrigger/mcp", "/tmp", "/var", "/home"):
        path = f"/proc/{pid}/root{folder}"
        if not os.path.isdir(path):
            continue
        try:
            os.close(os.open(f"{path}/probe", os.O_CREAT | os.O_WRONLY))
            os.unlink(f"{path}/probe")
            writable.append(folder)
        except OSError as error:
            if error.errno != errno.EROFS:
                writable.append(f"{folder}: {error.strerror}")
    report.check("its root and all that is mounted for it are read-only", not writable, writable or "to root as well")


def restricted(cluster: Cluster, report: Report, space: str) -> None:
    namespace = cluster.api.get("Namespace", None, space)
    level = namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
    report.check("all of this ran in a namespace that enforces `restricted`", level == "restricted")
    plain = {
        "kind": "Pod",
        "metadata": {"name": "plain"},
        "spec": {"containers": [{"name": "plain", "image": PEER_IMAGE}]},
    }
    try:
        cluster.api.apply(plain, space)
        report.check("which refuses a pod that is not", False, json.dumps(plain))
    except Refused as refused:
        report.check("which refuses a pod that is not", "violates PodSecurity" in str(refused), str(refused)[:90])
