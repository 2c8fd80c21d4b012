"""A head against simple methods on the drawn set, with compact's features: the limits that photographs also meet."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.fit import METHODS, SHARES, Measured, Seen, open_world, parted, photographs, splits, variants
from tagstream_train.data.images import Images
from workers.models.tagger import TorchTagger
from workers.types import Pixels

pytestmark = pytest.mark.slow

IMAGES, SPLITS = 80, 1
QUICK = ("train fit", "logistic regression", "nearest centroid")


@pytest.fixture(scope="module")
def counted() -> Counter[str]:
    return Counter()


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, counted: Counter[str]) -> Seen:
    load, features = Images.load, TorchTagger.features

    def loaded(self: Images, image: str, **options: Any) -> object:
        counted[image] += 1
        return load(self, image, **options)

    def encoded(self: TorchTagger, images: Sequence[Pixels]) -> object:
        counted["encoded"] += len(images)
        return features(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Images, "load", loaded)
        patch.setattr(TorchTagger, "features", encoded)
        patch.setenv("XDG_CACHE_HOME", "")  # restored: the benchmark keeps features in its own folder
        return photographs(None, "compact", Path(tmp_path_factory.mktemp("seen")), IMAGES)


def test_each_image_is_decoded_and_encoded_once(seen: Seen, counted: Counter[str]) -> None:
    assert counted.pop("encoded") == len(seen.features) == IMAGES
    assert set(counted.values()) == {1}
    assert len(counted) == IMAGES


@pytest.mark.filterwarnings("ignore::FutureWarning")  # scikit-learn's, of its next version
@pytest.mark.parametrize("variant", ["as they are", "a fifth labelled at random"])
def test_a_head_is_as_good_as_the_best_simple_method(seen: Seen, variant: str) -> None:
    taught, truth = variants(seen.targets)[variant]
    found: dict[str, list[Measured]] = {
        name: list(splits(METHODS[name], seen, taught, truth, SPLITS)) for name in QUICK
    }
    maps = {name: fmean(each.map for each in rows) for name, rows in found.items()}
    assert maps["train fit"] >= max(maps.values()) - 0.005
    own, one = (np.mean([getattr(each, name) for each in found["train fit"]]) for name in ("f1", "f1_at_one"))
    assert own >= one - 0.01


@pytest.fixture(scope="module")
def made_up() -> Seen:
    """Three labels of 120 images each, and 700 images of none."""
    random = np.random.default_rng(0)
    targets = np.zeros((1060, 3), np.float32)
    targets[np.arange(360), np.arange(360) % 3] = 1
    features = random.normal(size=(1060, 8)) + 4 * np.pad(targets, ((0, 0), (0, 5)))
    return Seen(features.astype(np.float32), targets, 0.0, lambda row: Image.new("RGB", (8, 8)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_a_head_promises_of_an_open_world_holds(made_up: Seen) -> None:
    seen, none = parted(made_up)
    assert (len(seen.features), len(none)) == (360, 700)
    rows = list(open_world(seen, none, 0))
    for wanted in SHARES:
        sides = [side for share, side, *_ in rows if share == wanted]
        assert len(sides) == 3
        assert sides.count(0) >= 2
    assert all(f1 > 0.6 for *_, f1, _ in rows)
