import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from sharpness import SharpnessKind
from sharpness.model import SharpnessModel, make_bundle
from tests.unit.models import tiny as tiny_kind
from tests.unit.models.tiny import LABELS
from workers.errors import Misconfigured
from workers.models import load, result_kinds
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.labels import label_ids
from workers.models.load import kinds, load_captioner, load_tagger, tune_model
from workers.models.precision import Tuned, remember_tuned
from workers.models.tune import WORTH, Trial


@pytest.fixture
def _tiny_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an installed package had the entry point tagstream.models: tiny = tests.unit.models.tiny."""
    points = [
        EntryPoint("tiny", "tests.unit.models.tiny", "tagstream.models"),
        EntryPoint("lost", "no_such_package.model", "tagstream.models"),
    ]

    def entry_points(group: str, name: str | None = None) -> EntryPoints:
        return EntryPoints(point for point in points if point.group == group and name in (None, point.name))

    monkeypatch.setitem(sys.modules, "tests.unit.models.tiny", tiny_kind)
    monkeypatch.setattr(load, "entry_points", entry_points)


@pytest.mark.slow
def test_a_pinned_bundle_is_loaded_and_another_refused(compact: Bundle, cache_dir: Path) -> None:
    pinned = load_tagger("compact", device="cpu", precision="fp32", cache_dir=cache_dir, digest=compact.digest)
    assert pinned.digest == compact.digest
    with pytest.raises(Misconfigured, match="TAGSTREAM_TAGGER wants 0000"):
        load_tagger("compact", device="cpu", precision="fp32", cache_dir=cache_dir, digest="0" * 64)
    with pytest.raises(Misconfigured, match="TAGSTREAM_CAPTIONER wants 0000"):
        load_captioner(compact.folder, device="cpu", digest="0" * 64)


@pytest.mark.usefixtures("_tiny_kind")
def test_another_packages_kind_is_found_by_its_entry_point(tiny: Bundle) -> None:
    tagger = load_tagger(str(tiny.folder), device="cpu")
    tagger.warm_up()
    assert (tagger.name, list(tagger.labels), tagger.max_batch) == ("tiny", list(LABELS), 4)


@pytest.mark.usefixtures("_tiny_kind")
def test_allowed_labels_alone_are_scored(tiny: Bundle) -> None:
    tagger = load_tagger(str(tiny.folder), device="cpu", allow=["blue", "red"])
    scores = tagger.postprocess(tagger.forward([tagger.self_test_image()])[0])
    assert set(scores.label_ids.tolist()) <= {0, 2}


def test_a_roles_model_is_built_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Bundle) -> None:
    monkeypatch.setattr(result_kinds, "kinds", lambda: {"sharpness": SharpnessKind()})
    bundle = make_bundle(tmp_path / "sharpness")
    device = choose_device("cpu")
    remember_tuned(Tuned(bundle.digest, "sharpness", device.name, "fp32", 7, "eager"), device, tmp_path)
    model = load.load("sharpness", bundle.folder, device="cpu", state_dir=tmp_path, digest=bundle.digest)
    assert (type(model), model.digest, model.max_batch) == (SharpnessModel, bundle.digest, 7)
    untuned = load.load("sharpness", bundle.folder, device="cpu")
    assert untuned.max_batch == SharpnessModel.max_batch, "the model's own, where tuning found none"
    assert (load.uses_of(bundle), "sharpness" in kinds()) == (["sharpness"], True)
    with pytest.raises(Misconfigured, match="TAGSTREAM_ROLES=sharpness wants 0000"):
        load.load("sharpness", bundle.folder, device="cpu", digest="0" * 64)
    with pytest.raises(Misconfigured, match="no tagger can be made of it: it can be a sharpness"):
        load_tagger(bundle.folder, device="cpu")
    with pytest.raises(Misconfigured, match="needs one of the kind 'sharpness'"):
        load.load("sharpness", tiny.folder, device="cpu")


def test_label_ids_ascend_and_a_repeated_name_means_all_of_them(tiny: Bundle) -> None:
    bundle = Bundle(tiny.folder, tiny.manifest)
    bundle.__dict__["labels"] = ("train", "cat", "train")
    assert label_ids(bundle, ["train"]) == [0, 2]


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (lambda tiny: label_ids(tiny, ["mauve", "red"]), r"tiny has no label 'mauve' \(1 of 2 are unknown\)"),
        (lambda tiny: label_ids(tiny, []), "is empty"),
        (lambda tiny: load_tagger(str(tiny.folder.parent)), "is not a bundle"),
        (lambda tiny: load_tagger(str(tiny.folder)), "No builder .* kind 'tiny'; known are clip, efficientnet_lite0"),
    ],
    ids=["an unknown label", "no label", "no bundle", "an unknown kind"],
)
def test_what_can_not_be_loaded_is_a_sentence(tiny: Bundle, load: Callable[[Bundle], object], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        load(tiny)


@pytest.mark.usefixtures("_tiny_kind")
def test_a_tagger_given_as_a_captioner_is_a_sentence(tiny: Bundle) -> None:
    with pytest.raises(Misconfigured, match="no captioner can be made of it"):
        load_captioner(str(tiny.folder))


@pytest.mark.usefixtures("_tiny_kind")
def test_a_builder_that_does_not_import_is_a_sentence(tmp_path: Path) -> None:
    bundle = Bundle.write(
        tmp_path / "lost", tiny_kind.tiny_manifest(kind="lost"), weights=tiny_kind.tiny_weights(), labels=LABELS
    )
    with pytest.raises(Misconfigured, match=r"'lost' .* does not import"):
        load_tagger(str(bundle.folder))


@pytest.mark.usefixtures("_tiny_kind")
def test_kinds_come_from_us_and_from_other_packages() -> None:
    assert set(kinds()) >= {"efficientnet_lite0", "ram", "ram_plus", "tag2text", "tiny"}


@pytest.mark.usefixtures("_tiny_kind")
def test_a_tuned_model_starts_in_the_precision_that_was_fastest(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.models.tune.WARM_S", 0.0)
    monkeypatch.setattr("workers.models.tune.TIMED_S", 0.0)
    trials: list[Trial] = []
    tuned = tune_model(tiny.folder, tmp_path, device="cpu", report=trials.append)
    assert [trial.precision for trial in trials] == ["fp32", "bf16", "fp16", "int8"]
    (chosen,) = (trial for trial in trials if trial.precision == tuned.precision)
    assert (chosen.refusal, tuned.max_batch) == ("", chosen.max_batch)
    assert all(trial.images_per_s < WORTH * chosen.images_per_s for trial in trials if trial is not chosen)
    tagger = load_tagger(tiny.folder, device="cpu", state_dir=tmp_path)
    assert (tagger.precision, tagger.max_batch) == (tuned.precision, tuned.max_batch)
