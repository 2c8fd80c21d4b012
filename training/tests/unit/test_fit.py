"""From a bundle and tagged images to a bundle that knows these tags, and still knows the old ones."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tagstream_train import memory
from tagstream_train.data.samples import DataSet, write_dataset
from tagstream_train.export import card_of
from tagstream_train.fit import Fitted, fit
from tagstream_train.fit_data import FitRun
from tagstream_train.fit_measures import Row
from tagstream_train.plan import read_toml
from tests.unit.models.small import SMALL, small_bundle
from training.tests.unit.pictures import LABELS, colours
from workers.cli.app import run_command
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.load import load_tagger

pytestmark = pytest.mark.slow

PLAN = {"epochs": 15, "batch": 8, "lr": 1e-3, "threads": 1}


@dataclass(frozen=True)
class Place:
    """A folder with a training set and bundles to begin from."""

    folder: Path

    def fit(self, name: str, parent: str = "ram", plan: dict[str, Any] = PLAN, **told: Any) -> Fitted:
        start = parent if parent == "compact" or parent.startswith("timm:") else self.folder / parent
        given = {"data": self.folder / "data", "parent": start, "workers": 0, **told}
        run = FitRun.model_validate({key: _text(value) for key, value in given.items()} | {"plan": plan})
        fitted = fit(run, self.folder / name, self.folder / f"{name}.run", tell=told_nothing)
        assert fitted is not None
        return fitted


def told_nothing(doing: str, done: int, total: int | None) -> None:
    assert doing
    assert total is None or done <= total


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("fit")
    colours(folder / "data")
    small_bundle("ram", folder / "ram")
    small_bundle("ram_plus", folder / "ram_plus")
    return Place(folder)


@pytest.fixture(scope="module")
def head(place: Place) -> Fitted:
    return place.fit("head")


def _row(fitted: Fitted, labels: str) -> Row:
    (row,) = [row for row in fitted.rows if row.labels == labels]
    return row


def test_new_labels_are_learnt(head: Fitted) -> None:
    row = _row(head, "new labels")
    assert (row.count, row.before) == (4, None)
    assert row.after is not None
    assert row.after > 0.8


def test_old_labels_stay_where_they_are_and_new_ones_come_behind(place: Place, head: Fitted) -> None:
    old = Bundle.open(place.folder / "ram").labels
    assert head.bundle.labels == (*old, *LABELS)


def test_a_bundle_that_was_trained_is_like_any_other(head: Fitted) -> None:
    opened = Bundle.open(head.bundle.folder)
    opened.verify()
    load_tagger(opened.folder, device="cpu", precision="fp32").warm_up()
    assert not opened.manifest.provenance.random


def test_the_trained_tagger_tags(place: Place, head: Fitted) -> None:
    tagger = load_tagger(head.bundle.folder, device="cpu", precision="fp32")
    image = np.asarray(Image.open(place.folder / "data" / "images" / "003.png").convert("RGB"))
    (raw,) = tagger.forward([image])
    scores = dict(zip(*(part.tolist() for part in _scores(tagger.postprocess(raw))), strict=True))
    red, green, blue = (scores.get(tagger.labels.index(name), 0.0) for name in LABELS[:3])
    assert red > max(green, blue)


def _scores(found: Any) -> tuple[Any, Any]:
    return found.label_ids, found.scores


def test_a_head_that_learns_leaves_the_encoder_and_the_embeddings_alone(place: Place, head: Fitted) -> None:
    before, after = Bundle.open(place.folder / "ram").weights(), head.bundle.weights()
    same = {name for name in before if torch.equal(before[name], after[name][: len(before[name])])}
    assert {name for name in before if name.startswith(("encoder.", "image_proj."))} <= same
    assert "label_embed" in same
    assert not {name for name in before if name.startswith("head.layers.0")} <= same


def test_every_label_of_the_set_gets_a_threshold(head: Fitted) -> None:
    assert list(head.thresholds) == list(LABELS)
    assert all(0 < each.value < 1 and not each.why for each in head.thresholds.values())
    assert head.bundle.thresholds[-4:] == tuple(each.value for each in head.thresholds.values())


def test_old_labels_keep_their_thresholds(place: Place, head: Fitted) -> None:
    assert head.bundle.thresholds[:-4] == Bundle.open(place.folder / "ram").thresholds


def test_the_card_says_what_was_done(place: Place, head: Fitted) -> None:
    card = card_of(Bundle.open(head.bundle.folder))
    assert card is not None
    assert card == head.card
    assert card.parents == {"RAM": Bundle.open(place.folder / "ram").digest}
    assert card.data["absent"] == "negative"
    assert card.data["train"] == 48 - int(str(card.data["validation"]))
    assert card.metrics["map, new labels"] == _row(head, "new labels").after
    assert card.plan["what"] == "head"


def test_the_guard_keeps_old_labels(place: Place, head: Fitted) -> None:
    guarded, alone = _row(head, "other old labels"), _row(place.fit("alone", guard=0), "other old labels")
    assert guarded.truth == alone.truth == "what the bundle said before"
    assert guarded.before == pytest.approx(1)
    assert guarded.after is not None
    assert alone.after is not None
    assert guarded.after > alone.after + 0.1


def test_new_labels_alone_leave_all_else_as_it_was(place: Place) -> None:
    fitted = place.fit("labels", "ram_plus", what="labels", plan=PLAN | {"lr": 1e-2, "epochs": 8})
    before, after = Bundle.open(place.folder / "ram_plus").weights(), fitted.bundle.weights()
    assert all(torch.equal(before[name], after[name]) for name in before if name != "label_embed")
    assert torch.equal(before["label_embed"], after["label_embed"][: len(before["label_embed"])])
    old, new = _row(fitted, "other old labels"), _row(fitted, "new labels")
    assert old.after == old.before
    assert new.after is not None
    assert new.after > 0.6


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_gives_the_same_bundle(place: Place, head: Fitted) -> None:
    def stop(doing: str, done: int, total: int | None) -> None:
        if doing.startswith("training") and done == 30:
            raise Stop

    plan = PLAN | {"checkpoint_every": 7}
    run = FitRun(data=str(place.folder / "data"), parent=str(place.folder / "ram"), plan=plan, workers=0)  # type: ignore[arg-type]
    with pytest.raises(Stop):
        fit(run, place.folder / "again", place.folder / "again.run", tell=stop)
    assert not (place.folder / "again").exists()
    fitted = fit(
        read_toml(FitRun, place.folder / "again.run" / "run.toml"), place.folder / "again", place.folder / "again.run"
    )
    assert fitted is not None
    assert fitted.bundle.digest == head.bundle.digest


def test_lora_is_merged(place: Place) -> None:
    made = place.fit("lora", what="lora", rank=4, plan=PLAN | {"epochs": 4}).bundle
    before, after = Bundle.open(place.folder / "ram").weights(), made.weights()
    assert before.keys() == after.keys()
    changed = {
        name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()
    }
    assert "encoder.stages.2.blocks.1.attention.qkv.weight" in changed
    assert "encoder.stages.2.blocks.1.attention.qkv.bias" not in changed


def test_everything_may_learn(place: Place) -> None:
    made = place.fit("all", "ram_plus", what="all", plan=PLAN | {"epochs": 2, "ema": 0.5}).bundle
    before, after = Bundle.open(place.folder / "ram_plus").weights(), made.weights()
    old = before["label_embed"]
    assert torch.equal(after["label_embed"][: len(old)], old)
    assert after["label_embed"].shape[0] == len(old) + 4 * 5
    assert (after["encoder.patches.project.weight"] != before["encoder.patches.project.weight"]).any()


def test_the_compact_tagger_becomes_one_of_many_tags(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder / "cache"))
    fitted = place.fit("pocket", "compact", plan=PLAN | {"lr": 1e-2, "epochs": 8})
    assert fitted.bundle.labels == LABELS
    row = _row(fitted, "new labels")
    assert row.after is not None
    assert row.after > 0.8
    tagger = load_tagger(fitted.bundle.folder, device="cpu", precision="fp32", allow=["red", "striped"])
    (raw,) = tagger.forward([np.zeros((224, 224, 3), np.uint8)])
    assert raw.shape == (2,)


@pytest.fixture(scope="module")
def network(place: Place) -> str:
    """A small vision transformer of timm, which begins with random weights."""
    import timm  # here, because it takes seconds to load

    torch.manual_seed(0)
    weights = timm.create_model("test_vit").state_dict()
    save_file(weights, place.folder / "vit.safetensors")
    return f"timm:test_vit@{place.folder / 'vit.safetensors'}"


@pytest.mark.parametrize("what", ["head", "lora", "all"])
def test_a_network_of_timm_learns(place: Place, network: str, what: str) -> None:
    fitted = place.fit(f"timm-{what}", network, what=what, plan=PLAN | {"epochs": 2})
    assert fitted.bundle.labels == LABELS
    parent = Bundle.open(place.folder / f"timm-{what}.run" / "parent")
    before, after = parent.weights(), fitted.bundle.weights()
    assert before.keys() == after.keys()
    layer = "blocks.0.attn.qkv"
    assert [(before[f"{layer}.{name}"] != after[f"{layer}.{name}"]).any() for name in ("weight", "bias")] == {
        "head": [False, False],
        "lora": [True, False],
        "all": [True, True],
    }[what]
    tagger = load_tagger(fitted.bundle.folder, device="cpu", precision="fp32", allow=["red", "striped"])
    tagger.warm_up()
    (raw,) = tagger.forward([tagger.self_test_image()])
    assert raw.shape == (2,)


def test_a_network_that_timm_does_not_know_is_a_sentence(place: Place) -> None:
    with pytest.raises(Misconfigured, match=r"no network 'test_vti'.*test_vit"):
        place.fit("typo", "timm:test_vti")


def test_embeddings_of_new_labels_stay_as_they_were_given(place: Place) -> None:
    width = SMALL["ram"].embedding  # type: ignore[union-attr]
    given = torch.nn.functional.normalize(torch.randn(width, generator=torch.Generator().manual_seed(3)), dim=0)
    save_file({"green": given, "unused": -given}, place.folder / "embeddings.safetensors")
    made = place.fit("embedded", embeddings=place.folder / "embeddings.safetensors", plan=PLAN | {"epochs": 1}).bundle
    rows = made.weights()["label_embed"][-4:]
    assert [torch.allclose(row, given) for row in rows] == [False, True, False, False]


def test_a_replay_set_guards_old_labels_and_measures_them(place: Place) -> None:
    old = Bundle.open(place.folder / "ram").labels[:4]
    colours(place.folder / "replay", labels=old, seed=1)
    row = _row(place.fit("replayed", replay=place.folder / "replay", guard=0), "other old labels")
    assert (row.count, row.truth) == (4, "the replay set's tags")
    assert row.before is not None
    assert row.after is not None
    assert row.after > row.before


def test_labels_that_the_bundle_knows_are_trained_further(place: Place) -> None:
    names = (*Bundle.open(place.folder / "ram").labels[:2], "blue", "striped")
    colours(place.folder / "mixed", labels=names)
    fitted = place.fit("further", data=place.folder / "mixed", plan=PLAN | {"epochs": 1})
    assert len(fitted.bundle.labels) == 62
    assert _row(fitted, "labels trained further").before is not None


def test_annotations_of_other_formats_are_read(place: Place) -> None:
    lines = ["image,tags"]
    for sample in DataSet(place.folder / "data"):
        lines.append(f"{sample.image},{'|'.join(LABELS[tag] for tag in sample.tags)}")
    table = place.folder / "data" / "table.csv"
    table.write_text("\n".join(lines))
    fitted = place.fit("from-csv", data=table, plan=PLAN | {"epochs": 1})
    assert sorted(fitted.bundle.labels[-4:]) == sorted(LABELS)
    table.write_text("\n".join(lines[:-5]))
    with pytest.raises(Misconfigured, match="choose another folder"):
        place.fit("from-csv", data=table, plan=PLAN | {"epochs": 1})


def test_a_label_with_too_few_images_gets_no_threshold_of_its_own(place: Place) -> None:
    fitted = place.fit("few", least_positives=40, plan=PLAN | {"epochs": 1})
    assert {each.value for each in fitted.thresholds.values()} == {0.5}
    assert fitted.card.thresholds["not_chosen"] == list(LABELS)


def test_what_says_nothing_of_absence_is_refused(place: Place) -> None:
    with pytest.raises(Misconfigured, match="--absent negative"):
        place.fit("unknown", absent="unknown")


def test_known_absence_is_enough(place: Place) -> None:
    samples = [
        sample.model_copy(update={"absent": tuple({0, 1, 2, 3} - set(sample.tags))})
        for sample in DataSet(place.folder / "data")
    ]
    shutil.copytree(place.folder / "data", place.folder / "exact")
    write_dataset(place.folder / "exact", samples, LABELS, name="exact")
    fitted = place.fit("known", data=place.folder / "exact", absent="unknown", plan=PLAN | {"epochs": 1})
    assert fitted.summary.measured == 4


def test_what_can_not_fit_into_memory_is_refused_before_it_starts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda plan: 20 << 20)
    with pytest.raises(Misconfigured, match=r"--batch \d+ it fits"):
        place.fit("large", what="all", plan=PLAN | {"batch": 1000})
    monkeypatch.setattr(memory, "available", lambda plan: 1 << 20)
    with pytest.raises(Misconfigured, match="Not even one image fits; --what lora or head takes less"):
        place.fit("larger", what="all")
    assert not (place.folder / "larger.run").exists()


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"what": "lora", "parent": "compact"}, "head or all"),
        ({"what": "labels", "parent": "compact"}, "as RAM and RAM.. have"),
        ({"data": Path("/nowhere")}, "nowhere"),
        ({"replay": "data"}, "which neither the bundle nor the training set has"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(
    place: Place, told: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder / "cache"))
    if told.get("replay"):
        colours(place.folder / "strange", labels=("one", "two", "three", "four"))
        told = {"replay": place.folder / "strange"}
    with pytest.raises(Misconfigured, match=sentence):
        place.fit("wrong", **told)


def test_a_captioner_is_refused(place: Place) -> None:
    small_bundle("tag2text", place.folder / "tag2text")
    with pytest.raises(Misconfigured, match="takes RAM, RAM"):
        place.fit("wrong", "tag2text")


def test_the_command_shows_what_came_of_it(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "fit", place.folder / "data", "--from", place.folder / "ram", "-o", place.folder / "told"]
    options = ["--epochs", "2", "--batch", "8", "--workers", "0", "--threads", "1"]
    assert run_command([*map(str, arguments), *options]) == 0
    out = capsys.readouterr().out
    assert "new labels" in out
    assert "what the bundle said before" in out
    assert "striped" in out
    run = place.folder / "told.work" / "run.toml"
    again = ["train", "fit", "--run-file", run, "-o", place.folder / "retold", "--json"]
    assert run_command([*map(str, again)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["digest"] == Bundle.open(place.folder / "told").digest
    assert list(document["thresholds"]) == list(LABELS)


def test_the_command_refuses_what_it_can_not_do_at_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", "fit", "-o", str(place.folder / "nothing")]) == 2
    assert "--from BUNDLE" in capsys.readouterr().err
    assert run_command(["train", "fit", str(place.folder / "data"), "--from", "compact", "-o", str(place.folder)]) == 2
    assert "is no bundle" in capsys.readouterr().err
