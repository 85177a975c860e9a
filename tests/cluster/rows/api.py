"""The API server, by HTTP: polling it by kubectl would cost a tenth of a second of CPU each time."""

import http.client
import json
import ssl
import urllib.parse
from pathlib import Path

from harness import Trouble

# kind to (group and version, plural); None as the namespace is for those that have none.
KINDS = {
    "Namespace": ("api/v1", "namespaces"),
    "Pod": ("api/v1", "pods"),
    "Service": ("api/v1", "services"),
    "ServiceAccount": ("api/v1", "serviceaccounts"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Secret": ("api/v1", "secrets"),
    "Event": ("api/v1", "events"),
    "Deployment": ("apis/apps/v1", "deployments"),
    "StatefulSet": ("apis/apps/v1", "statefulsets"),
    "Job": ("apis/batch/v1", "jobs"),
    "CronJob": ("apis/batch/v1", "cronjobs"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "Role": ("apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
}


class Refused(Trouble):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    def __init__(self, pki: Path, address: str) -> None:
        self._address = address
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def request(self, method: str, path: str, body: object = None, kind: str = "application/json") -> dict:
        # A connection for each: rows are threads, and the server goes away in one of them.
        connection = http.client.HTTPSConnection(self._address, context=self._tls, timeout=20)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, f"/{path}", content, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 300:
            try:
                message = json.loads(text)["message"]
            except (ValueError, KeyError):
                message = text
            raise Refused(answer.status, message)
        return json.loads(text) if text.startswith("{") else {"text": text}

    def path(self, kind: str, namespace: str | None, name: str = "") -> str:
        group, plural = KINDS[kind]
        inside = f"namespaces/{namespace}/" if namespace else ""
        return f"{group}/{inside}{plural}" + (f"/{name}" if name else "")

    def get(self, kind: str, namespace: str | None, name: str) -> dict:
        return self.request("GET", self.path(kind, namespace, name))

    def list(self, kind: str, namespace: str | None, labels: str = "") -> list[dict]:
        query = f"?labelSelector={urllib.parse.quote(labels)}" if labels else ""
        return self.request("GET", self.path(kind, namespace) + query)["items"]

    def apply(self, document: dict, namespace: str | None) -> dict:
        """Server-side apply, as the owner of every field in the document."""
        group = KINDS[document["kind"]][0].removeprefix("apis/").removeprefix("api/")
        document = {"apiVersion": group, **document}
        path = self.path(document["kind"], namespace, document["metadata"]["name"])
        query = "?fieldManager=cluster-tests&force=true"
        return self.request("PATCH", path + query, document, "application/apply-patch+yaml")

    def delete(self, kind: str, namespace: str | None, name: str, grace: int | None = None) -> None:
        query = "" if grace is None else f"?gracePeriodSeconds={grace}"
        self.request("DELETE", self.path(kind, namespace, name) + query)
