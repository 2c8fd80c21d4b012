"""What is wrong with the arguments of a command is told before it loads a model, which may take a minute.

Each command is given a model that can't be loaded too: what it complains of first it has looked at first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.images import encoded, ramp
from tests.unit.cli.conftest import Ran
from tests.unit.models.tiny import tiny_bundle
from workers.cli.exit_codes import MISCONFIGURED
from workers.models.bundle import WEIGHTS

Run = Callable[..., Ran]


@pytest.fixture
def ruined(tmp_path: Path) -> Path:
    """A bundle that opens, with weights that are none."""
    bundle = tiny_bundle(tmp_path / "ruined")
    weights = bundle.folder / WEIGHTS
    weights.write_bytes(bytes(weights.stat().st_size))
    return bundle.folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(ramp(), "jpeg"))
    return path


@pytest.mark.parametrize("command", ["tag", "bench"])
def test_a_file_that_is_missing(command: str, tagstream: Run, ruined: Path) -> None:
    ran = tagstream(command, "no-such-photo.jpg", "--model", ruined)
    assert ran.code == MISCONFIGURED
    assert "no-such-photo.jpg" in ran.err


@pytest.mark.parametrize("command", ["tag", "bench"])
def test_a_captioner_that_is_missing(command: str, tagstream: Run, ruined: Path, photo: Path) -> None:
    ran = tagstream(command, photo, "--model", ruined, "--captioner", "no-such-captioner")
    assert ran.code == MISCONFIGURED
    assert "no-such-captioner" in ran.err


@pytest.mark.parametrize("command", ["tag", "bench"])
def test_profiles_that_are_missing(
    command: str, tagstream: Run, ruined: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGSTREAM_PROFILES", "/no/such/profiles.json")
    ran = tagstream(command, photo, "--model", ruined)
    assert ran.code == MISCONFIGURED
    assert "/no/such/profiles.json" in ran.err


def test_a_page_that_can_not_be_written(tagstream: Run, ruined: Path, photo: Path, tmp_path: Path) -> None:
    ran = tagstream("tag", photo, "--model", ruined, "--page", tmp_path / "nowhere" / "out.html")
    assert ran.code == MISCONFIGURED
    assert "out.html: it can't be written: No such file or directory" in ran.err


def test_a_place_for_the_profile_that_is_none(tagstream: Run, ruined: Path, tmp_path: Path) -> None:
    ran = tagstream("bench", "--model", ruined, "-o", tmp_path / "nowhere" / "here.json")
    assert ran.code == MISCONFIGURED
    assert "here.json" in ran.err


@pytest.mark.parametrize("option", ["DATA", "--replay"])
def test_data_that_is_missing(option: str, tagstream: Run, ruined: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    told = {"DATA": tmp_path / "data", "--replay": tmp_path / "data", "--from": ruined} | {option: tmp_path / "absent"}
    options = [word for name, value in told.items() for word in (name, value) if word != "DATA"]
    ran = tagstream("train", "fit", *options, "-o", tmp_path / "new")
    assert ran.code == MISCONFIGURED
    assert "absent" in "".join(ran.err.replace("│", "").split()), "a long path is broken within its frame"
