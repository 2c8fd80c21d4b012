"""A shadow tagger that could not take the live one's place, or can't be compared with it, is refused at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.models.tiny import LABELS, build_tagger, tiny_bundle, tiny_manifest, tiny_weights
from workers.cli import check
from workers.cli.composition import _shadow, worker_options
from workers.cli.needs import needed
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.load import BUILDERS
from workers.settings import Settings
from workers.types import Transform


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings of a worker with two bundles of the four labels of `tiny`, the environment's others dropped."""
    monkeypatch.setitem(BUILDERS, "tiny", "tests.unit.models.tiny")
    tiny_bundle(tmp_path / "live")

    def settings(**more: str) -> Settings:
        environment = {"TAGGER": str(tmp_path / "live"), "STATE_DIR": str(tmp_path / "state"), "DEVICE": "cpu"} | more
        for name, value in environment.items():
            monkeypatch.setenv(f"TAGSTREAM_{name}", value)
        return needed(worker=True)

    return settings


def bundle(folder: Path, labels: tuple[str, ...] = LABELS) -> Bundle:
    return Bundle.write(folder, tiny_manifest(), weights=tiny_weights(), labels=labels)


def test_one_that_fits_is_taken_and_check_says_its_share(configured: Callable[..., Settings], tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "new", thresholds=0.2)
    settings = configured(SHADOW_TAGGER=str(tmp_path / "new"), SHADOW_SHARE="0.25")
    said = check._shadow(settings)
    assert "4 labels" in said
    assert said.endswith("sees 25.00% of the images, and is in no event")
    assert "Shadow tagger" in [about for about, _ in check._questions(settings)]
    assert "Shadow tagger" not in [
        about for about, _ in check._questions(settings.model_copy(update={"shadow_tagger": ""}))
    ]


def test_its_weights_count_in_the_sum_of_memory(
    configured: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tiny_bundle(tmp_path / "new", thresholds=0.2)
    weights: list[int] = []

    def worst_bytes(settings: Settings, decoders: int, weights_bytes: int) -> int:
        weights.append(weights_bytes)
        return weights_bytes

    monkeypatch.setattr("workers.cli.memory.worst_bytes", worst_bytes)
    for more in ({}, {"SHADOW_TAGGER": str(live.folder)}):
        check._memory(configured(**more))
    size = sum(path.stat().st_size for path in live.folder.iterdir())
    assert weights[1] == weights[0] + size
    assert size > 100


def test_another_form_of_images_is_refused(configured: Callable[..., Settings], tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "new", transform=Transform(size=8, fit="crop", resize=9))
    with pytest.raises(Misconfigured, match=r"^TAGSTREAM_SHADOW_TAGGER: tiny takes images as size 8, fit crop[^\n]*$"):
        configured(SHADOW_TAGGER=str(tmp_path / "new"))


def test_no_label_in_common_is_refused(configured: Callable[..., Settings], tmp_path: Path) -> None:
    bundle(tmp_path / "new", labels=("a", "b", "c", "d"))
    with pytest.raises(Misconfigured, match=r"^TAGSTREAM_SHADOW_TAGGER: tiny has no label of the live tagger tiny"):
        configured(SHADOW_TAGGER=str(tmp_path / "new"))


def test_files_that_do_not_fit_it_are_told_before_it_is_promoted(
    configured: Callable[..., Settings], tmp_path: Path
) -> None:
    bundle(tmp_path / "new", labels=("red", "b", "c", "d"))
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    (tmp_path / "profiles.json").write_text('{"default": {"labels": {"blue": 0.5}}}')
    files = {"LABELS_FILE": ("labels.txt", "green"), "PROFILES": ("profiles.json", "blue")}
    for setting, (name, says) in files.items():
        others = dict.fromkeys(files, "")
        with pytest.raises(Misconfigured, match=rf"^TAGSTREAM_SHADOW_TAGGER: .*{says}"):
            configured(SHADOW_TAGGER=str(tmp_path / "new"), **others | {setting: str(tmp_path / name)})


def test_another_bundle_than_the_pinned_one_is_refused(configured: Callable[..., Settings], tmp_path: Path) -> None:
    new = tiny_bundle(tmp_path / "new", floor=0.2)
    with pytest.raises(Misconfigured, match=re.escape(f"{new.digest}, and TAGSTREAM_SHADOW_TAGGER_DIGEST wants 000")):
        configured(SHADOW_TAGGER=str(new.folder), SHADOW_TAGGER_DIGEST="0" * 64)


@pytest.mark.slow
def test_it_is_loaded_as_it_would_be_in_the_live_ones_place(
    configured: Callable[..., Settings], tmp_path: Path
) -> None:
    """With its own thresholds, the files of labels and profiles, and a report under the worker's name."""
    new = tiny_bundle(tmp_path / "new", thresholds=0.2)
    (tmp_path / "labels.txt").write_text("red\nblue\n")
    (tmp_path / "profiles.json").write_text('{"default": {"labels": {"blue": 0.25}}}')
    settings = configured(
        SHADOW_TAGGER=str(new.folder),
        LABELS_FILE=str(tmp_path / "labels.txt"),
        PROFILES=str(tmp_path / "profiles.json"),
        PRECISION="fp32",
    )
    live = build_tagger(Bundle.open(tmp_path / "live"), choose_device("cpu"), "fp32")
    made = _shadow(settings, live, worker_options(settings, live, "a/worker"), "a/worker")
    made.start(lambda: False)
    assert made.off is None
    tagger, profile = made._load()
    made.close()
    assert profile.thresholds.tolist() == pytest.approx([0.2, 0.2, 0.25, 0.2])
    assert tagger.digest != new.digest, "some of its labels alone"
    assert [file.name for file in (tmp_path / "state" / "shadow").iterdir()] == ["a_worker.json"]
