"""Pre-training from a set to a bundle that tags and captions."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tagstream_train import memory
from tagstream_train.data.images import Images
from tagstream_train.data.samples import DataSet, write_dataset
from tagstream_train.export import card_of
from tagstream_train.loop import Progress
from tagstream_train.plan import read_toml, toml_of
from tagstream_train.pretrain.recipes import Model, Run, recipe
from tagstream_train.pretrain.run import RUN, Pretrained, pretrain, write_bundle
from tagstream_train.pretrain.start import fresh, load_bundle
from tests.support.command import Tagstream
from tests.unit.models.small import small_bundle
from training.tests.unit.drawings import LABELS, drawings, pixels, tiny_run
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.load import load_captioner, load_tagger
from workers.ports import Captioner

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return drawings(tmp_path_factory.mktemp("drawings") / "set")


def _bundle(made: Pretrained, out: Path) -> Bundle:
    return write_bundle(made, out, Images(made.dataset.folder), workers=0)


def test_a_tiny_model_learns_eight_drawings_and_its_bundle_tags_them(dataset: DataSet, tmp_path: Path) -> None:
    made = pretrain(dataset, tiny_run("ram-plus", steps=60), tmp_path / "work", workers=0)
    bundle = _bundle(made, tmp_path / "bundle")
    bundle.verify()
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    tagger.warm_up()  # its golden answers are its own
    for sample, row in zip(dataset, tagger.forward(pixels(dataset)), strict=True):
        scores = tagger.postprocess(row)
        shown = [
            i
            for i, s in zip(scores.label_ids.tolist(), scores.scores.tolist(), strict=True)
            if s > tagger.thresholds[i]
        ]
        assert tuple(shown) == sample.tags
    card = card_of(bundle)
    assert card is not None
    assert (card.command, card.steps, card.images, card.metrics) == ("train pretrain", 60, 480, {})
    assert card.thresholds["chosen_on"] == "the training images"


def test_a_tiny_captioner_learns_to_follow_its_tags(tmp_path: Path) -> None:
    dataset = drawings(tmp_path / "set", 4)
    made = pretrain(
        dataset, tiny_run("tag2text", steps=50, plan={"batch": 4, "lr": 8e-3}), tmp_path / "work", workers=0
    )
    bundle = _bundle(made, tmp_path / "bundle")
    captioner = load_captioner(bundle.folder, device="cpu", precision="fp32")
    assert isinstance(captioner, Captioner)
    guides = [captioner.guide([LABELS[i] for i in sample.tags]) for sample in dataset]
    captions = [captioner.postprocess(raw).text for raw in captioner.forward(pixels(dataset), guides)]
    for sample, caption in zip(dataset, captions, strict=True):
        assert caption == sample.captions[0]


def test_stages_grow_and_a_finished_run_gives_its_weights_again(dataset: DataSet, tmp_path: Path) -> None:
    run = tiny_run("ram-plus", steps=3, stages=(32, 64), val=0.4)
    told: list[tuple[int, int]] = []

    def report(stage: int, progress: Progress) -> None:
        told.append((stage, progress.step))

    first = pretrain(dataset, run, tmp_path, workers=0, report=report)
    assert told == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    assert (first.config.encoder.image_size, first.config.encoder.window) == (64, 8)
    assert len(first.seen) + len(first.held) == 8
    again = pretrain(dataset, run, tmp_path, workers=0)
    weights = first.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())
    assert card_of(_bundle(again, tmp_path / "bundle")).metrics.keys() == {"mAP", "precision", "recall"}  # type: ignore[union-attr]
    with pytest.raises(Misconfigured, match="holds another run"):
        pretrain(dataset, run.seeded(7), tmp_path, workers=0)


def test_rams_captioning_branch_is_kept_for_further_training(dataset: DataSet, tmp_path: Path) -> None:
    made = pretrain(dataset, tiny_run("ram", steps=1), tmp_path / "one", workers=0)
    kept = write_bundle(made, tmp_path / "kept", Images(dataset.folder), workers=0, keep_captioner=True)
    load_tagger(kept.folder, device="cpu", precision="fp32").warm_up()
    run = tiny_run("ram", steps=1, start=str(kept.folder)).sized_as(kept.manifest.kind, kept.manifest.architecture)
    model = fresh(run.config(len(dataset.labels)), seed=1)
    assert load_bundle(model, kept, dataset.labels) == []
    assert kept.vocabulary.read_bytes() == made.vocabulary


def test_images_of_the_authors_other_parts_do_not_teach(dataset: DataSet, tmp_path: Path) -> None:
    parts = ("train", "test", "val", None, None, None, None, None)
    samples = [sample.model_copy(update={"part": part}) for sample, part in zip(dataset, parts, strict=True)]
    shutil.copytree(dataset.folder / "images", tmp_path / "set/images")
    divided = write_dataset(tmp_path / "set", samples, LABELS, name="divided")
    made = pretrain(divided, tiny_run("ram-plus", steps=1, val=0), tmp_path / "work", workers=0)
    assert (len(made.seen), [sample.image for sample in made.held]) == (6, ["images/2.png"])


def test_labels_that_a_bundle_does_not_know_must_be_given(dataset: DataSet, tmp_path: Path) -> None:
    first = _bundle(pretrain(dataset, tiny_run("ram", steps=1), tmp_path / "one", workers=0), tmp_path / "first")
    assert first.manifest.architecture["text"] is None
    (dataset.folder / "tags.txt").rename(tmp_path / "tags.txt")
    (dataset.folder / "tags.txt").write_text("red\nblue\ncircle\ntriangle\n")
    try:
        other = DataSet(dataset.folder)
        run = tiny_run("ram", steps=1, start=str(first.folder))
        with pytest.raises(Misconfigured, match=r"no embedding of 1 label of the set, e\.g\. 'triangle'"):
            pretrain(other, run, tmp_path / "two", workers=0)
        save_file({"labels": torch.eye(4, 512)}, tmp_path / "labels.safetensors")
        given = run.model_copy(update={"label_embeddings": str(tmp_path / "labels.safetensors")})
        made = pretrain(other, given, tmp_path / "two", workers=0)
        assert torch.equal(made.model.state_dict()["label_embed"], torch.eye(4, 512))
    finally:
        (tmp_path / "tags.txt").replace(dataset.folder / "tags.txt")


def test_features_must_cover_the_set_before_anything_is_trained(dataset: DataSet, tmp_path: Path) -> None:
    samples = list(dataset)
    images = {sample.sha256 or "": torch.ones(512) for sample in samples}
    texts = {caption: torch.eye(1, 512)[0] for sample in samples for caption in sample.captions}
    save_file(images, tmp_path / "images.safetensors")
    save_file(texts, tmp_path / "texts.safetensors")
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("images", "texts")}
    run = tiny_run("ram-plus", steps=1, image_features=files["images"], text_features=files["texts"])
    made = pretrain(dataset, run, tmp_path / "work", workers=0)
    assert made.losses.keys() == {"tagging", "distillation", "alignment", "total"}

    images.popitem()
    save_file(images, tmp_path / "images.safetensors")
    with pytest.raises(Misconfigured, match=r"no features of images/\d.png"):
        pretrain(dataset, run, tmp_path / "other", workers=0)
    texts.popitem()
    save_file(texts, tmp_path / "texts.safetensors")
    run = run.model_copy(update={"image_features": None})
    with pytest.raises(Misconfigured, match=r"no features of the caption 'a .*' \(images/"):
        pretrain(dataset, run, tmp_path / "other", workers=0)
    assert not (tmp_path / "other").exists()


def test_what_does_not_fit_into_memory_is_not_begun(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda plan: 1 << 20)
    with pytest.raises(Misconfigured, match=r"32 pixels takes about \d+ MiB of 1 MiB .* Set its batch to 1 "):
        pretrain(dataset, tiny_run("ram-plus", steps=1), tmp_path, workers=0)
    assert not (tmp_path / "stage-1").exists()


@pytest.mark.parametrize(("model", "name"), [("tag2text", "image_features"), ("ram", "text_features")])
def test_features_that_a_model_does_not_learn_from_are_refused(
    model: Model, name: str, dataset: DataSet, tmp_path: Path
) -> None:
    run = tiny_run(model, steps=1).model_copy(update={name: "features.safetensors"})
    with pytest.raises(Misconfigured, match=r"only RAM|takes no image features"):
        pretrain(dataset, run, tmp_path, workers=0)


@pytest.mark.parametrize("model", ["ram", "ram-plus", "tag2text"])
@pytest.mark.parametrize("name", ["tiny", "small", "paper"])
def test_a_recipe_is_a_file_that_reads_as_the_same_run(model: Model, name: str, tmp_path: Path) -> None:
    run = recipe(name, model)  # type: ignore[arg-type]
    (tmp_path / RUN).write_text(toml_of(run))
    assert read_toml(Run, tmp_path / RUN) == run


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model = 'ram'\n[", "is not TOML"),
        ("model = 'clip'", "model: "),
        ("model = 'ram'\nsizes = {}\nstages = [{image_size = 64, plan = {epochs = 1}}]", "architecture of this ram"),
        ("\xff", "is not TOML|can't be read"),
    ],
)
def test_a_wrong_run_is_a_sentence(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / RUN).write_bytes(text.encode("latin-1"))
    with pytest.raises(Misconfigured, match=complaint):
        read_toml(Run, tmp_path / RUN)


# the command


def test_the_command_repeats_a_run_from_its_file(dataset: DataSet, tmp_path: Path, tagstream: Tagstream) -> None:
    (tmp_path / "run.toml").write_text(toml_of(tiny_run("ram-plus", steps=2, val=0.4)))
    pretrains = ["train", "pretrain", str(dataset.folder), "--workers", "0"]
    run = [*pretrains, "--run-file", str(tmp_path / "run.toml"), "-o"]
    assert "images held back" in tagstream(*run, tmp_path / "one").done
    written = tmp_path / "one.work" / RUN
    told = tagstream(*pretrains, "--run-file", written, "-o", tmp_path / "two", "--json").json
    assert told["digest"] == Bundle.open(tmp_path / "one").digest
    assert told["steps"] == 2


@pytest.mark.timeout(600)  # three processes that import torch
def test_two_processes_see_twice_the_images_and_write_one_bundle(dataset: DataSet, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(toml_of(tiny_run("ram-plus", steps=2, plan={"batch": 4})))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "workers"]
    pretrains = ["train", "pretrain", dataset.folder, "--workers", "0", "--run-file", tmp_path / "run.toml"]
    command = [*torchrun, *map(str, pretrains), "-o", str(tmp_path / "bundle"), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(tmp_path / "bundle")
    assert json.loads(done.stdout)["digest"] == bundle.digest  # one process speaks
    card = card_of(bundle)
    assert card is not None
    assert (card.steps, card.images) == (2, 16)


def test_a_recipe_is_shown_with_the_command_lines_options(
    dataset: DataSet, tmp_path: Path, tagstream: Tagstream
) -> None:
    small_bundle("ram", tmp_path / "ram")
    options = ["--model", "ram-plus", "--recipe", "tiny", "--seed", "7", "--from", str(tmp_path / "ram"), "--show"]
    text = tagstream("train", "pretrain", dataset.folder, "-o", tmp_path / "x", *options).done
    (tmp_path / "shown.toml").write_text(text)
    shown = read_toml(Run, tmp_path / "shown.toml")
    assert (shown.model, shown.stages[0].plan.seed, shown.start) == ("ram-plus", 7, str(tmp_path / "ram"))
    assert shown.sizes["encoder"]["depths"] == [1, 1, 2, 1]  # the bundle's
    assert not (tmp_path / "x").exists()


def test_what_to_train_must_be_said(dataset: DataSet, tmp_path: Path, tagstream: Tagstream) -> None:
    (tmp_path / "run.toml").write_text(toml_of(tiny_run("ram-plus", steps=2)))
    pretrains = ["train", "pretrain", str(dataset.folder), "-o", str(tmp_path / "x")]
    assert "Say what to train" in tagstream(*pretrains).fails()
    assert "trains ram-plus" in tagstream(*pretrains, "--run-file", tmp_path / "run.toml", "--model", "ram").fails()
