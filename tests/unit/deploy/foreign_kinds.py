"""Schemas of the kinds that Kubernetes itself does not know, as far as our files use them. Strict: a field that is
not here is a misspelt one, or one to look up and add."""

from __future__ import annotations

from typing import Any

import jsonschema

from tests.unit.deploy.tools import Manifest


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def _kind(api_version: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _object(
        {"apiVersion": {"const": api_version}, "kind": _TEXT, "metadata": {"type": "object"}, "spec": spec},
    )


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": _TEXT, "minProperties": 1}
_COUNT = {"type": "integer", "minimum": 0}
_FLAG = {"enum": ["true", "false"]}

_POLICIES = {
    "type": "array",
    "minItems": 1,
    "items": _object({"type": {"enum": ["Pods", "Percent"]}, "value": _COUNT, "periodSeconds": _COUNT}),
}
_SCALING = _object(
    {"policies": _POLICIES},
    {"stabilizationWindowSeconds": {**_COUNT, "maximum": 3600}, "selectPolicy": {"enum": ["Max", "Min", "Disabled"]}},
)
_FALLBACK = _object(
    {"failureThreshold": _COUNT, "replicas": _COUNT},
    {"behavior": {"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]}},
)
_KAFKA_TRIGGER = _object(
    {
        "bootstrapServersFromEnv": _TEXT,
        "consumerGroupFromEnv": _TEXT,
        # KEDA takes only text here, numbers and truth values among them.
        "lagThreshold": {"type": "string", "pattern": "^[1-9][0-9]*$"},
    },
    {
        "topicFromEnv": _TEXT,
        "offsetResetPolicy": {"enum": ["earliest", "latest"]},
        "allowIdleConsumers": _FLAG,
        "ensureEvenDistributionOfPartitions": _FLAG,
        "version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "tls": {"enum": ["enable", "disable"]},
        "sasl": {"enum": ["none", "plaintext", "scram_sha256", "scram_sha512", "oauthbearer"]},
        "saslTokenProvider": {"enum": ["bearer", "aws_msk_iam"]},
        "awsRegion": _TEXT,
    },
)
_RULE = {
    "oneOf": [
        _object({"record": _TEXT, "expr": _TEXT}),
        _object(
            {"alert": _TEXT, "expr": _TEXT, "labels": _TEXTS, "annotations": _TEXTS},
            {"for": {"type": "string", "pattern": "^[0-9]+[smh]$"}},
        ),
    ]
}

_PROMETHEUS_TRIGGER = _object({"serverAddress": _TEXT, "query": _TEXT, "threshold": _TEXT})

SCHEMAS: dict[str, dict[str, Any]] = {
    "ScaledObject": _kind(
        "keda.sh/v1alpha1",
        _object(
            {
                "scaleTargetRef": _object({"name": _TEXT}, {"envSourceContainerName": _TEXT}),
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "anyOf": [
                            _object(
                                {"type": {"const": "kafka"}, "metadata": _KAFKA_TRIGGER},
                                {"name": _TEXT, "authenticationRef": _object({"name": _TEXT})},
                            ),
                            _object({"type": {"const": "prometheus"}, "name": _TEXT, "metadata": _PROMETHEUS_TRIGGER}),
                        ]
                    },
                },
            },
            {
                "minReplicaCount": _COUNT,
                "maxReplicaCount": _COUNT,
                "pollingInterval": _COUNT,
                "cooldownPeriod": _COUNT,
                "fallback": _FALLBACK,
                "advanced": _object(
                    {
                        "horizontalPodAutoscalerConfig": _object(
                            {"behavior": _object({"scaleUp": _SCALING, "scaleDown": _SCALING})}
                        )
                    },
                    {"scalingModifiers": _object({"target": _TEXT, "formula": _TEXT})},
                ),
            },
        ),
    ),
    "TriggerAuthentication": _kind(
        "keda.sh/v1alpha1",
        _object(
            {},
            {
                "secretTargetRef": {
                    "type": "array",
                    "items": _object(
                        {
                            "parameter": {
                                "enum": [
                                    *("username", "password", "ca", "cert", "key", "keyPassword"),
                                    *("oauthTokenEndpointUri", "scopes"),
                                ]
                            },
                            "name": _TEXT,
                            "key": _TEXT,
                        }
                    ),
                },
                "podIdentity": _object({"provider": {"const": "aws"}}),
            },
        ),
    ),
    "ExternalSecret": _kind(
        "external-secrets.io/v1",
        _object(
            {
                "refreshInterval": _TEXT,
                "secretStoreRef": _object({"kind": {"enum": ["SecretStore", "ClusterSecretStore"]}, "name": _TEXT}),
                "target": _object({"name": _TEXT, "creationPolicy": {"enum": ["Owner", "Orphan", "Merge", "None"]}}),
                "dataFrom": {"type": "array", "minItems": 1, "items": _object({"extract": _object({"key": _TEXT})})},
            }
        ),
    ),
    "PodMonitor": _kind(
        "monitoring.coreos.com/v1",
        _object(
            {
                "jobLabel": _TEXT,
                "selector": _object(
                    {
                        "matchExpressions": {
                            "type": "array",
                            "minItems": 1,
                            "items": _object(
                                {"key": _TEXT, "operator": {"const": "In"}, "values": {"type": "array", "items": _TEXT}}
                            ),
                        }
                    }
                ),
                "podMetricsEndpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object({"port": _TEXT, "path": _TEXT, "interval": _TEXT}),
                },
            }
        ),
    ),
    "PrometheusRule": _kind(
        "monitoring.coreos.com/v1",
        _object(
            {
                "groups": {
                    "type": "array",
                    "minItems": 1,
                    "items": _object(
                        {"name": _TEXT, "rules": {"type": "array", "minItems": 1, "items": _RULE}},
                        {"interval": {"type": "string", "pattern": "^[0-9]+[smh]$"}},
                    ),
                }
            }
        ),
    ),
}


def validate(manifest: Manifest) -> None:
    jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
