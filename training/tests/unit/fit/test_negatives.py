"""Images of none of the labels: a folder `none`, `--negatives`, and drawn ones."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Tagstream
from tests.unit.models.small import small_bundle
from training.tests.unit.pictures import LABELS, colours
from workers.models.bundle import Bundle

OPTIONS = ("--workers", "0", "--threads", "1")
Fit = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in folders of their colour, and blue ones apart."""
    folder = tmp_path_factory.mktemp("negatives")
    small_bundle("ram", folder / "ram")
    for sample in colours(folder / "data", 60):
        name = LABELS[sample.tags[0]]
        target = folder / ("others" if name == "blue" else f"photos/{name}") / Path(sample.image).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "data" / sample.image, target)
    shutil.copytree(folder / "photos", folder / "with")
    shutil.copytree(folder / "others", folder / "with" / "None")
    return folder


@pytest.fixture
def fit(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tagstream: Tagstream) -> Fit:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))

    def run(data: str, name: str, *options: str) -> dict[str, Any]:
        words = ("train", "fit", place / data, "--from", place / "ram", "-o", tmp_path / name)
        found: dict[str, Any] = tagstream(*words, *OPTIONS, "--json", *options).json
        return found

    return run


@pytest.mark.slow
def test_a_folder_none_and_negatives_teach_and_measure_alike(place: Path, fit: Fit, tmp_path: Path) -> None:
    closed = fit("photos", "closed")
    inside, beside = fit("with", "inside"), fit("photos", "beside", "--negatives", str(place / "others"))
    assert Bundle.open(tmp_path / "inside").labels[60:] == ("green", "red")
    assert [each["card"]["data"]["train"] for each in (closed, inside, beside)] == [40, 60, 60]
    assert [each["closed"] for each in (closed, inside, beside)] == [True, False, False]
    assert inside["promises"] == beside["promises"] != closed["promises"]
    assert inside["thresholds"] == pytest.approx(beside["thresholds"], rel=1e-4)


@pytest.mark.slow
def test_negatives_measure_beside_a_validation_part(place: Path, fit: Fit, tmp_path: Path) -> None:
    for number, path in enumerate(sorted((place / "photos").rglob("*.png"))):
        target = tmp_path / "parts" / ("val" if number % 4 == 0 else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    found = fit(str(tmp_path / "parts"), "parted", "--negatives", str(place / "others"))
    assert not found["closed"]
    assert (found["card"]["data"]["train"], found["card"]["data"]["validation"]) == (30 + 16, 10 + 4)


@pytest.mark.slow
def test_one_label_beside_none_is_enough(place: Path, fit: Fit, tmp_path: Path) -> None:
    shutil.copytree(place / "photos" / "red", tmp_path / "one" / "red")
    found = fit(str(tmp_path / "one"), "single", "--negatives", str(place / "others"), "--share", "0.1")
    assert list(found["thresholds"]) == ["red"]
    assert found["card"]["thresholds"]["share"] == 0.1


@pytest.mark.slow
def test_the_table_says_where_no_image_shows_none_of_the_labels(
    place: Path, fit: Fit, tmp_path: Path, tagstream: Tagstream
) -> None:
    words = ["train", "fit", "--from", str(place / "ram"), *OPTIONS]
    for data, alone in (("photos", True), ("with", False)):
        shown = tagstream(*words, place / data, "-o", tmp_path / data).done
        report = (tmp_path / f"{data}.work" / "report.html").read_text()
        assert [("among these classes only" in text) for text in (shown, report)] == [alone] * 2
