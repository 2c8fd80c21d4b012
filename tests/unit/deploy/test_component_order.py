"""Components give the same manifests in whatever order an overlay lists them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.deploy.tools import COMPONENTS, ROOT, Manifest, kinds, overlay, the

pytestmark = pytest.mark.slow

LOGINS = tuple(name for name in COMPONENTS if name.startswith("kafka-"))
TAKING_AWAY = ("fixed-size",)
RENAMING = ("backfill",)
INSTEAD_OF_BUNDLES = "bundles-image"
TOGETHER = tuple(name for name in COMPONENTS if name not in {*LOGINS, *TAKING_AWAY, *RENAMING, INSTEAD_OF_BUNDLES})
ONCE_A_NAMESPACE = ("alerts", "bundles-job", "dashboards", "external-secret", "pod-monitor")


def named(value: Any) -> Any:
    """The value with each list of named things as a mapping: Kubernetes does not care for their order."""
    if isinstance(value, dict):
        return {key: named(each) for key, each in value.items()}
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        return {each["name"]: named(each) for each in value}
    return [named(each) for each in value] if isinstance(value, list) else value


def by_name(manifests: Sequence[Manifest]) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): named(each) for each in manifests}


@pytest.mark.parametrize("others", [(), RENAMING, (*RENAMING, *TAKING_AWAY)], ids=lambda names: "+".join(names))
@pytest.mark.parametrize("login", LOGINS)
def test_components_in_the_opposite_order_give_the_same(login: str, others: Sequence[str]) -> None:
    """One list and its reverse: each pair of its components is rendered in both orders."""
    names = (*others, login, *TOGETHER)
    assert by_name(overlay("gpu", *names)) == by_name(overlay("gpu", *names[::-1]))


def test_bundles_in_an_image_are_mounted_in_any_order() -> None:
    names = (INSTEAD_OF_BUNDLES, *(name for name in TOGETHER if name != "bundles"))
    assert by_name(overlay("gpu", *names)) == by_name(overlay("gpu", *names[::-1]))


def test_two_logins_at_kafka_are_refused() -> None:
    with pytest.raises(AssertionError, match="testing value /spec failed"):
        overlay("cpu", "kafka-mtls", "kafka-oauth")


@pytest.mark.parametrize("login", LOGINS)
def test_a_login_that_is_listed_after_a_fixed_size_leaves_nothing_of_kedas(login: str) -> None:
    assert not {"ScaledObject", "TriggerAuthentication"} & kinds(overlay("cpu", "fixed-size", login))


def test_without_a_login_the_autoscaler_names_none_and_there_is_nothing_in_it() -> None:
    manifests = overlay("cpu")
    assert the(manifests, "TriggerAuthentication")["spec"] == {}
    assert all("authenticationRef" not in trigger for trigger in the(manifests, "ScaledObject")["spec"]["triggers"])


def test_what_a_namespace_has_once_is_the_same_in_a_backfills_overlay() -> None:
    live, backfill = (by_name(overlay("cpu", *components, *ONCE_A_NAMESPACE)) for components in ((), RENAMING))
    shared = live.keys() & backfill.keys()
    assert {kind for kind, _ in shared} == {
        *("ConfigMap", "ExternalSecret", "Job", "PodMonitor", "PrometheusRule", "ServiceAccount")
    }
    assert {key: live[key] for key in shared} == {key: backfill[key] for key in shared}


def test_the_documentation_names_what_a_backfills_overlay_leaves_to_the_live_one() -> None:
    page = (ROOT / "docs" / "guide" / "deploying.md").read_text()
    (said,) = re.findall(r"^- Leave to the live overlay: (.*?)$", page, re.MULTILINE)
    assert tuple(re.findall("`([a-z-]+)`", said)) == ONCE_A_NAMESPACE
