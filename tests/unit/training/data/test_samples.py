"""The format of a training set."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.errors import Misconfigured
from workers.training.data.samples import SAMPLES, DataSet, Sample, write_dataset

DOG = Sample(
    image="images/dog.jpg",
    captions=("a dog on grass", "a brown dog"),
    caption_tags=((0, 1), (0, 2)),
    tags=(2, 0, 1, 0),
    absent=(3,),
    origins={2: "person"},
    sha256="0" * 64,
)
LABELS = ["dog", "grass", "brown", "cat"]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    samples = [DOG, Sample(image="s3://photos/bare.jpg")]
    written = write_dataset(tmp_path / "set", samples, LABELS, name="pets", steps=["drawn"], parents={"ram": "ab"})
    read = DataSet(tmp_path / "set")
    assert list(read) == list(written) == samples
    assert (list(read.labels), len(read), read.header.steps, read.header.parents) == (
        LABELS,
        2,
        ("drawn",),
        {"ram": "ab"},
    )


def test_a_samples_tags_are_a_set_in_order() -> None:
    assert DOG.tags == (0, 1, 2)


def test_a_line_of_the_official_programs_is_a_sample() -> None:
    line = '{"image_path":"a.jpg","caption":["a dog"],"parse_label_id":[[0]],"union_label_id":[0,1]}'
    assert Sample.model_validate_json(line) == Sample(
        image="a.jpg", captions=("a dog",), caption_tags=((0,),), tags=(0, 1)
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "Invalid JSON"),
        ('{"image_path":"a.jpg","union_label_id":[4]}', "label 4 of 4"),
        ('{"image_path":"a.jpg","absent_label_id":[9]}', "label 9 of 4"),
        ('{"image_path":"a.jpg","caption":["a"],"parse_label_id":[[7]]}', "label 7 of 4"),
        ('{"image_path":"a.jpg","caption":["a"],"parse_label_id":[[0],[1]]}', "2 lists of parsed labels for 1"),
        ('{"image_path":"a.jpg","tag":[0]}', "Extra inputs"),
        ('{"image_path":"' + "a" * 1_000_001 + '"}', "more than 1,000,000 bytes"),
    ],
)
def test_a_line_that_is_no_sample_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    write_dataset(tmp_path, [DOG], LABELS, name="pets")
    with (tmp_path / SAMPLES).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(Misconfigured, match=rf"samples\.jsonl, line 2: .*{complaint}"):
        list(DataSet(tmp_path))


def test_a_set_that_was_not_finished_does_not_open(tmp_path: Path) -> None:
    def broken() -> list[Sample]:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_dataset(tmp_path, (sample for _ in [0] for sample in broken()), LABELS, name="pets")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Misconfigured, match=r"it has no dataset\.json"):
        DataSet(tmp_path)
