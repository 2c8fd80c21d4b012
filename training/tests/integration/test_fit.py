"""A bundle that `tagstream train fit` made is a worker's tagger like any other, on real servers."""

from pathlib import Path

import pytest

from tagstream_train.fit.data import FitRun
from tagstream_train.fit.run import fit
from tagstream_train.loop import Plan
from tests.fixtures import Stack, Unique
from tests.support.worker_process import Site, enriched_by_a_worker
from tests.unit.models.small import small_bundle
from training.tests.unit.pictures import LABELS, colours
from workers.models.bundle import Bundle

pytestmark = pytest.mark.timeout(240)

KEYS = {f"{number}.png": f"images/{number:03}.png" for number in range(6)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small RAM that was taught four tags."""
    folder = tmp_path_factory.mktemp("fitted")
    colours(folder / "data")
    small_bundle("ram", folder / "ram")
    told = FitRun(
        data=str(folder / "data"),
        parent=str(folder / "ram"),
        workers=0,
        plan=Plan(epochs=15, batch=8, lr=1e-3, threads=1),
    )
    made = fit(told, folder / "mine", folder / "work")
    assert made is not None
    return made.bundle


def test_a_worker_tags_with_what_a_person_taught(stack: Stack, unique: Unique, fitted: Bundle, tmp_path: Path) -> None:
    images = {key: (fitted.folder.parent / "data" / name).read_bytes() for key, name in KEYS.items()}
    models = {"TAGSTREAM_TAGGER": str(fitted.folder), "TAGSTREAM_PRECISION": "fp32"}
    outputs = enriched_by_a_worker(Site(stack, unique("fit")), tmp_path, images, **models)
    assert len(outputs) == len(KEYS)
    for output in outputs:
        model = output.models.tagger
        assert model is not None
        assert (model.digest, model.random_weights) == (fitted.digest, True)  # as its encoder is
    assert {tag.name for output in outputs for tag in output.tags} & set(LABELS)
