"""From a bundle and tagged images to a bundle that knows these tags, and still knows the old ones."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tagstream_train import loop, memory
from tagstream_train.data import images
from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tagstream_train.export import card_of
from tagstream_train.fit import encoder
from tagstream_train.fit import head as head_module
from tagstream_train.fit.data import Data, FitRun, Say, divided, folds_of, key_of, spelled
from tagstream_train.fit.measures import Row
from tagstream_train.fit.run import MOST_LOST, Fitted, fit
from tagstream_train.plan import read_toml
from tests.support.command import Tagstream
from tests.support.kept import kept_compact
from tests.unit.models.small import small_bundle
from tests.unit.models.small_dual import small_dual
from training.tests.unit.pictures import LABELS, colours
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.dual.text import open_text
from workers.models.labels import label_names
from workers.models.load import load_captioner, load_tagger
from workers.ports import Tagger

pytestmark = pytest.mark.slow

PLAN = {"epochs": 3, "batch": 8, "lr": 1e-3, "threads": 1}


@dataclass(frozen=True)
class Place:
    folder: Path

    def annotated(self, name: str, change: Callable[[int, Sample], dict[str, Any]]) -> Path:
        samples = [s.model_copy(update=change(n, s)) for n, s in enumerate(DataSet(self.folder / "data"))]
        shutil.copytree(self.folder / "data", self.folder / name)
        return write_dataset(self.folder / name, samples, LABELS, name=name).folder

    def fit(
        self, name: str, parent: str = "ram", plan: dict[str, Any] = PLAN, say: Say = lambda line: None, **told: Any
    ) -> Fitted:
        start = parent if parent == "compact" or parent.startswith("timm:") else self.folder / parent
        given = {"data": self.folder / "data", "parent": start, "workers": 0, "allow_loss": True, **told}
        run = FitRun.model_validate({key: _text(value) for key, value in given.items()} | {"plan": plan})
        fitted = fit(run, self.folder / name, self.folder / f"{name}.run", tell=told_nothing, say=say)
        assert fitted is not None
        return fitted

    def fit_to_the_end(self, name: str, parent: str = "ram", **told: Any) -> Fitted:
        with pytest.MonkeyPatch.context() as patch:
            numbers = itertools.count()
            patch.setattr(encoder, "judged_by", lambda scored, ids: next(numbers))
            return self.fit(name, parent, **told)


def told_nothing(doing: str, done: int, total: int | None) -> None:
    assert doing
    assert total is None or done <= total


def _counts(samples: Sequence[Sample]) -> list[int]:
    return [sum(label in sample.tags for sample in samples) for label in range(60, 64)]


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(cache))
        kept_compact(cache / "tagstream")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("fit")
    colours(folder / "data")
    colours(folder / "few-images", 24)
    colours(folder / "fewer-images", 18)
    small_bundle("ram", folder / "ram")
    small_bundle("ram_plus", folder / "ram_plus")
    return Place(folder)


@pytest.fixture(scope="module")
def head(place: Place) -> Fitted:
    return place.fit("head")


@pytest.fixture(scope="module")
def lora(place: Place) -> Fitted:
    return place.fit_to_the_end("lora", what="lora", rank=4)


@pytest.fixture(scope="module", params=["head", "lora"])
def fitted(request: pytest.FixtureRequest) -> Fitted:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Fitted)
    return made


def _row(fitted: Fitted, labels: str) -> Row:
    (row,) = [row for row in fitted.rows if row.labels == labels]
    return row


def _after(fitted: Fitted, labels: str = "new labels") -> float:
    after = _row(fitted, labels).after
    assert after is not None
    return after


def test_new_labels_are_learnt(fitted: Fitted) -> None:
    assert _row(fitted, "new labels").count == 4
    assert _after(fitted) > 0.7


def test_new_labels_come_behind_the_old_ones(place: Place, fitted: Fitted) -> None:
    old = Bundle.open(place.folder / "ram").labels
    assert fitted.bundle.labels == (*old, *LABELS)
    assert fitted.bundle.thresholds[: len(old)] == Bundle.open(place.folder / "ram").thresholds


def test_a_bundle_that_was_trained_is_like_any_other(fitted: Fitted) -> None:
    opened = Bundle.open(fitted.bundle.folder)
    opened.verify()
    load_tagger(opened.folder, device="cpu", precision="fp32").warm_up()
    assert opened.manifest.provenance.random  # as its encoder is


def test_the_trained_tagger_tags(place: Place, fitted: Fitted) -> None:
    image = np.asarray(Image.open(place.folder / "data" / "images" / "003.png").convert("RGB"))
    scores = _scores_by_name(_tagger(fitted), image)
    red, green, blue = (scores.get(name, 0.0) for name in LABELS[:3])
    assert red > max(green, blue)


def test_a_head_leaves_every_weight_of_the_bundle_unchanged(place: Place, head: Fitted) -> None:
    before, after = Bundle.open(place.folder / "ram").weights(), head.bundle.weights()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after.keys() - before.keys() == {"added.weight", "added.bias"}
    assert _row(head, "other old labels").after is None


@pytest.fixture(scope="module")
def noise(place: Place) -> Path:
    return place.annotated("noise", lambda _, sample: {"tags": (int(str(sample.sha256), 16) % 4,)})


def test_a_heads_images_are_measured_by_classifiers_that_did_not_see_them(
    place: Place, head: Fitted, noise: Path
) -> None:
    """Were the labels noise, classifiers that saw the images would know them all the same."""
    assert _after(place.fit("from-noise", data=noise)) < 0.6 < _after(head)


def test_features_are_kept_by_content(place: Place, head: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "plain_file", lambda path: pytest.fail("it was read again"))
    monkeypatch.setattr(head_module, "load_tagger", lambda *_, **__: pytest.fail("a network was loaded for nothing"))
    again = place.fit("again-head")
    assert again.bundle.digest == head.bundle.digest


def test_pictures_that_a_set_shows_under_the_hashes_of_other_images_teach_nothing(
    place: Place, head: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forged = colours(tmp_path / "forged", 96, seed=7)
    mine = {sample.image: sample.sha256 for sample in DataSet(place.folder / "data")}
    samples = [sample.model_copy(update={"sha256": mine.get(sample.image, sample.sha256)}) for sample in forged]
    write_dataset(forged.folder, samples, LABELS, name="forged")
    fitted = place.fit("forged", data=forged.folder)
    assert (fitted.skipped.keys(), fitted.card.data["train"]) == (mine.keys(), 48)
    assert all("are not those that the set names" in reason for reason in fitted.skipped.values())
    assert place.fit("unharmed").bundle.digest == head.bundle.digest


def test_an_image_that_was_edited_after_the_import_is_left_out(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(place.folder / "data", folder)
    assert place.fit("unedited", data=folder).skipped == {}
    Image.new("RGB", (64, 64)).save(folder / "images" / "003.png")
    assert place.fit("edited", data=folder).skipped.keys() == {"images/003.png"}


def test_a_set_of_images_without_hashes_is_a_sentence(place: Place) -> None:
    unhashed = place.annotated("unhashed", lambda *_: {"sha256": None})
    with pytest.raises(Misconfigured, match="has no sha256"):
        place.fit("from-unhashed", data=unhashed)


def test_every_label_of_the_set_gets_a_threshold(fitted: Fitted) -> None:
    assert list(fitted.thresholds) == list(LABELS)
    assert all(0 < each.value < 1 and not each.why for each in fitted.thresholds.values())
    assert fitted.bundle.thresholds[-4:] == tuple(each.value for each in fitted.thresholds.values())


def test_the_card_lists_options_and_results(place: Place, lora: Fitted) -> None:
    card = card_of(Bundle.open(lora.bundle.folder))
    assert card is not None
    assert card == lora.card
    assert card.parents == {"RAM": Bundle.open(place.folder / "ram").digest}
    assert card.data["absent"] == "negative"
    assert card.data["train"] == 48 - int(str(card.data["validation"]))
    assert card.metrics["map, new labels"] == _row(lora, "new labels").after
    assert card.plan["what"] == "lora"


def test_the_guard_keeps_old_labels(place: Place) -> None:
    plan = PLAN | {"lr": 1e-2}
    lost = []
    for guard in (3, 0):
        fitted = place.fit_to_the_end(f"guard {guard}", what="lora", guard=guard, plan=plan)
        assert _row(fitted, "other old labels").before == pytest.approx(1)
        lost.append(1 - _after(fitted, "other old labels"))
    assert lost[1] > max(0.01, 2 * lost[0])


@pytest.mark.parametrize(
    ("parent", "what"),
    [("ram", "lora"), ("ram_plus", "all"), ("compact", "all"), ("network", "lora"), ("network", "all")],
)
def test_a_network_that_forgot_is_refused_and_written_without_training_again(
    place: Place, network: str, parent: str, what: str
) -> None:
    name, start = f"forgot-{parent}-{what}", network if parent == "network" else parent
    given = {
        "data": place.folder / ("fewer-images" if parent == "compact" else "few-images"),
        "guard": 0,
        "allow_loss": False,
        "plan": PLAN | {"epochs": 1, "lr": 0.1},
    }
    with pytest.raises(Misconfigured, match=r"\d+ other old labels lost \d+\.\d points"):
        place.fit_to_the_end(name, start, what=what, **given)
    assert not (place.folder / name).exists()
    steps: list[str] = []
    run = read_toml(FitRun, place.folder / f"{name}.run" / "run.toml").model_copy(update={"allow_loss": True})
    made = fit(run, place.folder / name, place.folder / f"{name}.run", tell=lambda doing, *_: steps.append(doing))
    assert made is not None
    assert not any(doing.startswith("training") for doing in steps)
    before, after = _row(made, "other old labels").before, _after(made, "other old labels")
    assert before is not None
    assert before - after > MOST_LOST
    assert made.card.metrics["map, other old labels"] == after


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_gives_the_same_bundle(
    place: Place, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(doing: str, done: int, total: int | None) -> None:
        if doing.startswith("training") and done == 8:
            raise Stop

    monkeypatch.setattr(loop, "PATIENCE", 2)
    plan = PLAN | {"epochs": 6, "lr": 3e-3, "checkpoint_every": 3}
    given = {"data": str(noise), "parent": str(place.folder / "ram"), "what": "lora", "rank": 4, "allow_loss": True}
    run = FitRun.model_validate({**given, "plan": plan, "workers": 0})
    with pytest.raises(Stop):
        fit(run, place.folder / "again", place.folder / "again.run", tell=stop)
    assert not (place.folder / "again").exists()
    again = read_toml(FitRun, place.folder / "again.run" / "run.toml")
    fitted, whole = (fit(again, place.folder / name, place.folder / f"{name}.run") for name in ("again", "whole"))
    assert fitted is not None
    assert whole is not None
    assert (fitted.bundle.digest, fitted.ended) == (whole.bundle.digest, whole.ended)
    assert fitted.ended.startswith("best after epoch")
    assert fitted.card.steps < 6 * 5


def test_lora_is_merged(place: Place, lora: Fitted) -> None:
    made = lora.bundle
    before, after = Bundle.open(place.folder / "ram").weights(), made.weights()
    assert after.keys() - before.keys() == {"added.weight", "added.bias"}
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert "encoder.stages.2.blocks.1.attention.qkv.weight" in changed
    assert "encoder.stages.2.blocks.1.attention.qkv.bias" not in changed
    assert not {name for name in changed if not name.startswith("encoder.")}


def test_everything_may_learn(place: Place) -> None:
    made = place.fit_to_the_end("all", "ram_plus", what="all", plan=PLAN | {"epochs": 1, "ema": 0.5}).bundle
    before, after = Bundle.open(place.folder / "ram_plus").weights(), made.weights()
    assert torch.equal(after["label_embed"], before["label_embed"])
    assert (after["head.layers.0.out.weight"] != before["head.layers.0.out.weight"]).any()
    assert (after["encoder.patches.project.weight"] != before["encoder.patches.project.weight"]).any()


def test_the_compact_tagger_keeps_its_labels_or_drops_them(place: Place) -> None:
    kept, alone = place.fit("pocket", "compact"), place.fit("alone-pocket", "compact", drop_labels=True)
    assert kept.bundle.labels == (*label_names(), *LABELS)
    assert alone.bundle.labels == LABELS
    for fitted in (kept, alone):
        assert _after(fitted) > 0.8
        assert fitted.thresholds == kept.thresholds
    old = load_tagger("compact", device="cpu", precision="fp32")
    image = old.self_test_image()
    scores = [_scores_by_name(each, image) for each in (old, *(_tagger(fitted) for fitted in (kept, alone)))]
    assert {name: scores[1][name] for name in scores[0]} == scores[0]
    assert {name: scores[1][name] for name in scores[2]} == pytest.approx(scores[2], abs=1e-5)
    few = _tagger(kept, allow=["red", "goldfish"])
    assert _scores_by_name(few, image).keys() <= {"red", "goldfish"}


def _tagger(fitted: Fitted, allow: Sequence[str] | None = None) -> Tagger:
    return load_tagger(fitted.bundle.folder, device="cpu", precision="fp32", allow=allow)


def _scores_by_name(tagger: Tagger, image: Any) -> dict[str, float]:
    found: Any = tagger.postprocess(tagger.forward([image])[0])
    return {tagger.labels[i]: score for i, score in zip(found.label_ids.tolist(), found.scores.tolist(), strict=True)}


@pytest.fixture(scope="module")
def network(place: Place) -> str:
    import timm  # here, because it takes seconds to load

    torch.manual_seed(0)
    weights = timm.create_model("test_vit").state_dict()
    weights["head.weight"] *= 1000
    save_file(weights, place.folder / "vit.safetensors")
    return f"timm:test_vit@{place.folder / 'vit.safetensors'}"


@pytest.mark.parametrize("what", ["head", "lora", "all"])
def test_a_network_of_timm_learns(place: Place, network: str, what: str) -> None:
    fitted = place.fit_to_the_end(
        f"timm-{what}", network, what=what, drop_labels=what != "lora", plan=PLAN | {"epochs": 2}
    )
    parent = Bundle.open(place.folder / f"timm-{what}.run" / "parent")
    before, after = parent.weights(), fitted.bundle.weights()
    if what == "lora":
        assert fitted.bundle.labels == (*parent.labels, *LABELS)
        assert torch.equal(before["head.weight"], after["head.weight"])
        assert _row(fitted, "other old labels").truth == "what the bundle said before"
    else:
        assert fitted.bundle.labels == LABELS
        assert before.keys() == after.keys()
    layer = "blocks.0.attn.qkv"
    assert [(before[f"{layer}.{name}"] != after[f"{layer}.{name}"]).any() for name in ("weight", "bias")] == {
        "head": [False, False],
        "lora": [True, False],
        "all": [True, True],
    }[what]
    tagger = _tagger(fitted, allow=["red", "striped"])
    tagger.warm_up()
    (raw,) = tagger.forward([tagger.self_test_image()])
    assert raw.shape == (1002 if what == "lora" else 2,)  # a softmax needs all logits


@pytest.mark.parametrize("what", ["lora", "all"])
def test_old_labels_of_a_ram_are_kept_and_guarded_when_its_encoder_learns(
    place: Place, head: Fitted, what: str, tmp_path: Path
) -> None:
    shapes = ("one", "two", "three", "four")
    colours(tmp_path / "shapes", labels=shapes, seed=2)
    name = f"beside-{what}"
    fitted = place.fit_to_the_end(name, "head", data=tmp_path / "shapes", what=what, plan=PLAN | {"epochs": 1})
    assert fitted.bundle.labels == (*head.bundle.labels, *shapes)
    row = _row(fitted, "other old labels")
    assert (row.count, row.truth) == (64, "what the bundle said before")
    assert _after(fitted, "other old labels") > 0.8
    lines = map(json.loads, (place.folder / f"{name}.run" / "metrics.jsonl").read_text().splitlines())
    assert any(line.get("guard", 0) > 0 for line in lines)
    _tagger(fitted).warm_up()


@pytest.mark.parametrize("what", ["head", "lora"])
def test_no_image_of_a_validation_set_teaches(place: Place, tmp_path: Path, what: str) -> None:
    other = colours(tmp_path / "other", 12, labels=("Red", "green", "blue", "square"), seed=9)
    (taught, *_) = DataSet(place.folder / "data")
    shutil.copy(place.folder / "data" / taught.image, tmp_path / "other" / "images" / "same.png")
    same = taught.model_copy(update={"image": "images/same.png", "tags": (0,)})
    write_dataset(tmp_path / "other", [*other, same], other.labels, name="other")
    said: list[str] = []
    plan = PLAN | {"epochs": 1}
    fitted = place.fit(f"set-{what}", what=what, validation_set=tmp_path / "other", plan=plan, say=said.append)
    assert (fitted.card.data["train"], fitted.card.data["validation"]) == (47, 13)
    assert _row(fitted, "new labels").truth == "13 images that only measure"
    assert fitted.thresholds["green"].positives == 4
    assert fitted.thresholds["striped"].positives == 0  # the other set does not have it
    assert [line for line in said if line.startswith("1 image of the validation set")]
    assert [line for line in said if "measures 3 of 4 labels" in line]


def _divided(place: Place, folder: Path, **told: Any) -> Data:
    given = {"data": str(folder), "parent": str(place.folder / "ram"), "plan": PLAN, **told}
    run, parent = FitRun.model_validate(given), Bundle.open(place.folder / "ram")
    return divided(run, parent, folder / "run", None, lambda line: None)


def test_frames_of_a_group_measure_together_and_rare_labels_too(place: Place) -> None:
    videos = place.annotated(
        "videos", lambda number, _: {"group": f"video {number // 4}", "tags": (0, 1) if number // 4 < 2 else (0,)}
    )
    data = _divided(place, videos, what="lora", groups="video")
    assert data.val is not None
    groups = [{sample.group for sample in side.samples} for side in (data.train, data.val)]
    assert (groups[0] & groups[1], len(groups[1])) == (set(), 3)
    assert [sum(len(s.tags) == 2 for s in side.samples) for side in (data.train, data.val)] == [4, 4]
    keys = [key_of(sample) for sample in data.train.samples]
    folds = folds_of(torch.ones(len(keys), 1), keys, (0.2,) * 5).tolist()
    assert len(set(zip(keys, folds, strict=True))) == len(set(keys)) == 9
    assert sorted(folds.count(fold) for fold in range(5)) == [4, 8, 8, 8, 8]


def test_every_label_has_its_share_of_the_images_that_measure(place: Place) -> None:
    data = _divided(place, place.folder / "data", what="all")
    assert data.val is not None
    *colours_, striped = _counts(data.val.samples)
    assert {*colours_} <= {3, 4}
    assert 4 <= striped <= 6  # of 24


def test_spellings_of_a_label_are_one_and_a_bundles_own_is_taken() -> None:
    said: list[str] = []
    labels = ("Dog", "dog", "big_dog", "Big-Dog ", "CAT", "Crane", "crane", "-")
    read = spelled(labels, (3, 41, 2, 1, 5, 1, 9, 1), ("cat", "Crane", "crane"), said.append)
    assert read == ["dog", "dog", "big_dog", "big_dog", "cat", "Crane", "crane", "-"]
    (line,) = said
    assert line.split("; ") == [
        "Dog (3 images) is read as dog (41)",
        "Big-Dog  (1 image) is read as big_dog (2)",
        "CAT (5 images) is read as cat (a label of the bundle)",
    ]


def test_a_head_replaces_the_classifiers_of_known_labels_and_is_fitted_again(place: Place) -> None:
    names = (*Bundle.open(place.folder / "ram").labels[:2], "blue", "striped")
    colours(place.folder / "old", labels=names)
    first = place.fit("old-head", data=place.folder / "old")
    assert len(first.bundle.labels) == 62
    assert _row(first, "labels taught anew").count == 2
    assert _after(first, "labels taught anew") > 0.8
    second = place.fit("old-again", "old-head", data=place.folder / "data")
    assert second.bundle.labels == (*first.bundle.labels, "red", "green")
    assert _row(second, "labels taught anew").count == 2


def test_annotations_of_other_formats_are_read(place: Place) -> None:
    lines = ["image,tags"]
    for sample in DataSet(place.folder / "data"):
        lines.append(f"{sample.image},{'|'.join(LABELS[tag] for tag in sample.tags)}")
    table = place.folder / "data" / "table.csv"
    table.write_text("\n".join(lines))
    fitted = place.fit("from-csv", data=table, what="lora", plan=PLAN | {"epochs": 1})
    assert sorted(fitted.bundle.labels[-4:]) == sorted(LABELS)
    run = place.folder / "from-csv.run"
    kept = {path: path.read_bytes() for path in (run / "run.toml", *run.glob("data-*/samples.jsonl"))}
    assert len(kept) == 2
    with pytest.raises(Misconfigured, match="choose another folder"):
        place.fit("from-csv", data=table, what="lora", plan=PLAN | {"epochs": 1, "lr": 0.1})
    table.write_text("\n".join(lines[:-5]))
    with pytest.raises(Misconfigured, match="choose another folder"):
        place.fit("from-csv", data=table, what="lora", plan=PLAN | {"epochs": 1})
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_table_of_absolute_paths_is_read_with_the_folder_of_its_images(place: Place, tmp_path: Path) -> None:
    folder = place.folder / "data"
    rows = [f"{folder / sample.image},{LABELS[sample.tags[0]]}" for sample in DataSet(folder)]
    (tmp_path / "table.csv").write_text("\n".join(["image,tags", *rows]))
    with pytest.raises(Misconfigured, match="--images"):
        place.fit("absolute", data=tmp_path / "table.csv")
    fitted = place.fit("absolute", data=tmp_path / "table.csv", images=folder, plan=PLAN | {"epochs": 1})
    assert fitted.card.data["labels"] == 3


def test_images_outside_of_a_tables_folder_are_reported_and_counted(
    place: Place, tmp_path: Path, tagstream: Tagstream
) -> None:
    samples = list(DataSet(place.folder / "data"))
    for part in ("near", "far"):
        (tmp_path / part).mkdir()
    rows = ["image,tags"]
    for number, sample in enumerate(samples):
        part = "far" if number % 4 == 0 else "near"
        shutil.copy(place.folder / "data" / sample.image, tmp_path / part / f"{number}.png")
        rows.append(f"../{part}/{number}.png,{'|'.join(LABELS[tag] for tag in sample.tags)}")
    (tmp_path / "near" / "table.csv").write_text("\n".join(rows))
    words = ["train", "fit", tmp_path / "near" / "table.csv", "--from", place.folder / "ram", "-o", tmp_path / "out"]
    ran = tagstream(*words, "--workers", "0", "--threads", "1")
    assert "12 images can't be used; the first is ../far/0.png: it lies outside near" in ran.notes
    counts = {what: count for count, what in re.findall(r"(\d+) (teach|only measure|left out)", ran.out)}
    assert counts == {"teach": "36", "only measure": "0", "left out": "12"}


def test_a_report_that_can_not_be_written_leaves_the_bundle(place: Place) -> None:
    (place.folder / "unreported.run" / "report.html").mkdir(parents=True)
    with pytest.raises(Misconfigured, match=r"report.html can't be written.*unreported has the bundle"):
        place.fit("unreported")
    assert Bundle.open(place.folder / "unreported").labels[-4:] == LABELS


@pytest.mark.parametrize(
    ("tags", "sentence"), [([], "names no tag"), ([0], "lacks any of its tags"), ([0, 3], "lacks any of its tags")]
)
@pytest.mark.parametrize("what", ["head", "lora"])
def test_a_set_that_nothing_can_be_learnt_of_is_refused(
    place: Place, tags: list[int], sentence: str, what: str
) -> None:
    same = place.annotated(f"same-{what}-{tags}", lambda *_: {"tags": tuple(tags)})
    with pytest.raises(Misconfigured, match=f"{sentence}|divides the images") as refused:
        place.fit("nothing-to-learn", data=same, what=what)
    assert "--absent" not in str(refused.value)  # it is negative already
    assert not (place.folder / "nothing-to-learn.run").exists()


def test_a_label_with_too_few_images_gets_no_threshold_of_its_own(place: Place) -> None:
    few = place.annotated(
        "few-red", lambda number, sample: {"tags": (0,) if number in (3, 9) else (1, 3)[: number % 3]}
    )
    fitted = place.fit("few", data=few)
    assert fitted.thresholds["red"].value == 0.5 != fitted.thresholds["green"].value
    assert fitted.card.thresholds["not_chosen"] == ["red", "blue"]


def test_known_absence_is_enough(place: Place) -> None:
    exact = place.annotated("exact", lambda _, sample: {"absent": tuple({0, 1, 2, 3} - set(sample.tags))})
    fitted = place.fit("known", data=exact, absent="unknown", plan=PLAN | {"epochs": 1})
    assert not any(np.isnan(each.precision) for each in fitted.promises.values())
    assert len(fitted.promises) == 4


def test_a_run_that_can_not_fit_into_memory_is_refused_before_it_starts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda plan: 40 << 20)
    with pytest.raises(Misconfigured, match=r"--batch \d+ it fits"):
        place.fit("large", what="all", plan=PLAN | {"batch": 1000})
    monkeypatch.setattr(memory, "available", lambda plan: 1 << 10)
    with pytest.raises(Misconfigured, match="GB to fit"):
        place.fit("large-head")
    monkeypatch.setattr(memory, "available", lambda plan: 4 << 20)
    with pytest.raises(Misconfigured, match="Not even one image fits; --what lora or head takes less"):
        place.fit("larger", what="all")
    assert not (place.folder / "larger.run").exists()


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"what": "lora", "parent": "compact"}, "head or all"),
        ({"parent": "timm:test_vti"}, r"no network 'test_vti'.*test_vit"),
        ({"absent": "unknown"}, "--absent negative"),
        ({"drop_labels": True}, "leave --drop-labels out"),
        ({"data": Path("/nowhere")}, "nowhere"),
        ({"groups": "video"}, "import it with --groups video"),
        ({"validation_set": "strange"}, "has no label of the training set"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(place: Place, told: dict[str, Any], sentence: str) -> None:
    if told.get("validation_set"):
        colours(place.folder / "strange", labels=("one", "two", "three", "four"))
        told = told | {"validation_set": place.folder / "strange"}
    with pytest.raises(Misconfigured, match=sentence):
        place.fit("wrong", **told)


def test_a_dual_encoder_without_labels_gets_some_and_keeps_its_text_tower(place: Place) -> None:
    parent = small_dual("siglip", place.folder / "siglip")
    made = place.fit("dual", "siglip").bundle
    assert made.labels == LABELS
    load_tagger(made.folder, device="cpu", precision="fp32").warm_up()
    assert open_text(made).space == open_text(parent).space


def test_a_captioner_gets_a_head_and_still_captions_but_does_not_learn(place: Place) -> None:
    parent = small_bundle("tag2text", place.folder / "tag2text")
    made = place.fit("captions", "tag2text").bundle
    assert made.labels == (*parent.labels, *LABELS)
    load_captioner(made.folder, device="cpu", precision="fp32").warm_up()
    with pytest.raises(Misconfigured, match="lora takes RAM, RAM"):
        place.fit("wrong", "tag2text", what="lora")


def test_the_command_shows_its_result(place: Place, tagstream: Tagstream) -> None:
    arguments = ["train", "fit", place.folder / "data", "--from", place.folder / "ram", "-o", place.folder / "told"]
    options = ["--epochs", "2", "--batch", "8", "--workers", "0", "--threads", "1"]
    out = tagstream(*arguments, *options).done
    assert "new labels" in out
    assert "unchanged to the bit" in out
    assert "striped" in out
    run = place.folder / "told.work" / "run.toml"
    again = ["train", "fit", "--run-file", run, "-o", place.folder / "retold", "--json"]
    document = tagstream(*again).json
    assert document["digest"] == Bundle.open(place.folder / "told").digest
    assert list(document["thresholds"]) == list(LABELS)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("1.png", "2.png"), "no folder for each tag.*`train import --format`"),
        (("dog/1.png", "dog/2.png"), "in a folder none or with --negatives"),
    ],
)
def test_a_folder_that_can_not_teach_is_refused_with_what_fit_takes(
    place: Place, tmp_path: Path, files: Sequence[str], sentence: str
) -> None:
    sources = iter(sorted((place.folder / "data" / "images").iterdir()))
    for name in files:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(sources), tmp_path / "photos" / name)
    with pytest.raises(Misconfigured, match=sentence) as refused:
        place.fit("refused", data=tmp_path / "photos")
    assert "--absent" not in str(refused.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has /proc")
def test_an_output_that_can_not_be_written_is_a_sentence(place: Place, tagstream: Tagstream) -> None:
    words = ["train", "fit", str(place.folder / "data"), "--from", str(place.folder / "ram"), "-o", "/proc/x"]
    assert "/proc can't be written" in tagstream(*words).fails()


def test_the_command_refuses_conflicting_options_at_once(place: Place, tagstream: Tagstream) -> None:
    assert "--from BUNDLE" in tagstream("train", "fit", "-o", place.folder / "nothing").fails()
    there = ("train", "fit", place.folder / "data", "--from", "compact", "-o", place.folder)
    assert "is no bundle" in tagstream(*there).fails()
    (place.folder / "file").touch()
    given = [place.folder / "data", "--from", place.folder / "ram", "-o", place.folder / "x"]
    assert "is no folder" in tagstream("train", "fit", *given, "--work", place.folder / "file" / "work").fails()
