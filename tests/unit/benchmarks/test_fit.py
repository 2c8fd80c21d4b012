"""A head against simple methods on the drawn set, with compact's features: the limits that photographs also meet."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from PIL import Image

from benchmarks.fit import METHODS, SHARES, Measured, Seen, open_world, parted, photographs, splits, variants

pytestmark = pytest.mark.slow

IMAGES, SPLITS = 80, 1
QUICK = ("train fit", "logistic regression", "nearest centroid")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "")  # restored: the benchmark keeps features in its own folder
        return photographs(None, "compact", Path(tmp_path_factory.mktemp("seen")), IMAGES)


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
