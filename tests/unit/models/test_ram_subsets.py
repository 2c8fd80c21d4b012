"""Images of one batch that want different labels of RAM, RAM++ and Tag2Text: the same numbers, for less work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.unit.models.small import CPU, SMALL
from workers.models.bundle import Bundle
from workers.models.ram.adapters import RamTagger, SubsetLogits, build_tagger
from workers.models.ram.config import PUBLISHED, Kind
from workers.models.ram.engine import engine_of
from workers.models.tagger import sample_image
from workers.ports import SubsetTagger
from workers.types import Pixels, Subset

KINDS = tuple(PUBLISHED)
LABELS = SMALL["ram"].labels
EVERY = np.arange(LABELS, dtype=np.int32)
SOME, OTHERS, LAST = Subset(tuple(range(0, LABELS, 7))), Subset(tuple(range(30))), Subset((LABELS - 1,))


def images(count: int) -> list[Pixels]:
    return [sample_image(64, seed) for seed in range(count)]


@contextmanager
def shapes_out_of(module: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    seen: list[tuple[int, ...]] = []
    hook = module.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_image_gets_its_columns_of_the_full_set_in_company_and_alone(
    kind: Kind, request: pytest.FixtureRequest
) -> None:
    tagger = build_tagger(request.getfixturevalue(kind), CPU, "fp32")
    subsets = [SOME, None, LAST, OTHERS, SOME]
    full = tagger.forward(images(5))
    mixed = tagger.forward_subsets(images(5), subsets)
    for image, subset, row, raw in zip(images(5), subsets, full, mixed, strict=True):
        (alone,) = tagger.forward_subsets([image], [subset])
        wanted = row if subset is None else row[list(subset.ids)]
        assert np.abs(_logits(raw) - wanted).max() <= 2e-5
        assert np.abs(_logits(alone) - wanted).max() <= 2e-5
        assert tagger.postprocess(raw).label_ids.tolist() == [
            each for each in tagger.postprocess(row).label_ids.tolist() if subset is None or each in subset.ids
        ]


def _logits(raw: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    return raw.logits if isinstance(raw, SubsetLogits) else np.asarray(raw)


def test_images_are_encoded_together_once_and_the_head_computes_the_wanted_labels(ram: Bundle) -> None:
    tagger = build_tagger(ram, CPU, "fp32")
    model = engine_of(ram, CPU, "fp32").model
    with shapes_out_of(model.encoder) as encoded, shapes_out_of(model.head) as scored:
        tagger.forward_subsets(images(4), [SOME, LAST, None, SOME])
    assert [shape[0] for shape in encoded] == [4]
    assert sorted(shape[:2] for shape in scored) == [(1, 1), (1, LABELS), (2, len(SOME.ids))]


def test_within_an_allow_list_all_means_all_allowed_labels(ram: Bundle) -> None:
    full = build_tagger(ram, CPU, "fp32")
    tagger = build_tagger(ram, CPU, "fp32", OTHERS.ids)
    few = Subset((3, 29))
    one, other = tagger.forward_subsets(images(2), [None, few])
    assert isinstance(other, SubsetLogits)
    assert other.ids.tolist() == [3, 29]
    first, second = full.forward(images(2))
    assert np.abs(np.asarray(one) - first[:30]).max() <= 2e-5
    assert np.abs(other.logits - second[[3, 29]]).max() <= 2e-5


def test_not_a_number_among_some_labels_is_a_value_error(ram: Bundle) -> None:
    tagger = build_tagger(ram, CPU, "fp32")
    with pytest.raises(ValueError, match="not a number"):
        tagger.postprocess(SubsetLogits(np.array([1, 2], np.int32), np.array([0, np.nan], np.float32)))


def test_no_images_are_no_work(ram: Bundle) -> None:
    tagger: RamTagger = build_tagger(ram, CPU, "fp32")
    assert isinstance(tagger, SubsetTagger)
    assert list(tagger.forward_subsets([], [])) == []
