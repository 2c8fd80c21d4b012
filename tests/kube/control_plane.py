"""Kubernetes and KEDA as processes on loopback ports."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import urllib3
import yaml

from tagstream_testing.local.server import Server
from tests.support import go_programs
from tests.support.secure_kafka import Authority
from tests.support.waiting import eventually
from workers.errors import TagstreamError

NAMESPACE = "tagstream"
KEDA_HOST = "keda-operator.keda.svc.cluster.local"


class Refused(TagstreamError):
    """kubectl failed; the text has its output."""


class _Part(Server):
    program: ClassVar[str]
    ready_within_s: ClassVar[float] = 180.0

    def prepare(self) -> None:
        """Everything is on its command line."""

    def command(self) -> Sequence[str]:
        return [str(go_programs.path(self.program)), *(f"--{name}={value}" for name, value in self.flags().items())]

    @abstractmethod
    def flags(self) -> Mapping[str, object]:
        """Its command line."""


class Etcd(_Part):
    name = "etcd"
    program = "etcd"
    port_count = 2

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def flags(self) -> Mapping[str, object]:
        peers = f"http://127.0.0.1:{self.ports[1]}"
        return {
            "data-dir": self.folder / "data",
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"default={peers}",
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }

    def is_ready(self) -> bool:
        return _says_ok(f"{self.url}/health")


class ApiServer(_Part):
    name = "kube-apiserver"
    program = "kube-apiserver"

    def __init__(self, folder: Path, etcd: Etcd, authority: Authority) -> None:
        super().__init__(folder)
        self._etcd = etcd
        self._authority = authority
        self._serving = authority.sign("kube-apiserver", ["localhost"])
        self._front = authority.sign("front-proxy")
        self._accounts = authority.key_pair("service-accounts")
        self.kubeconfig = folder / "kubeconfig"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports[0]}"

    def api(self) -> Api:
        return Api(self.url, str(self._authority.certificate))

    def prepare(self) -> None:
        (self.folder / "tokens").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        cluster = {"server": self.url, "certificate-authority": str(self._authority.certificate)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(config))

    def flags(self) -> Mapping[str, object]:
        public, private = self._accounts
        return {
            "etcd-servers": self._etcd.url,
            "bind-address": "127.0.0.1",
            "secure-port": self.ports[0],
            "endpoint-reconciler-type": "none",
            "tls-cert-file": self._serving[0],
            "tls-private-key-file": self._serving[1],
            "service-account-issuer": "https://tagstream.test",
            "service-account-key-file": public,
            "service-account-signing-key-file": private,
            "token-auth-file": self.folder / "tokens",
            "authorization-mode": "RBAC",
            "service-cluster-ip-range": "10.0.0.0/24",
            "disable-admission-plugins": "ServiceAccount",
            # Its certificate for servers that extend its API, such as KEDA's adapter.
            "proxy-client-cert-file": self._front[0],
            "proxy-client-key-file": self._front[1],
            "requestheader-client-ca-file": self._authority.certificate,
            "requestheader-allowed-names": "front-proxy",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        }

    def is_ready(self) -> bool:
        api = self.api()
        try:
            return api.text("/readyz") == "ok"
        except (ApiError, urllib3.exceptions.HTTPError):
            return False
        finally:
            api.close()


class _Loop(_Part):
    def __init__(self, folder: Path, server: ApiServer) -> None:
        super().__init__(folder)
        self._server = server

    def flags(self) -> Mapping[str, object]:
        return {
            "kubeconfig": self._server.kubeconfig,
            "secure-port": self.ports[0],
            "bind-address": "127.0.0.1",
            "cert-dir": self.folder,
            "leader-elect": "false",
        }

    def is_ready(self) -> bool:
        return _says_ok(f"https://127.0.0.1:{self.ports[0]}/healthz")


class Controllers(_Loop):
    name = "kube-controller-manager"
    program = "kube-controller-manager"

    def flags(self) -> Mapping[str, object]:
        return {
            **super().flags(),
            "horizontal-pod-autoscaler-sync-period": "5s",
            "controllers": "*,-node-lifecycle-controller,-taint-eviction-controller",
        }


class Scheduler(_Loop):
    name = "kube-scheduler"
    program = "kube-scheduler"


class _KedaPart(_Part):
    """A program of KEDA. By its third port it says that it is ready."""

    def __init__(self, folder: Path, server: ApiServer, certificates: Path) -> None:
        super().__init__(folder)
        self._server = server
        self._certificates = certificates

    def environment(self) -> Mapping[str, str]:
        return _keda_environment(self._server)

    def is_ready(self) -> bool:
        return _says_ok(f"http://127.0.0.1:{self.ports[2]}/readyz")


class KedaOperator(_KedaPart):
    name = "keda-operator"
    program = "keda-operator"
    port_count = 3

    @property
    def metrics_service(self) -> str:
        return f"localhost:{self.ports[0]}"

    def flags(self) -> Mapping[str, object]:
        return {
            "metrics-service-bind-address": f"127.0.0.1:{self.ports[0]}",
            "metrics-bind-address": f"127.0.0.1:{self.ports[1]}",
            "health-probe-bind-address": f"127.0.0.1:{self.ports[2]}",
            "cert-dir": self._certificates,
            "enable-webhook-patching": "false",
            "enable-apiservice-patching": "false",
        }


class KedaAdapter(_KedaPart):
    name = "keda-adapter"
    program = "keda-adapter"
    port_count = 2

    def __init__(self, folder: Path, server: ApiServer, operator: KedaOperator, certificates: Path) -> None:
        super().__init__(folder, server, certificates)
        self._operator = operator

    def flags(self) -> Mapping[str, object]:
        config = self._server.kubeconfig
        return {
            "secure-port": self.ports[0],
            "port": self.ports[1],
            "cert-dir": self._certificates,
            "metrics-service-address": self._operator.metrics_service,
            "metrics-service-grpc-authority": KEDA_HOST,
            "kubeconfig": config,
            "lister-kubeconfig": config,
            "authentication-kubeconfig": config,
            "authorization-kubeconfig": config,
        }

    def is_ready(self) -> bool:
        return _says_ok(f"https://127.0.0.1:{self.ports[0]}/healthz")


class KedaWebhooks(_KedaPart):
    """Asked by the API server before it takes a manifest of KEDA's kinds."""

    name = "keda-webhooks"
    program = "keda-webhooks"
    port_count = 3

    @property
    def url(self) -> str:
        return f"https://localhost:{self.ports[0]}"

    def flags(self) -> Mapping[str, object]:
        return {
            "port": self.ports[0],
            "metrics-bind-address": f"127.0.0.1:{self.ports[1]}",
            "health-probe-bind-address": f"127.0.0.1:{self.ports[2]}",
            "cert-dir": self._certificates,
        }


