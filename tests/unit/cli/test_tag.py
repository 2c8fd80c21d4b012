"""`tagstream tag`: files and folders through the intake and the models, one line for each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import encoded, ramp
from tests.unit.cli.conftest import Ran
from tests.unit.models.small import small_bundle
from workers.cli.exit_codes import MISCONFIGURED
from workers.models.bundle import Bundle
from workers.models.compact import compact_bundle

pytestmark = pytest.mark.slow

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    compact_bundle(folder / "tagstream")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("TAGSTREAM_DEVICE", "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images, more than a batch, and what is none between them."""
    made = tmp_path / "photos"
    (made / "b").mkdir(parents=True)
    for number in range(9):
        (made / f"c{number}.jpg").write_bytes(encoded(ramp(), "jpeg"))
    (made / "b" / "deep.PNG").write_bytes(encoded(ramp(), "png"))
    (made / "c4 cut.jpg").write_bytes(encoded(ramp(400, 300), "jpeg")[:700])
    (made / "notes.txt").write_text("no image")
    return made


@pytest.fixture
def ram(tmp_path: Path) -> Bundle:
    return small_bundle("ram", tmp_path / "bundles" / "ram")


@pytest.fixture
def tag2text(tmp_path: Path) -> Bundle:
    return small_bundle("tag2text", tmp_path / "bundles" / "tag2text")


def lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def test_a_folder_is_walked_in_order_and_a_broken_file_costs_one_line(tagstream: Run, folder: Path) -> None:
    ran = tagstream("tag", folder, "--json")
    assert ran.code == 0, ran.err
    found = lines(ran)
    names = [Path(each["file"]).relative_to(folder).as_posix() for each in found]
    assert names == ["b/deep.PNG", *(f"c{n}.jpg" for n in range(4)), "c4 cut.jpg", *(f"c{n}.jpg" for n in range(4, 9))]
    (broken,) = (each for each in found if "error" in each)
    assert broken["file"].endswith("c4 cut.jpg")
    assert broken["error"]["reason"] == "broken-image"
    assert all(each["caption"].startswith("a picture") for each in found if each is not broken)
    assert "10 of 11 images tagged, 1 could not be" in ran.err


def test_the_table_has_a_line_for_each_file(tagstream: Run, folder: Path) -> None:
    ran = tagstream("tag", folder / "c0.jpg", folder / "c4 cut.jpg")
    assert ran.code == 0, ran.err
    good, broken = ran.out.splitlines()
    assert "c0.jpg" in good
    assert "✗ broken-image" in broken


def test_hostile_files_are_named_and_nothing_waits_for_them(tagstream: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "large.jpg").write_bytes(bytes(21 << 20))
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    hostile = [tmp_path / f"{name}.jpg" for name in ("pipe", "empty", "text", "large", "loop", "missing")]
    ran = tagstream("tag", *hostile, "--json")
    assert ran.code == MISCONFIGURED
    assert [each["error"]["reason"] for each in lines(ran)] == [
        "unreadable",
        "empty-object",
        "not-an-image",
        "object-too-large",
        "unreadable",
        "no-such-file",
    ]
    assert "0 of 6 images tagged, 6 could not be" in ran.err


def test_a_file_name_can_not_steer_the_terminal(tagstream: Run, tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J\udcff.jpg").write_bytes(encoded(ramp(), "jpeg"))
    for options in ([], ["--json"]):
        ran = tagstream("tag", tmp_path, *options)
        assert ran.code == 0, ran.err
        assert "\x1b[2J" not in ran.out
        assert len(ran.out.splitlines()) == 1


def test_options_name_the_models_before_the_settings_do(
    tagstream: Run, folder: Path, ram: Bundle, tag2text: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGSTREAM_TAGGER", "/no/such/bundle")
    monkeypatch.setenv("TAGSTREAM_TAGGER_DIGEST", "0" * 64)
    ran = tagstream(
        "tag", folder / "c0.jpg", "--model", ram.folder, "--captioner", tag2text.folder, "--json", "--top", 3
    )
    assert ran.code == 0, ran.err
    (found,) = lines(ran)
    assert len(found["tags"]) <= 3
    assert {each["name"] for each in found["tags"]} <= set(ram.labels)
    assert isinstance(found["caption"], str)
    assert "are random: its answers mean nothing" in ran.err


def test_no_captioner_gives_no_caption(tagstream: Run, folder: Path) -> None:
    (found,) = lines(tagstream("tag", folder / "c0.jpg", "--captioner", "none", "--json"))
    assert found["caption"] is None


def test_a_folder_without_images_and_a_missing_bundle_are_told(tagstream: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = tagstream("tag", tmp_path / "empty")
    assert ran.code == MISCONFIGURED
    assert "there are no images" in ran.err
    (tmp_path / "one.jpg").write_bytes(encoded(ramp(), "jpeg"))
    ran = tagstream("tag", tmp_path / "one.jpg", "--model", tmp_path / "no-bundle")
    assert ran.code == MISCONFIGURED
    assert "no-bundle" in ran.err
