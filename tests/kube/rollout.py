"""A user's overlay, applied, and its behaviour over time."""

import base64
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from urllib3.exceptions import HTTPError

from tests.kube.control_plane import NAMESPACE, ApiError, ControlPlane
from tests.kube.node import Node, Pod
from tests.support.lying_store import LyingStore, takes
from tests.support.waiting import eventually, meanwhile
from tests.support.worker_process import Site, photo
from workers.errors import Unavailable

_K8S = Path(__file__).parents[2] / "deploy" / "k8s"
_BUSY_S = 900.0
_SAMPLE_S, _RATE_SAMPLES = 1.0, 5


@dataclass(frozen=True)
class Sample:
    """The state at one time: lag in records, the autoscaler's replicas, ready pods, and commits a second."""

    at_s: float
    lag: int
    wanted: int
    ready: int
    rate: float


@dataclass(frozen=True)
class Patch:
    """A change of the manifest of this kind, as in a user's overlay: merged fields, or JSON patches (RFC 6902)."""

    kind: str
    changes: Mapping[str, Any] | Sequence[Mapping[str, Any]]

    @property
    def as_kustomize(self) -> dict[str, Any]:
        changes: Any = self.changes
        if isinstance(changes, Mapping):
            version = {"ScaledObject": "keda.sh/v1alpha1", "Deployment": "apps/v1"}[self.kind]
            changes = {"apiVersion": version, "kind": self.kind, "metadata": {"name": "tagstream"}, "spec": changes}
        return {"target": {"kind": self.kind, "name": "tagstream"}, "patch": json.dumps(changes)}


ONE_PROCESSOR = Patch(
    "Deployment", [{"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests/cpu", "value": "1"}]
)
"""For machines on which all workers share two processors."""