class ControlPlane:
    """All of them. Use it in a `with` block.

    Args:
        folder: for their data and logs.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = Authority(folder / "authority")
        self.etcd = Etcd(folder / "etcd")
        (folder / "apiserver").mkdir()
        self.server = ApiServer(folder / "apiserver", self.etcd, authority)
        self.controllers = Controllers(folder / "controllers", self.server)
        self.scheduler = Scheduler(folder / "scheduler", self.server)
        certificates = _keda_certificates(folder / "keda-certificates", authority)
        self.operator = KedaOperator(folder / "keda-operator", self.server, certificates)
        self.adapter = KedaAdapter(folder / "keda-adapter", self.server, self.operator, certificates)
        self.webhooks = KedaWebhooks(folder / "keda-webhooks", self.server, certificates)
        self._authority = authority
        self.warned: list[str] = []
        """Warnings of the API server and its webhooks in the last call of kubectl."""

    @property
    def _parts(self) -> Sequence[_Part]:
        kubernetes = (self.etcd, self.server, self.controllers, self.scheduler)
        return (*kubernetes, self.operator, self.adapter, self.webhooks)

    def __enter__(self) -> ControlPlane:
        try:
            for part in (self.etcd, self.server, self.controllers, self.scheduler):
                part.start()
            self.api = self.server.api()
            self._make_namespaces()
            self._install_keda()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self._parts):
            part.retire()

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """The output of kubectl; Refused has its error."""
        kubectl = Path(sys.executable).with_name("kubectl")
        answer = subprocess.run(
            [str(kubectl), "--kubeconfig", str(self.server.kubeconfig), *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=900,
        )
        if answer.returncode != 0:
            raise Refused(f"kubectl {' '.join(arguments)}: {answer.stderr}")
        self.warned = [line for line in answer.stderr.splitlines() if line.startswith("Warning:")]
        return answer.stdout

    def _make_namespaces(self) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        for name, wanted in ((NAMESPACE, labels), ("keda", {})):
            self.api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": wanted}})

    def _install_keda(self) -> None:
        config = go_programs.module("keda", "github.com/kedacore/keda/v2") / "config"
        self.kubectl("apply", "--server-side", "-k", str(config / "crd"))
        kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        eventually(lambda: all(_is(kind, "Established") for kind in self.api.get(kinds)["items"]), 300)
        for part in (self.operator, self.adapter, self.webhooks):
            part.start()
        self._ask_webhooks(config / "webhooks" / "validation_webhooks.yaml")
        self._extend_the_api("v1beta1.external.metrics.k8s.io", self.adapter.ports[0])

    def _ask_webhooks(self, rules: Path) -> None:
        """Let the API server ask them, by KEDA's own rules; one that doesn't answer refuses, so that it is noticed."""
        authority = base64.b64encode(self._authority.certificate.read_bytes()).decode()
        configuration = yaml.safe_load(rules.read_text())
        for webhook in configuration["webhooks"]:
            url = self.webhooks.url + webhook["clientConfig"]["service"]["path"]
            webhook.update(clientConfig={"url": url, "caBundle": authority}, failurePolicy="Fail")
        self.api.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", configuration)

    def _extend_the_api(self, name: str, port: int) -> None:
        version, group = name.split(".", 1)
        service = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
        self.api.create(
            "/api/v1/namespaces/keda/services", {"metadata": {"name": "keda-metrics-apiserver"}, "spec": service}
        )
        spec = {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": "keda-metrics-apiserver", "namespace": "keda", "port": port},
        }
        path = "/apis/apiregistration.k8s.io/v1/apiservices"
        self.api.create(path, {"metadata": {"name": name}, "spec": spec})
        eventually(lambda: _is(self.api.get(f"{path}/{name}"), "Available"), 300, self.adapter.log_tail)


def _is(manifest: Any, condition: str) -> bool:
    conditions = manifest.get("status", {}).get("conditions") or []
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


def _keda_environment(server: ApiServer) -> Mapping[str, str]:
    own = {"POD_NAMESPACE": "keda", "WATCH_NAMESPACE": "", "KEDA_CLUSTER_OBJECT_NAMESPACE": "keda"}
    return {**os.environ, "KUBECONFIG": str(server.kubeconfig), **own}


def _keda_certificates(folder: Path, authority: Authority) -> Path:
    folder.mkdir()
    certificate, key = authority.sign("keda", [KEDA_HOST, "localhost"])
    for name, source in (("ca.crt", authority.certificate), ("tls.crt", certificate), ("tls.key", key)):
        (folder / name).write_bytes(source.read_bytes())
    return folder


def _says_ok(url: str) -> bool:
    """Whether a health page answers 200. No certificate is looked at."""
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False)
    with warnings.catch_warnings(action="ignore", category=urllib3.exceptions.InsecureRequestWarning), pool:
        try:
            return pool.request("GET", url, timeout=2, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False


TOKEN = "test-admin"


class ApiError(TagstreamError):
    """The API server refused; `status` is HTTP's."""

    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status = status


