"""`make image` (scripts/image.py) on machines that can't build images."""

import os
import shutil
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from scripts import image


@pytest.mark.parametrize(
    ("user", "tools", "free_gb", "said"),
    [
        (1000, ["buildah", "debootstrap", "unshare"], 100, "root"),
        (0, ["unshare"], 100, "apt-get install buildah debootstrap"),
        (0, ["buildah", "debootstrap", "unshare"], 3, "3 GB"),
    ],
)
def test_a_machine_that_cannot_build_images_skips_their_tests_with_its_reason(
    user: int, tools: list[str], free_gb: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Mapping[str, str]] = []

    def tests(target: str, **environment: str) -> int:
        ran.append(environment)
        return 0

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in tools else None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free_gb * 10**9))
    monkeypatch.setattr(image, "finds_small_torch", lambda: True)
    monkeypatch.setattr(image, "tests", tests)
    assert image.main(["cpu"]) == 0
    (environment,) = ran
    assert environment.keys() == {"TAGSTREAM_IMAGE_MISSING"}
    assert said in environment["TAGSTREAM_IMAGE_MISSING"]


def test_an_unknown_target_is_an_error_and_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "run", lambda *_, **__: pytest.fail("nothing is run"))
    assert image.main(["gpu"]) == 2
