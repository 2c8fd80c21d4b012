"""The format of a training set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tagstream_train.data.samples import SAMPLES, DataSet, Sample, write_dataset
from workers.errors import Misconfigured

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


def test_what_no_line_holds_is_not_written(tmp_path: Path) -> None:
    long = DOG.model_copy(update={"captions": ("\x01" * 200_000,), "caption_tags": ()})
    with pytest.raises(Misconfigured, match=r"pets: of images/dog\.jpg more is said than fits into a line"):
        write_dataset(tmp_path, [DOG, long], LABELS, name="pets")
    assert not list(tmp_path.iterdir())


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


def test_samples_are_found_by_their_number_as_they_are_read_in_order(tmp_path: Path) -> None:
    samples = [Sample(image=f"images/{n}.jpg", captions=("ü" * n,), tags=(n % 4,)) for n in range(20)]
    dataset = write_dataset(tmp_path, samples, LABELS, name="many")
    lines = dataset.lines()
    assert [lines[number] for number in range(20)] == samples
    assert (lines[-1], list(lines[3:5]), len(lines), lines.shard_of) == (samples[-1], samples[3:5], 20, None)
    assert list(lines[2:10][::2][1:]) == samples[4:10:2]
    with pytest.raises(IndexError):
        lines[20]


def test_samples_say_which_shard_they_lie_in(tmp_path: Path) -> None:
    names = ["b.tar/1.jpg", "s3://x/a.tar/1.jpg", "b.tar/2.jpg", "loose.jpg"]
    lines = write_dataset(tmp_path, [Sample(image=name) for name in names], LABELS, name="few").lines()
    assert lines.shard_of is not None
    assert lines.shard_of.tolist() == [0, 1, 0, -1]
    part = lines[1:3].shard_of
    assert part is not None
    assert part.tolist() == [1, 0]


def test_a_set_without_samples_has_no_lines(tmp_path: Path) -> None:
    assert list(write_dataset(tmp_path, [], LABELS, name="none").lines()) == []


def test_a_set_with_lines_missing_is_refused_before_it_is_used(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [DOG, DOG], LABELS, name="two")
    (tmp_path / SAMPLES).write_bytes((tmp_path / SAMPLES).read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(Misconfigured, match="has 1 lines for 2 samples"):
        dataset.lines()


def test_a_line_that_is_no_sample_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [DOG, DOG], LABELS, name="two")
    with (tmp_path / SAMPLES).open("r+b") as file:
        file.readline()
        file.write(b"x")
    lines = dataset.lines()
    assert lines[0] == DOG
    with pytest.raises(Misconfigured, match="line 2: Invalid JSON"):
        lines[1]


@pytest.mark.parametrize("samples", [2, 10**9, 10**30])
def test_a_header_that_counts_more_samples_than_there_can_be_is_refused(tmp_path: Path, samples: int) -> None:
    dataset = write_dataset(tmp_path, [Sample(image="a.jpg")], LABELS, name="few")
    header = dataset.header.model_copy(update={"samples": samples})
    (tmp_path / "dataset.json").write_text(header.model_dump_json())
    with pytest.raises(Misconfigured, match=r"too few for|samples: Input should be less"):
        DataSet(tmp_path)


def test_a_set_without_its_lines_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, [DOG], LABELS, name="few")
    (tmp_path / SAMPLES).unlink()
    with pytest.raises(Misconfigured, match=r"it has no samples\.jsonl"):
        DataSet(tmp_path)