class Api:
    """JSON over HTTPS, as an administrator. Thread-safe.

    Raises:
        ApiError: by every method, for an answer that is not 2xx.
    """

    def __init__(self, url: str, authority: str) -> None:
        self._url = url
        headers = {"authorization": f"Bearer {TOKEN}"}
        self._pool = urllib3.PoolManager(
            headers=headers, ca_certs=authority, timeout=urllib3.Timeout(60), retries=False, maxsize=4
        )

    def get(self, path: str, **query: str) -> Any:
        return self._ask("GET", path, None, "application/json", query)

    def create(self, path: str, body: object) -> Any:
        return self._ask("POST", path, body, "application/json")

    def patch(self, path: str, body: object) -> Any:
        """A JSON merge patch (RFC 7386)."""
        return self._ask("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str, body: object = None) -> Any:
        return self._ask("DELETE", path, body, "application/json")

    def text(self, path: str) -> str:
        return self._answer("GET", path, None, "application/json", {}).decode()

    def _ask(self, method: str, path: str, body: object, kind: str, query: dict[str, str] | None = None) -> Any:
        return json.loads(self._answer(method, path, body, kind, query or {}))

    def _answer(self, method: str, path: str, body: object, kind: str, query: dict[str, str]) -> bytes:
        content = None if body is None else json.dumps(body)
        headers = {**self._pool.headers, "content-type": kind}
        target = f"{self._url}{path}" + ("?" + urlencode(query) if query else "")
        answer = self._pool.request(method, target, body=content, headers=headers)
        if answer.status // 100 != 2:
            raise ApiError(
                answer.status, f"{method} {path}: {answer.status} {answer.data[:500].decode(errors='replace')}"
            )
        return bytes(answer.data)

    def close(self) -> None:
        self._pool.clear()
