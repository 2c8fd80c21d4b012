"""Bundles of `tagstream train fit` and `pretrain` are a worker's models like any other, on real servers."""

from pathlib import Path

import pytest

from tagstream_train.data.images import Images
from tagstream_train.fit.data import FitRun
from tagstream_train.fit.run import fit
from tagstream_train.plan import Plan
from tagstream_train.pretrain.run import pretrain, write_bundle
from tests.fixtures import Stack, Unique
from tests.support.command import Tagstream
from tests.support.worker_process import Site, enriched_by_a_worker
from tests.unit.models.small import small_bundle
from training.tests.unit.drawings import drawings, tiny_run
from training.tests.unit.pictures import LABELS, colours
from workers.models.bundle import Bundle

pytestmark = pytest.mark.timeout(240)

KEYS = {f"{number}.png": f"images/{number:03}.png" for number in range(6)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("fitted")
    colours(folder / "data")
    small_bundle("ram", folder / "ram")
    plan = Plan(epochs=1, device="cpu", threads=1)
    run = FitRun(data=str(folder / "data"), parent=str(folder / "ram"), workers=0, plan=plan)
    made = fit(run, folder / "mine", folder / "work")
    assert made is not None
    return made.bundle


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("captioner")
    dataset = drawings(folder / "set")
    made = pretrain(dataset, tiny_run("tag2text", steps=2, stages=(64,)), folder / "work", workers=0)
    return write_bundle(made, folder / "bundle", Images(dataset.folder), workers=0)


def test_a_worker_tags_with_a_taught_head_and_captions_with_a_pretrained_model(
    stack: Stack, unique: Unique, fitted: Bundle, captioner: Bundle, tmp_path: Path
) -> None:
    images = {key: (fitted.folder.parent / "data" / name).read_bytes() for key, name in KEYS.items()}
    models = {"TAGSTREAM_TAGGER": str(fitted.folder), "TAGSTREAM_CAPTIONER": str(captioner.folder)}
    outputs = enriched_by_a_worker(Site(stack, unique("fit")), tmp_path, images, TAGSTREAM_PRECISION="fp32", **models)
    assert len(outputs) == len(KEYS)
    for output in outputs:
        used = output.models.tagger, output.models.captioner
        assert used[0] is not None
        assert used[1] is not None
        assert (used[0].digest, used[1].digest) == (fitted.digest, captioner.digest)
        assert used[0].random_weights  # as its encoder is
        assert output.caption is not None
        assert output.caption.guided_by is not None
        assert set(output.caption.guided_by) == {tag.name for tag in output.tags}
    assert {tag.name for output in outputs for tag in output.tags} & set(LABELS)


def test_negatives_come_from_a_bucket_or_are_drawn_from_the_enriched_topic(
    stack: Stack,
    unique: Unique,
    fitted: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tagstream: Tagstream,
) -> None:
    site, folder = Site(stack, unique("negatives")), fitted.folder.parent
    others = colours(tmp_path / "others", 12, seed=5)
    images = {f"{number}.png": (others.folder / each.image).read_bytes() for number, each in enumerate(others)}
    enriched_by_a_worker(site, tmp_path, images, TAGSTREAM_TAGGER=str(fitted.folder), TAGSTREAM_PRECISION="fp32")
    for name, value in site.settings("fit").items():
        monkeypatch.setenv(name, value)
    for negatives, taught in ((f"s3://{site.name}", 48 + 12), ("auto", 48)):
        out = tmp_path / f"taught-{taught}"
        words = ["train", "fit", folder / "data", "--from", folder / "ram", "-o", out, "--negatives", negatives]
        found = tagstream(*words, "--workers", "0", "--threads", "1", "--json").json
        assert (found["closed"], found["card"]["data"]["train"]) == (negatives == "auto", taught)
        _, *asked = (tmp_path / f"taught-{taught}.work" / "report.html").read_text().split("Is it ")
        assert len(asked) == (len(LABELS) if negatives == "auto" else 0)
        assert all(f"s3://{site.name}" in section for section in asked)
