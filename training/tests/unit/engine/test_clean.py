"""Which tags a cleaning drops, and with which reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagstream_train.data.images import BadImage
from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tagstream_train.engine.clean import Cleaner, Decision, Rules
from tagstream_train.engine.regions import Box, Grid, Row
from workers.errors import Misconfigured

LABELS = ["red", "green", "blue", "unheard"]


class Colours:
    """Sees a colour where it is the mean of a part: its score is that channel's share of the light."""

    dimensions = 3

    def __init__(self, labels: Sequence[str] = ("green", "red", "blue"), name: str = "colours", least: float = 0.8):
        self.name, self.digest = name, name
        self.labels: Sequence[str] = labels
        self.thresholds: Sequence[float] = [least] * len(labels)
        self._channels = [("red", "green", "blue").index(label) for label in labels]

    def look(self, parts: Sequence[Image.Image]) -> tuple[Row, Row]:
        means = np.array([np.asarray(part, np.float32).mean((0, 1)) for part in parts], np.float32)
        light = means / np.maximum(means.sum(1, keepdims=True), 1)
        return light[:, self._channels], means


RULES = Rules()
COLOURS = Colours()


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (40, 40), left)
    image.paste(right, (20, 0, 40, 40))
    return image


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
IMAGES = {"two.png": halves(RED, GREEN), "blue.png": halves(BLUE, BLUE)}


def read(sample: Sample) -> Image.Image:
    if sample.image not in IMAGES:
        raise BadImage(sample.image, "cut short")
    return IMAGES[sample.image]


def cleaned(
    tmp_path: Path, samples: Sequence[Sample], rules: Rules = RULES, models: Sequence[Colours] = (COLOURS,)
) -> tuple[list[Sample], list[Decision]]:
    dataset = write_dataset(tmp_path / "set", samples, LABELS, name="colours")
    found = list(Cleaner(dataset, models, Grid(), rules).clean(read, tmp_path / "evidence"))
    return [sample for sample, _ in found], [decision for _, decisions in found for decision in decisions]


def test_a_tag_that_no_region_shows_is_dropped_and_one_that_a_region_shows_stays(tmp_path: Path) -> None:
    two = Sample(
        image="two.png", captions=("red and blue",), caption_tags=((0, 2),), tags=(0, 1, 2), origins={2: "parsed"}
    )
    (sample,), decisions = cleaned(tmp_path, [two])
    assert (sample.tags, sample.caption_tags, sample.origins) == ((0, 1), ((0,),), {})
    assert [(d.label, d.kept, d.reason, d.box) for d in decisions[:2]] == [
        ("red", True, "confirmed", Box(0, 0, 20, 20)),
        ("green", True, "confirmed", Box(20, 0, 40, 20)),
    ]
    assert (decisions[2].reason, decisions[2].scores) == ("unconfirmed", {"colours": 0.0})
    assert decisions[2].detail == "colours scores it 0.00 in its best region and wants over 0.80"


@pytest.mark.parametrize("origin", ["given", "person"])
def test_what_a_person_or_the_sets_author_said_stays(tmp_path: Path, origin: str) -> None:
    sample = Sample.model_validate({"image": "blue.png", "tags": [0], "origins": {0: origin}})
    (kept,), (decision,) = cleaned(tmp_path, [sample])
    assert (kept, decision.reason) == (sample, "protected")
    (without,), _ = cleaned(tmp_path / "asked", [sample], Rules(protected=frozenset()))
    assert without.tags == ()


def test_a_tag_that_can_not_be_judged_stays_with_its_reason(tmp_path: Path) -> None:
    samples = [Sample(image="lost.png", tags=(0,)), Sample(image="blue.png", tags=(1, 3))]
    kept, decisions = cleaned(tmp_path, samples, Rules(labels=frozenset({"red", "unheard"})))
    assert kept == samples
    assert [(d.reason, d.detail) for d in decisions] == [
        ("unreadable", "cut short"),
        ("not-asked", "it is not among the labels to check"),
        ("unknown-label", "colours does not know it"),
    ]


@pytest.mark.parametrize(("strict", "reason"), [(1, "confirmed"), (2, "disagreement")])
def test_fewer_than_half_of_the_models_are_too_few(tmp_path: Path, strict: int, reason: str) -> None:
    others = [Colours(name=f"strict {number}", least=2.0) for number in range(strict)]
    knows_no_blue = Colours(("red",), name="narrow")
    _, (decision,) = cleaned(
        tmp_path, [Sample(image="blue.png", tags=(2,))], Rules(), [Colours(), *others, knows_no_blue]
    )
    assert decision.reason == reason
    assert "narrow" not in decision.scores


def test_the_farthest_regions_of_a_label_are_outliers(tmp_path: Path) -> None:
    shades = {f"{n}.png": halves((255, 3 * (n % 4), 0), (255, 0, 3 * (n % 5))) for n in range(27)}
    strange = {f"strange {n}.png": halves((255, 0, 60), (255, 0, 60)) for n in range(3)}
    IMAGES.update(shades | strange)
    samples = [Sample(image=name, tags=(0,)) for name in [*shades, *strange]]
    kept, decisions = cleaned(tmp_path, samples, Rules(clusters=1))
    assert [d.image for d in decisions if d.reason == "outlier"] == list(strange)
    assert [sample.image for sample in kept if not sample.tags] == list(strange)


@pytest.mark.parametrize("torn", [b'{"ima', b"\0" * 40 + b"\n", b"{}\n"])
def test_a_run_that_was_cut_goes_on_where_it_was(tmp_path: Path, torn: bytes) -> None:
    samples = [Sample(image=name, tags=(0, 1, 2)) for name in ("two.png", "blue.png", "two.png", "lost.png", "two.png")]
    dataset = write_dataset(tmp_path / "set", samples, LABELS, name="colours")
    whole = list(Cleaner(dataset, [Colours()], Grid(), Rules()).clean(read, tmp_path / "whole"))
    seen: list[str] = []

    def cut(sample: Sample) -> Image.Image:
        seen.append(sample.image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read(sample)

    cleaner = Cleaner(dataset, [Colours()], Grid(), Rules())
    with pytest.raises(KeyboardInterrupt):
        list(cleaner.clean(cut, tmp_path / "evidence"))
    for file in ("evidence.jsonl", "features.bin"):  # as a kill in the middle of a write, or a crash, leaves them
        with (tmp_path / "evidence" / file).open("ab") as end:
            end.write(torn)
    assert list(cleaner.clean(cut, tmp_path / "evidence")) == whole
    assert seen[3:] == ["two.png", "lost.png", "two.png"]


def test_evidence_of_another_model_is_not_taken(tmp_path: Path) -> None:
    samples = [Sample(image="two.png", tags=(0,))]
    cleaned(tmp_path, samples)
    with pytest.raises(Misconfigured, match="evidence of other models"):
        cleaned(tmp_path, samples, models=[Colours(name="other")])


def test_a_model_that_knows_none_of_the_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="knows none of the labels"):
        cleaned(tmp_path, [Sample(image="two.png", tags=(0,))], Rules(labels=frozenset({"unheard"})))


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    (sample,), _ = cleaned(tmp_path, [Sample(image="two.png", tags=(0, 2))])
    write_dataset(tmp_path / "out", [sample], LABELS, name="clean")
    assert [each.tags for each in DataSet(tmp_path / "out")] == [(0,)]
