"""Samples of a training set: their format, their parts by content, and random changes to their images."""

import hashlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from tagstream_train.data.augment import FLIP_ONLY, OPERATIONS, Augment
from tagstream_train.data.samples import DEFAULT, SAMPLES, DataSet, Sample, joined, split, write_dataset
from workers.errors import Misconfigured
from workers.models.tagger import sample_image

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


def test_a_written_set_reads_back(tmp_path: Path) -> None:
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


def test_a_value_that_no_line_can_hold_is_not_written(tmp_path: Path) -> None:
    long = DOG.model_copy(update={"captions": ("\x01" * 200_000,), "caption_tags": ()})
    with pytest.raises(Misconfigured, match=r"pets: captions and tags of images/dog\.jpg take more"):
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
        ('{"image_path":"a.jpg","union_label_id":[4]}', "label 4, and there are 4 labels"),
        ('{"image_path":"a.jpg","absent_label_id":[9]}', "label 9, and there are 4 labels"),
        ('{"image_path":"a.jpg","caption":["a"],"parse_label_id":[[7]]}', "label 7, and there are 4 labels"),
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


def test_samples_are_found_by_number_as_in_order(tmp_path: Path) -> None:
    samples = [Sample(image=f"images/{n}.jpg", captions=("ü" * n,), tags=(n % 4,)) for n in range(20)]
    dataset = write_dataset(tmp_path, samples, LABELS, name="many")
    lines = dataset.lines()
    assert [lines[number] for number in range(20)] == samples
    assert (lines[-1], list(lines[3:5]), len(lines)) == (samples[-1], samples[3:5], 20)
    assert list(lines[2:10][::2][1:]) == samples[4:10:2]
    with pytest.raises(IndexError):
        lines[20]


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


def sample(number: int, name: str = "") -> Sample:
    return Sample(image=name or f"{number}.jpg", sha256=hashlib.sha256(str(number).encode()).hexdigest())


def test_an_image_under_two_names_is_in_one_part() -> None:
    samples = [sample(number, f"{copy}/{number}.jpg") for copy in "ab" for number in range(200)]
    parts = split(samples)
    hashes = [{each.sha256 for each in part} for part in parts.values()]
    assert sum(map(len, hashes)) == 200
    assert sum(map(len, parts.values())) == 400


def test_an_image_stays_in_its_part_when_others_are_added() -> None:
    few, more = split([sample(n) for n in range(200)]), split([sample(n) for n in range(400)])
    for part, samples in few.items():
        assert list(more[part][: len(samples)]) == list(samples)


def test_parts_have_the_sizes_asked_for() -> None:
    sizes = {part: len(samples) for part, samples in split([sample(n) for n in range(5000)]).items()}
    assert all(abs(sizes[part] - 5000 * fraction) < 150 for part, fraction in DEFAULT.items())


def test_parts_that_the_author_gave_are_kept() -> None:
    given = [sample(n).model_copy(update={"part": ("train", "val", "test")[n % 3]}) for n in range(90)]
    parts = split(given, {"train": 0.8, "val": 0.2})
    assert {part: {each.part for each in samples} for part, samples in parts.items()} == {
        "train": {"train"},
        "val": {"val"},
    }
    assert sum(map(len, parts.values())) == 60


def test_a_part_that_the_author_did_not_give_is_taken_from_training() -> None:
    given = [sample(n).model_copy(update={"part": ("train", "test")[n % 2]}) for n in range(200)]
    parts = split(given, {"train": 0.8, "val": 0.2})
    assert {each.part for each in (*parts["train"], *parts["val"])} == {"train"}
    assert 5 < len(parts["val"]) < 40


def test_a_group_falls_into_one_part() -> None:
    given = [sample(n).model_copy(update={"group": f"burst {n // 10}"}) for n in range(200)]
    parts = split(given, {"train": 0.5, "val": 0.5})
    groups = [{each.group for each in samples} for samples in parts.values()]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 20


def test_an_image_in_two_parts_is_not_trained_on() -> None:
    one, other = (sample(1).model_copy(update={"part": part}) for part in ("train", "test"))
    assert joined(one, other).part == joined(other, one).part == "test"


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.5, "val": -0.5}, {"train": float("nan")}])
def test_fractions_must_be_one_in_all(fractions: dict[str, float]) -> None:
    with pytest.raises(Misconfigured, match="must be 1 in all"):
        split([sample(1)], fractions)


def test_a_part_that_comes_out_empty_is_named() -> None:
    wrong = r"None of 1 images falls into the part '\w+' \(\d0%\): it takes more images"
    with pytest.raises(Misconfigured, match=wrong):
        split([sample(1)])


def test_a_sample_without_a_hash_is_named() -> None:
    with pytest.raises(Misconfigured, match="bare has no sha256"):
        split([Sample(image="bare")])


IMAGE = Image.fromarray(sample_image(48))


def pixels(augment: Augment, seed: int, image: Image.Image = IMAGE) -> bytes:
    return augment(image, 32, Random(seed)).tobytes()


def test_the_same_numbers_give_the_same_pixels_and_others_others() -> None:
    assert [pixels(Augment(), seed) for seed in range(20)] == [pixels(Augment(), seed) for seed in range(20)]
    assert len({pixels(Augment(), seed) for seed in range(20)}) == 20


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1000, 3), (3, 1000), (31, 77)])
def test_an_image_of_any_shape_becomes_a_square(size: tuple[int, int]) -> None:
    for seed in range(20):
        assert Augment()(Image.new("RGB", size), 32, Random(seed)).size == (32, 32)


def test_a_crop_has_its_part_of_the_area_and_its_shape() -> None:
    augment = Augment()
    for seed in range(200):
        left, top, right, bottom = augment._box((400, 400), Random(seed))
        assert 0.19 <= (right - left) * (bottom - top) / 400**2 <= 1.0
        assert 0.74 <= (right - left) / (bottom - top) <= 1.35


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"Identity"}))
def test_each_operation_changes_an_image_and_keeps_its_size(name: str) -> None:
    dull = IMAGE.point(lambda value: 50 + value // 3)  # so that AutoContrast has something to do
    changed = OPERATIONS[name](dull, 0.5)
    assert (changed.size, changed.mode) == (dull.size, "RGB")
    assert changed.tobytes() != dull.tobytes()


def test_a_magnitude_of_nothing_changes_nothing() -> None:
    for name in set(OPERATIONS) - {"AutoContrast", "Equalize"}:
        difference = np.asarray(OPERATIONS[name](IMAGE, 0.0), int) - np.asarray(IMAGE, int)
        assert abs(difference).max() <= 1, name


def test_flip_only_flips_and_does_no_more() -> None:
    plain = IMAGE.resize((32, 32), Image.Resampling.BICUBIC)
    flipped = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    square = IMAGE.crop((0, 0, 48, 48))
    found = {pixels(FLIP_ONLY, seed, square) for seed in range(20)}
    assert found == {plain.tobytes(), flipped.tobytes()}
