"""A node without containers: it runs the program of each pod that the scheduler assigns, as a kubelet would.

A pod's environment, arguments, mounts, probes, restarts and grace period are its own. Containers are missing: an image
is this checkout's `tagstream`, a folder replaces each mount and its path in the environment, and the port of the probes
is a free one of the machine.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3

from tagstream_testing.local.ports import free_ports
from tagstream_testing.local.server import spawn_tied
from tests.kube.control_plane import Api, ApiError
from workers.errors import TagstreamError

_LOOK_S = 0.3
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 2.0, 60.0
"""A kubelet's are 10 s and 300 s."""
_WELL_AFTER_S = 600.0
_PROGRAM = (sys.executable, "-m", "workers")
"""The image's entry point."""

Json = dict[str, Any]


class Node:
    """One node of the cluster, with a folder for its pods. Use it in a `with` block."""

    def __init__(self, api: Api, folder: Path, name: str = "node-1", capacity: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._api = api
        self._folder = folder
        self._capacity = {"cpu": "64", "memory": "128Gi", "pods": "60", "ephemeral-storage": "500Gi"}
        self._capacity.update(capacity or {})
        self.pods: dict[str, Pod] = {}
        """The pods that run here, by name."""
        self.left: list[Pod] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name)
        self._failure: Exception | None = None

    def __enter__(self) -> Node:
        node = {"metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name}}}
        self._api.create("/api/v1/nodes", node)
        ready = {"type": "Ready", "status": "True", "reason": "NodeIsUp", **_now("lastHeartbeatTime")}
        status = {"capacity": self._capacity, "allocatable": self._capacity, "conditions": [ready]}
        self._api.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})
        self._api.patch(f"/api/v1/nodes/{self.name}", {"spec": {"taints": None}})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for pod in self.pods.values():
            pod.kill()
        with suppress(ApiError):
            self._api.delete(f"/api/v1/nodes/{self.name}")
        if self._failure is not None:
            raise self._failure

    def vanish(self) -> None:
        self._ending.set()
        self._thread.join()
        for pod in self.pods.values():
            pod.kill()
        self.pods.clear()

    def _work(self) -> None:
        try:
            while not self._ending.wait(_LOOK_S):
                self._look()
        except Exception as error:  # noqa: BLE001  told by the thread that ends the block
            self._failure = error

    def _look(self) -> None:
        try:
            answer = self._api.get("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}")
        except (ApiError, urllib3.exceptions.HTTPError):
            return  # it is asked again
        manifests = {pod["metadata"]["uid"]: pod for pod in answer["items"]}
        for uid, manifest in manifests.items():
            if uid not in self.pods:
                self.pods[uid] = Pod(self._api, manifest, self._folder / manifest["metadata"]["name"])
            self.pods[uid].step(manifest)
        for uid in [uid for uid, pod in self.pods.items() if pod.over or uid not in manifests]:
            self.pods[uid].kill()
            self.left.append(self.pods.pop(uid))


class Probe:
    """One of a container's probes.

    Args:
        rules: as the manifest has them; none: it is always passed.
        url: where /livez and the others are.
    """

    def __init__(self, rules: Json | None, url: str, begun: float) -> None:
        self.rules = rules
        self._url = url
        self._next = begun + (rules or {}).get("initialDelaySeconds", 0)
        self._failed = 0
        self.passed = rules is None

    def look(self, now: float) -> bool:
        """Ask if it is time. True when it has failed as often in a row as it may."""
        if self.rules is None or now < self._next:
            return False
        self._next = now + self.rules.get("periodSeconds", 10)
        self.passed, before = self._ask(), self.passed
        self._failed = 0 if self.passed else self._failed + 1
        if self._failed < self.rules.get("failureThreshold", 3):
            self.passed = self.passed or before
            return False
        return True

    def _ask(self) -> bool:
        assert self.rules is not None
        url = self._url + self.rules["httpGet"]["path"]
        try:
            answer = urllib3.request("GET", url, timeout=self.rules.get("timeoutSeconds", 1), retries=False)
        except urllib3.exceptions.HTTPError:
            return False
        return 200 <= answer.status < 400


