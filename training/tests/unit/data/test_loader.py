"""Batches: the same on every run, resumed at the next one, and without undecodable images."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.printable import escaped
from tagstream_testing.memory import MemoryObjectStore
from tagstream_train.data.augment import Augment
from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batch, Batches, multi_hot
from tagstream_train.data.samples import DataSet, Sample
from training.tests.unit.pictures import BROKEN, png, shades, write
from workers.errors import Misconfigured, Unavailable

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def batches(dataset: DataSet, **options: Any) -> Batches:
    chosen: dict[str, Any] = {"side": 8, "mean": MEAN, "std": STD, "batch": 4} | options
    return Batches(dataset.lines(), Images(dataset.folder), **chosen)


def training(dataset: DataSet, **options: Any) -> Batches:
    return batches(dataset, **({"augment": Augment(), "seed": 3} | options))


def names(given: list[Batch]) -> list[list[int]]:
    return [[int(sample.image[7:10]) for sample in batch.samples] for batch in given]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return names(one) == names(other) and all(
        torch.equal(a.images, b.images) and a.seeds == b.seeds for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
def test_images_are_normalised_and_in_the_order_of_their_samples(tmp_path: Path) -> None:
    (first, second) = batches(shades(tmp_path, 6))
    assert (first.images.shape, second.images.shape) == ((4, 3, 8, 8), (2, 3, 8, 8))
    assert names([first, second]) == [[0, 1, 2, 3], [4, 5]]
    expected = torch.tensor([(shade / 255 - 0.5) / 0.25 for shade in range(4)])
    torch.testing.assert_close(first.images[:, 0, 3, 5], expected)
    assert first.images.is_contiguous()


def test_an_evaluation_can_be_read_again_from_the_start(tmp_path: Path) -> None:
    given = batches(shades(tmp_path, 5))
    assert same(list(given), list(given))


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    dataset = shades(tmp_path, 10)
    assert same(list(training(dataset, workers=1, epochs=2)), list(training(dataset, workers=3, epochs=2)))


@pytest.mark.slow
def test_a_run_resumes_at_the_very_next_batch(tmp_path: Path) -> None:
    dataset = shades(tmp_path, 10)
    whole = list(training(dataset, epochs=3))
    for done in range(len(whole) + 1):
        first, second = training(dataset, epochs=3), training(dataset, epochs=3)
        begun = list(itertools.islice(first, done))
        second.restore(json.loads(json.dumps(first.state())))
        assert same(begun + list(second), whole)


@pytest.mark.parametrize("change", [{"seed": 4}, {"batch": 5}, {"world": 2}])
def test_a_state_of_another_run_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    dataset = shades(tmp_path, 10)
    with pytest.raises(Misconfigured, match="can't be resumed"):
        training(dataset, **change).restore(training(dataset).state())


def test_every_epoch_has_every_image_in_an_order_of_its_own(tmp_path: Path) -> None:
    flat = list(itertools.chain(*names(list(training(shades(tmp_path, 8), epochs=3)))))
    epochs = [tuple(flat[start : start + 8]) for start in (0, 8, 16)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_an_image_is_changed_otherwise_in_each_epoch(tmp_path: Path) -> None:
    (one, other) = training(write(tmp_path, [png(0, (20, 12))]), batch=1, epochs=2)
    assert one.seeds != other.seeds


def test_in_training_every_batch_is_full(tmp_path: Path) -> None:
    given = training(shades(tmp_path, 5))
    found = names(list(given))
    assert [len(batch) for batch in found] == [4, 4] == [4] * len(given)
    assert set(itertools.chain(*found)) == set(range(5))


@pytest.mark.parametrize("count", [3, 7, 16, 17])
def test_processes_share_the_images_and_make_equally_many_steps(tmp_path: Path, count: int) -> None:
    dataset = shades(tmp_path, count)
    shares = [names(list(training(dataset, rank=rank, world=2))) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(training(dataset, world=2))
    alone = names(list(training(dataset, batch=8)))
    assert [one + other for one, other in zip(*shares, strict=True)] == alone


def test_processes_evaluate_each_image_once(tmp_path: Path) -> None:
    dataset = shades(tmp_path, 21)
    shares = [batches(dataset, rank=rank, world=2) for rank in (0, 1)]
    found = [names(list(share)) for share in shares]
    assert [len(share) for share in shares] == [len(each) for each in found] == [3, 3]
    assert sorted(itertools.chain(*found[0], *found[1])) == list(range(21))


def test_an_image_that_is_broken_is_left_out_and_named_once(tmp_path: Path) -> None:
    dataset = write(tmp_path, [png(0), BROKEN, png(2), b"no image", png(4)])
    given = batches(dataset, batch=2)
    assert names(list(given)) == [[0], [2], [4]]
    list(given)
    assert set(given.skipped) == {"images/001.png", "images/003.png"}
    assert given.skipped["images/003.png"].startswith("not-an-image")


def test_in_training_another_image_takes_the_place_of_a_broken_one(tmp_path: Path) -> None:
    dataset = write(tmp_path, [png(0), BROKEN, png(2), b"", png(4)])
    found = names(list(training(dataset, batch=2)))
    assert [len(batch) for batch in found] == [2, 2, 2]
    assert set(itertools.chain(*found)) == {0, 2, 4}


def test_a_set_of_broken_images_alone_ends_the_training(tmp_path: Path) -> None:
    dataset = write(tmp_path, [BROKEN, BROKEN])
    with pytest.raises(Misconfigured, match=r"in a row can't be used; the first is images/00\d.png \("):
        list(training(dataset))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "images/link.png", "images/\0.png", "a" * 4000])
def test_no_image_lies_outside_its_data_set(tmp_path: Path, name: str) -> None:
    dataset = shades(tmp_path / "set", 1)
    (tmp_path / "secret.png").write_bytes(png(9))
    (tmp_path / "set/images/link.png").symlink_to(tmp_path / "secret.png")
    given = Batches([Sample(image=name)], side=8, mean=MEAN, std=STD, batch=1, images=Images(dataset.folder))
    assert list(given) == []
    assert list(given.skipped) == [escaped(name)]


def test_an_image_with_other_bytes_than_the_set_says_is_left_out(tmp_path: Path) -> None:
    dataset = shades(tmp_path / "set", 3)
    (tmp_path / "set/images/001.png").write_bytes(png(200))
    given = Batches(dataset.lines(), side=8, mean=MEAN, std=STD, batch=3, images=Images(dataset.folder))
    assert [sample.image for batch in given for sample in batch.samples] == ["images/000.png", "images/002.png"]
    assert list(given.skipped) == ["images/001.png"]


def test_a_store_that_is_away_ends_the_training() -> None:
    store = MemoryObjectStore()
    store.fail("sets", None, Unavailable("s3", "it is away"))
    images = Images(Path(), store=store)
    given = Batches([Sample(image="s3://sets/a.png")], images, side=8, mean=MEAN, std=STD, batch=1, augment=Augment())
    with pytest.raises(Unavailable):
        list(given)


def test_a_label_that_is_not_named_is_unknown_or_negative() -> None:
    samples = [Sample(image="a", tags=(0, 2), absent=(3,)), Sample(image="b"), Sample(image="c", absent=())]
    targets, weights = multi_hot(samples, 4, absent="unknown")
    assert targets.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert weights.tolist() == [[1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    same_targets, all_known = multi_hot(samples, 4, absent="negative")
    assert torch.equal(same_targets, targets)
    assert torch.equal(all_known, torch.ones(3, 4))
