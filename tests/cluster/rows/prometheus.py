"""Row 6: a real Prometheus in a pod finds the sidecar by itself, scrapes it, and its alerts fire and clear."""

import re
import urllib.parse
from datetime import datetime

from cluster import RESTRICTED, Cluster, fetch_json, tally
from harness import ROOT, Trouble
from report import Report, until

IMAGE = "localhost/prometheus:1"
RULES = ROOT / "charts" / "outrigger" / "files" / "rules"
UP = 'up{container="outrigger"}'
# In seconds: what the rules look back, and how long what they find has to last.
WINDOW, FOR = 10, 4
# What makes the sidecar's port a target, as a PodMonitor would: the port's name. Prometheus offers the ports of init
# containers too, and a container without ports as well, which has no such name.
CONFIGURATION = """
global: {{scrape_interval: 2s, evaluation_interval: 2s}}
rule_files: [/etc/prometheus/rules/*.yaml]
scrape_configs:
- job_name: outrigger
  kubernetes_sd_configs: [{{role: pod, namespaces: {{names: [{space}]}}}}]
  relabel_configs:
  - {{source_labels: [__meta_kubernetes_pod_container_port_name], regex: mcp-admin, action: keep}}
  - {{source_labels: [__meta_kubernetes_namespace], target_label: namespace}}
  - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}
  - {{source_labels: [__meta_kubernetes_pod_container_name], target_label: container}}
  - {{source_labels: [__meta_kubernetes_pod_container_init], target_label: init}}
"""


def run(cluster: Cluster, report: Report) -> None:
    space = cluster.namespace("row6")
    upstream = cluster.upstream(space)
    agent = cluster.agent(space, "agent", upstream.url, args=["agent", "--every", "100ms"])
    cluster.pack(IMAGE, "prometheus")
    rules = {path.name: hasten(path.read_text()) for path in sorted(RULES.glob("*.yaml"))}
    if not rules:
        raise Trouble(f"there are no rules in {RULES}")
    pod = start(cluster, space, rules)
    base = f"http://{pod['status']['podIP']}:9090/api/v1"

    targets = report.within("Prometheus finds the sidecar by its port's name", 30, lambda: active_targets(base))
    if targets:
        found = {(target["labels"]["container"], target["labels"]["init"]) for target in targets}
        report.check("as an init container, and nothing else", found == {("outrigger", "true")}, found)
    report.within("it scrapes it", 30, lambda: value(base, UP) == 1)
    first = value(base, f"timestamp({UP})") or 0
    report.within("the calls are counted there", 30, lambda: (value(base, "sum(outrigger_requests_total)") or 0) > 5)
    loaded = [rule["name"] for group in fetch_json(f"{base}/rules")["data"]["groups"] for rule in group["rules"]]
    report.check("it takes the chart's rules", loaded, f"{len(loaded)} rules")
    # Before that an alert could not have fired, whatever is the matter.
    settled = WINDOW + FOR + 2
    until("the rules are evaluated over all that they look at", lambda: evaluated(base) > first + settled, 60)
    scrapes = value(base, f"count_over_time({UP}[10m])")
    every = alerts(base, "firing", "pending")
    figure = every or f"{evaluated(base) - first:.0f} s after the first of {scrapes:.0f} scrapes"
    report.check("no alert fires or is about to while all is well", not every, figure)

    upstream.post("/unwell")
    firing = report.within("an alert fires when the server fails", 60, lambda: alerts(base))
    if firing:
        report.check(
            "it names the server",
            any(alert["labels"].get("server") == "mcp" for alert in firing),
            sorted({alert["labels"]["alertname"] for alert in firing}),
        )
    upstream.post("/well")
    report.within("it clears when the server is well again", 90, lambda: not alerts(base))
    report.check("the agent noticed both", tally(agent)["failed"] > 0, f"{tally(agent)['failed']} calls failed")


def hasten(rules: str) -> str:
    """The rules as they are, but minutes become seconds: `promtool test rules` checks the times themselves."""
    rules = re.sub(r"\[\d+[smhd]\]", f"[{WINDOW}s]", rules)
    return re.sub(r"^(\s*)(for|keep_firing_for):.*$", rf"\1\2: {FOR}s", rules, flags=re.MULTILINE)


def start(cluster: Cluster, space: str, rules: dict[str, str]) -> dict:
    account = {"name": "prometheus", "namespace": space}
    cluster.api.apply({"kind": "ServiceAccount", "metadata": {"name": "prometheus"}}, space)
    role = {
        "kind": "ClusterRole",
        "metadata": {"name": "prometheus"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    }
    cluster.api.apply(role, None)
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "prometheus"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus"},
        "subjects": [{"kind": "ServiceAccount", **account}],
    }
    cluster.api.apply(binding, None)
    cluster.config_map(space, "prometheus", {"prometheus.yaml": CONFIGURATION.format(space=space)})
    cluster.config_map(space, "rules", rules)
    container = {
        "name": "prometheus",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "securityContext": RESTRICTED,
        "args": ["--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "configuration", "mountPath": "/etc/prometheus"},
            {"name": "rules", "mountPath": "/etc/prometheus/rules"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    volumes = [
        {"name": "configuration", "projected": {"sources": [{"configMap": {"name": "prometheus"}}]}},
        {"name": "rules", "configMap": {"name": "rules"}},
        {"name": "data", "emptyDir": {}},
    ]
    labels = {"app": "prometheus"}
    spec = {
        "serviceAccountName": "prometheus",
        "containers": [container],
        "volumes": volumes,
        "terminationGracePeriodSeconds": 1,
    }
    cluster.api.apply({"kind": "Pod", "metadata": {"name": "prometheus", "labels": labels}, "spec": spec}, space)
    return cluster.await_pod(space, "app=prometheus")


def active_targets(base: str) -> list[dict]:
    return fetch_json(f"{base}/targets?state=active")["data"]["activeTargets"]


def value(base: str, query: str) -> float | None:
    result = fetch_json(f"{base}/query?query={urllib.parse.quote(query)}")["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def evaluated(base: str) -> float:
    """When the group of rules was evaluated that has waited for the longest."""
    groups = fetch_json(f"{base}/rules")["data"]["groups"]
    return min(datetime.fromisoformat(group["lastEvaluation"]).timestamp() for group in groups)


def alerts(base: str, *states: str) -> list[dict]:
    wanted = states or ("firing",)
    return [alert for alert in fetch_json(f"{base}/alerts")["data"]["alerts"] if alert["state"] in wanted]