class Pod:
    """A pod's one program and its status for the API server; `folder` has its mounts and its log."""

    def __init__(self, api: Api, manifest: Json, folder: Path) -> None:
        self.name = manifest["metadata"]["name"]
        self.namespace = manifest["metadata"]["namespace"]
        self.app = manifest["metadata"].get("labels", {}).get("app.kubernetes.io/name", "")
        """The name of its Deployment."""
        self._api = api
        self._path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self._manifest = manifest
        (self._container,) = manifest["spec"]["containers"]
        self._folder = folder
        self.log = folder / "log"
        self._mounts = self._mounted()
        self.restarts = 0
        self.over = False
        self.exits: list[int] = []
        """How its program ended, each time."""
        self.environment: dict[str, str] = {}
        self.previous = 0
        """Bytes of `log` that are of earlier starts."""
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._backoff_s = _FIRST_BACKOFF_S
        self._kill_at: float | None = None
        self._told: Json | None = None
        self._ready = False

    @property
    def ready(self) -> bool:
        return self._ready

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3_000:] if self.log.exists() else ""

    @property
    def pid(self) -> int | None:
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def step(self, manifest: Json) -> None:
        now = time.monotonic()
        leaves = "deletionTimestamp" in manifest["metadata"]
        if self._process is not None and (code := self._process.poll()) is not None:
            self._ended(code, now)
        if self._process is None and leaves:
            self._remove()
            return
        if self._process is None:
            if now >= self._start_at and not self._done:
                self._begin(now)
        elif leaves:
            self._leave(now, manifest["metadata"].get("deletionGracePeriodSeconds", 30))
        else:
            self._probe(now)
        self._tell()

    def _begin(self, now: float) -> None:
        (port,) = free_ports(1)
        self.environment = self._environment(port)
        self.previous = self.log.stat().st_size if self.log.exists() else 0
        command = [*self._container.get("command", _PROGRAM), *self._container.get("args", ["run"])]
        self._process = spawn_tied(command, log=self.log, env=self.environment)
        self._begun = now
        url = f"http://127.0.0.1:{port}"
        self.url = url
        probes = ("startupProbe", "livenessProbe", "readinessProbe")
        self._startup, self._liveness, self._readiness = (Probe(self._container.get(name), url, now) for name in probes)

    def _ended(self, code: int, now: float) -> None:
        self.exits.append(code)
        self._process = None
        self._ready = False
        self._kill_at = None
        self.restarts += 1
        if now - self._begun > _WELL_AFTER_S:
            self._backoff_s = _FIRST_BACKOFF_S
        self._start_at = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, _LAST_BACKOFF_S)

    def _leave(self, now: float, grace_s: float) -> None:
        """SIGTERM once, and SIGKILL when the grace period is over."""
        assert self._process is not None
        self._ready = False
        if self._kill_at is None:
            self._process.send_signal(signal.SIGTERM)
            self._kill_at = now + grace_s
        elif now > self._kill_at:
            self.kill()

    def _probe(self, now: float) -> None:
        if self._kill_at is not None:  # its liveness failed
            self._leave(now, 0)
            return
        due = [self._startup] if not self._startup.passed else [self._liveness, self._readiness]
        for probe in due:
            if probe.look(now) and probe is not self._readiness:
                self._leave(now, self._manifest["spec"].get("terminationGracePeriodSeconds", 30))
        self._ready = self._startup.passed and self._readiness.passed

    def _remove(self) -> None:
        self.over = True
        try:
            self._api.delete(self._path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}})
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    @property
    def _done(self) -> bool:
        """Whether it is the pod of a Job and its program has ended."""
        return self._process is None and bool(self.exits) and self._manifest["spec"].get("restartPolicy") == "Never"

    @property
    def _uid(self) -> str:
        return str(self._manifest["metadata"]["uid"])

    def _tell(self) -> None:
        started = self._process is not None and self._startup.passed
        state: Json
        if self._process is not None:
            state = {"running": {"startedAt": None}}
        elif self._done:
            state = {"terminated": {"exitCode": self.exits[-1], "reason": "Ended"}}
        elif self.exits:
            state = {"waiting": {"reason": "CrashLoopBackOff"}}
        else:
            state = {"waiting": {"reason": "ContainerCreating"}}
        told = {"ready": self._ready, "started": started, "state": state, "restarts": self.restarts}
        if told == self._told:
            return
        ready = "True" if self._ready else "False"
        at = _now("lastTransitionTime")
        conditions = [{"type": kind, "status": "True", **at} for kind in ("PodScheduled", "Initialized")]
        conditions += [{"type": kind, "status": ready, **at} for kind in ("ContainersReady", "Ready")]
        if "running" in state:
            state = {"running": _now("startedAt")}
        container = {
            "name": self._container["name"],
            "image": self._container["image"],
            "imageID": "none",
            "ready": self._ready,
            "started": started,
            "restartCount": self.restarts,
            "state": state,
        }
        if self.exits:
            container["lastState"] = {"terminated": {"exitCode": self.exits[-1], **_now("finishedAt")}}
        phase = "Running" if self._process is not None or self.exits else "Pending"
        if self._done:
            phase = "Failed" if self.exits[-1] else "Succeeded"
        status = {"phase": phase, "conditions": conditions, "containerStatuses": [container], **_now("startTime")}
        try:
            self._api.patch(f"{self._path}/status", {"status": status})
        except ApiError as error:
            if error.status != 404:
                raise
        else:
            self._told = told

    def _mounted(self) -> dict[str, Path]:
        """Folders for its mounts, by the paths that the program knows them by."""
        volumes = {volume["name"]: volume for volume in self._manifest["spec"].get("volumes", ())}
        mounts = {}
        for mount in self._container.get("volumeMounts", ()):
            folder = self._folder / "volumes" / mount["name"]
            folder.mkdir(parents=True, exist_ok=True)
            mounts[mount["mountPath"]] = folder
            if secret := volumes[mount["name"]].get("secret"):
                for name, value in self._secret(secret["secretName"]).items():
                    (folder / name).write_bytes(value)
        return mounts

    def _secret(self, name: str) -> dict[str, bytes]:
        data = self._api.get(f"/api/v1/namespaces/{self.namespace}/secrets/{name}").get("data", {})
        return {key: base64.b64decode(value) for key, value in data.items()}

    def _environment(self, port: int) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in self._container.get("envFrom", ()):
            name = source["configMapRef"]["name"]
            found.update(self._api.get(f"/api/v1/namespaces/{self.namespace}/configmaps/{name}").get("data", {}))
        for variable in self._container.get("env", ()):
            if (value := self._value(variable)) is not None:
                found[variable["name"]] = value
        for name, value in found.items():
            for other in found:
                value = value.replace(f"$({other})", found[other])
            for inside, folder in self._mounts.items():
                if value == inside or value.startswith(f"{inside}/"):
                    value = str(folder) + value.removeprefix(inside)
            found[name] = value
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        own = {
            "PATH": path,
            "TAGSTREAM_HTTP_HOST": "127.0.0.1",
            "TAGSTREAM_HTTP_PORT": str(port),
            "HOSTNAME": self.name,
        }
        outside = {name: value for name, value in os.environ.items() if not name.startswith("TAGSTREAM_")}
        temporary = {"TMPDIR": str(self._mounts["/tmp"])} if "/tmp" in self._mounts else {}
        return {**outside, **found, **own, **temporary}

    def _value(self, variable: Json) -> str | None:
        if "valueFrom" not in variable:
            return str(variable.get("value", ""))
        ((source, where),) = variable["valueFrom"].items()
        if source == "secretKeyRef":
            key = self._secret(where["name"]).get(where["key"])
            if key is None and not where.get("optional"):
                raise Unsupported(f"a Secret without {where['key']}")
            return None if key is None else key.decode()
        if source == "resourceFieldRef":
            kind, _, resource = where["resource"].partition(".")
            return _whole(self._container["resources"][kind][resource])
        return str(_at(self._manifest, where["fieldPath"].split(".")))


class Unsupported(TagstreamError):
    """A pod needs a feature that this node lacks."""


def _whole(quantity: str) -> str:
    if quantity.endswith("m"):
        return str(-(-int(quantity[:-1]) // 1000))
    if not quantity.isdigit():
        raise Unsupported(f"the quantity {quantity}")
    return quantity


def _at(manifest: Json, fields: Sequence[str]) -> Any:
    value: Any = manifest
    for field in fields:
        value = value[field]
    return value


def _now(name: str) -> Json:
    return {name: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