class Rollout:
    """`kubectl apply -k` of a user's overlay; `name` is that of its Deployment and ScaledObject."""

    def __init__(self, plane: ControlPlane, node: Node, site: Site, folder: Path, name: str = "tagstream") -> None:
        self.plane, self.node, self.site, self.name = plane, node, site, name
        self.secrets: dict[str, str] = {}
        """The Secret's content in addition to the storage's keys."""
        self._nodes = [node]
        self._folder = folder

    def apply(
        self, *, overlay: str = "cpu", components: Sequence[str] = (), patches: Sequence[Patch] = (), **settings: str
    ) -> None:
        """Apply it; other settings (TAGSTREAM_* of the ConfigMap) roll it out again."""
        self._folder.mkdir(exist_ok=True)
        k8s = os.path.relpath(_K8S, self._folder.resolve())
        # As a patch, because a component's settings override those of a generator in the same overlay.
        config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tagstream"}}
        own = json.dumps({**config_map, "data": {**self.own_settings(), **settings}})
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{k8s}/overlays/{overlay}"],
            "components": [f"{k8s}/components/{name}" for name in components],
            "patches": [
                {"target": {"kind": "ConfigMap", "name": "tagstream"}, "patch": own},
                *(patch.as_kustomize for patch in patches),
            ],
        }
        (self._folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        self.make_secret()
        self.plane.kubectl("apply", "-k", str(self._folder))

    def add(self, node: Node) -> None:
        self._nodes.append(node)

    def delete(self) -> None:
        if not self._folder.joinpath("kustomization.yaml").exists():
            return
        self.plane.kubectl("delete", "-k", str(self._folder), "--ignore-not-found", "--timeout=600s")
        in_the_end(lambda: not self.pods(), lambda: str(self.pods()))
        self._folder.joinpath("kustomization.yaml").unlink()

    def pods(self) -> list[Pod]:
        return [pod for node in self._nodes for pod in list(node.pods.values()) if pod.app == self.name]

    def ready(self) -> list[Pod]:
        return [pod for pod in self.pods() if pod.ready]

    def replicas(self) -> int:
        return int(self._deployment()["spec"].get("replicas", 0))

    def rolled_out(self) -> bool:
        found = self._deployment()
        spec, status = found["spec"], found.get("status", {})
        counts = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")}
        return status.get("observedGeneration") == found["metadata"]["generation"] and counts == {spec["replicas"]}

    def scaled_object(self) -> Any:
        return self.plane.api.get(f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects/{self.name}")

    def scaled_object_ready(self) -> bool:
        return self.condition("Ready") == "True"

    def condition(self, name: str) -> str:
        """True, False or Unknown, of the ScaledObject."""
        return _condition(self.scaled_object(), name)

    def autoscaler_gets_a_number(self) -> bool:
        """Whether Kubernetes' autoscaler could compute how many workers there should be, when it last tried."""
        path = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/keda-hpa-{self.name}"
        return _condition(self.plane.api.get(path), "ScalingActive") == "True"

    def metric(self) -> float:
        """What KEDA tells Kubernetes' autoscaler: the lag, as its trigger counts it, or what its formula makes of all.

        Raises:
            ApiError: KEDA can't ask, or has not asked yet.
        """
        status = self.scaled_object()["status"]
        (name,) = [status["compositeScalerName"]] if "compositeScalerName" in status else status["externalMetricNames"]
        path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/{name}"
        answer = self.plane.api.get(path, labelSelector=f"scaledobject.keda.sh/name={self.name}")
        (item,) = answer["items"]
        value = item["value"]
        return float(value[:-1]) / 1000 if value.endswith("m") else float(value)

    def said(self) -> str:
        pods = [*self.pods(), *(pod for node in self._nodes for pod in node.left[-2:])]
        return "\n".join(f"{pod.name}: exits {pod.exits}\n{pod.said()}" for pod in pods)

    @contextmanager
    def recorded(self) -> Iterator[list[Sample]]:
        """Observations of every second while the block runs, and one at its end."""
        samples: list[Sample] = []
        began = time.monotonic()
        done = deque([(0.0, self.site.committed())], maxlen=_RATE_SAMPLES)

        def record() -> bool:
            at_s = time.monotonic() - began
            try:
                now, behind, wanted = self.site.committed(), self.site.behind(), self.replicas()
            except (Unavailable, ApiError, HTTPError):  # a broker or an API server that is too busy to tell
                return False
            before_s, before = done[0]
            rate = round((now - before) / (at_s - before_s), 1)
            samples.append(Sample(round(at_s, 1), behind, wanted, len(self.ready()), rate))
            done.append((at_s, now))
            return True

        with meanwhile(record, _SAMPLE_S):
            yield samples
        in_the_end(record)  # what ended the block may have come after the last look

    def _deployment(self) -> Any:
        return self.plane.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{self.name}")

    def own_settings(self) -> dict[str, str]:
        site = self.site
        return {
            "TAGSTREAM_KAFKA_SERVERS": site.stack.kafka.servers,
            "TAGSTREAM_GROUP": site.name,
            "TAGSTREAM_INPUT_TOPICS": site.images,
            "TAGSTREAM_OUTPUT_TOPIC": site.enriched,
            "TAGSTREAM_DEAD_LETTER_TOPIC": site.dead,
            "TAGSTREAM_SKIPPED_TOPIC": site.skipped,
            "TAGSTREAM_S3_ENDPOINT": site.stack.s3.endpoint_url,
            "TAGSTREAM_BUCKETS": site.name,
        }

    def make_secret(self) -> None:
        s3 = self.site.stack.s3
        values = {"s3-access-key": s3.access_key, "s3-secret-key": s3.secret_key, "redis-url": "", "cache-key": ""}
        values |= self.secrets
        data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tagstream", "namespace": NAMESPACE}}
        self.plane.kubectl("apply", "-f", "-", given=yaml.safe_dump({**secret, "data": data}))


def _condition(manifest: Any, name: str) -> str:
    conditions = manifest.get("status", {}).get("conditions") or []
    return next((str(each["status"]) for each in conditions if each["type"] == name), "Unknown")


def steps(samples: Sequence[Sample]) -> list[int]:
    return [after.wanted - before.wanted for before, after in pairwise(samples) if after.wanted != before.wanted]


def turns(samples: Sequence[Sample]) -> int:
    """How often the number of replicas began to go the other way."""
    return sum((before > 0) != (after > 0) for before, after in pairwise(steps(samples)))


def in_the_end(condition: Callable[[], object], why: Callable[[], str] = str) -> None:
    """Wait for it, however busy the machine is: what never comes about takes longer."""
    eventually(condition, _BUSY_S, why)


def done(site: Site) -> bool:
    try:
        return site.behind() == 0
    except Unavailable:
        return False


def settled(site: Site) -> None:
    """Every record has one outcome, and order was kept. Readers see a transaction some time after its group does: the
    broker writes its end into one topic after the other."""
    in_the_end(lambda: site.outcomes() == site.inputs(), lambda: _unsettled(site))
    assert not site.letters()
    site.assert_in_order()


def _unsettled(site: Site) -> str:
    outcomes, inputs = Counter(site.outcomes()), Counter(site.inputs())
    return f"of {len(inputs)} records without an outcome: {inputs - outcomes}; too much: {outcomes - inputs}"


PHOTOS = 50


@contextmanager
def slow_store(sites: Sequence[Site], seconds: float) -> Iterator[dict[str, str]]:
    """Settings of workers that do 1 / `seconds` images a second, while the block runs; each site has PHOTOS images."""
    for site in sites:
        for number in range(PHOTOS):
            site.upload(f"{number}.jpg", photo(number))
    port = int(sites[0].stack.s3.endpoint_url.rpartition(":")[2])
    with LyingStore(lambda: port) as store:
        store.lies["*"] = takes(seconds)
        yield {"TAGSTREAM_S3_ENDPOINT": store.url, "TAGSTREAM_FETCH_THREADS": "1", "TAGSTREAM_MAX_BATCH": "2"}
