"""What the rendered files say, in one table: an overlay, its components, a place in a manifest, what stands there."""

from typing import Any

import pytest

from tests.unit.deploy.tools import OVERLAYS, named, overlay, the
from workers.errors import MISCONFIGURED
from workers.settings import Settings

pytestmark = pytest.mark.slow

POD = "Deployment spec template spec"
WORKER = f"{POD} containers worker"
TOKEN = f"{POD} volumes identity projected sources 0 serviceAccountToken"
JOB_POD = "Job spec template spec"
PROBED = {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
SCRAPERS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
KEEPS_WORKERS = {"behavior": "currentReplicasIfHigher", "failureThreshold": 3}
"""While Kafka can't be asked; with 0 replicas KEDA takes an error for no lag."""
COUNTED = {"scopeName": "PriorityClass", "operator": "In", "values": ["tagstream-backfill"]}
ALONE = {"maxSurge": 0, "maxUnavailable": 1}
"""A rollout waits for a GPU, or a place in a quota, until the last worker has left."""

ROWS: list[tuple[str, str, Any]] = [
    # The restricted standard, and no token for the API.
    ("", f"{POD} securityContext runAsNonRoot", True),
    ("", f"{POD} securityContext seccompProfile", {"type": "RuntimeDefault"}),
    ("", f"{POD} securityContext runAsUser", 10001),
    ("", f"{WORKER} securityContext", RESTRICTED),
    *(("", f"{POD} {host}", None) for host in ("hostNetwork", "hostPID", "hostIPC")),
    ("", f"{POD} serviceAccountName", "tagstream"),
    ("", "ServiceAccount metadata name", "tagstream"),
    *(("", f"{place} automountServiceAccountToken", False) for place in (POD, "ServiceAccount")),
    ("web-identity", f"{POD} automountServiceAccountToken", False),
    ("web-identity", f"{TOKEN} audience", "sts.tagstream"),
    ("web-identity", f"{TOKEN} expirationSeconds", 3600),
    ("web-identity", f"{TOKEN} path", "token"),
    ("web-identity", f"{WORKER} volumeMounts identity mountPath", "/etc/tagstream/identity"),
    ("web-identity", f"{WORKER} volumeMounts identity readOnly", True),
    # Who asks a worker, and who moves it.
    ("", f"{WORKER} ports", {"http": {"name": "http", "containerPort": Settings().http_port}}),
    ("", "ConfigMap data TAGSTREAM_HTTP_PORT", str(Settings().http_port)),
    *(("", f"{WORKER} {name}Probe httpGet", {"path": path, "port": "http"}) for name, path in PROBED.items()),
    ("", "NetworkPolicy spec policyTypes", ["Ingress"]),
    ("", "NetworkPolicy spec ingress", [{"from": SCRAPERS, "ports": [{"port": "http", "protocol": "TCP"}]}]),
    ("pod-monitor", "PodMonitor spec podMetricsEndpoints 0 path", "/metrics"),
    ("pod-monitor", "PodMonitor spec podMetricsEndpoints 0 port", "http"),
    ("", f"{WORKER} env TAGSTREAM_TRANSACTIONAL_ID valueFrom", {"fieldRef": {"fieldPath": "metadata.name"}}),
    ("", "PodDisruptionBudget spec maxUnavailable", 1),
    ("", "PodDisruptionBudget spec unhealthyPodEvictionPolicy", "AlwaysAllow"),
    # The autoscaler.
    ("", "TriggerAuthentication spec", {}),
    ("", "ScaledObject spec triggers 0 authenticationRef", None),
    ("", "ScaledObject spec fallback", KEEPS_WORKERS | {"replicas": 2}),
    ("scale-to-zero", "ScaledObject spec fallback", KEEPS_WORKERS | {"replicas": 2}),
    ("backfill", "ScaledObject spec fallback", KEEPS_WORKERS | {"replicas": 1}),
    # GPUs.
    ("gpu", "Deployment spec strategy rollingUpdate", ALONE),
    ("gpu", f"{POD} tolerations", [{"effect": "NoSchedule", "key": "nvidia.com/gpu", "operator": "Exists"}]),
    *(("gpu", f"{WORKER} resources {kind} nvidia.com/gpu", "1") for kind in ("limits", "requests")),
    ("gpu", f"{POD} runtimeClassName", None),
    ("gpu gpu-runtime-class", f"{POD} runtimeClassName", "nvidia"),
    # Bundles, and the job that fetches them: no selector of the workers chooses its pod.
    *((name, f"{WORKER} volumeMounts bundles mountPath", "/bundles") for name in ("bundles", "bundles-image")),
    *((name, f"{WORKER} volumeMounts bundles readOnly", True) for name in ("bundles", "bundles-image")),
    ("bundles-image", f"{POD} volumes bundles persistentVolumeClaim", None),
    ("bundles-image", f"{POD} volumes bundles image reference", "registry.example.com/tagstream-bundles:1"),
    ("", "Deployment spec selector matchLabels", {"app.kubernetes.io/name": "tagstream"}),
    ("bundles-job", "Job spec template metadata labels", {"app.kubernetes.io/name": "tagstream-bundles"}),
    ("bundles-job", f"{JOB_POD} restartPolicy", "Never"),
    (
        "bundles-job",
        "Job spec podFailurePolicy rules",
        [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [MISCONFIGURED]}}],
    ),
    # Every pod without a class goes before a backfill's.
    ("", f"{POD} priorityClassName", None),
    ("backfill", f"{POD} priorityClassName", "tagstream-backfill"),
    ("backfill", "PriorityClass metadata name", "tagstream-backfill"),
    ("backfill", "PriorityClass value", -10),
    ("backfill", "PriorityClass preemptionPolicy", "Never"),
    ("backfill", "PriorityClass globalDefault", None),
    ("backfill", "ResourceQuota spec scopeSelector matchExpressions", [COUNTED]),
    ("backfill", "Deployment spec strategy rollingUpdate", ALONE),
]


@pytest.mark.parametrize(("rendered", "place", "stands"), ROWS)
def test_what_stands_there(rendered: str, place: str, stands: Any) -> None:
    """In each overlay, unless the row is for GPUs alone."""
    components = [name for name in rendered.split() if name not in OVERLAYS]
    kind, *steps = place.split()
    for base in ["gpu"] if "gpu" in rendered.split() else OVERLAYS:
        found: Any = named(the(overlay(base, *components), kind))
        for step in steps:
            found = found[int(step)] if isinstance(found, list) else found.get(step)
        assert found == stands
