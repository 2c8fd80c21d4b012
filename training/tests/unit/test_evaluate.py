"""`tagstream train evaluate`: a bundle against data that its own answers were made the truth of."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tagstream_train.data.formats import Request
from tagstream_train.evaluate import benchmark_of, benchmarks, caption, label_columns, open_data, score_tags
from tests.support.command import Tagstream
from tests.unit.models.small import small_bundle
from training.tests.unit.pictures import BROKEN
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.load import load_captioner, load_tagger
from workers.models.tagger import sample_image
from workers.ports import Captioner, Tagger

pytestmark = pytest.mark.slow

Evaluate = Callable[..., Any]
IMAGES = 6


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(IMAGES):
        Image.fromarray(sample_image(64, seed)).save(tmp_path / f"{seed}.png")
    return tmp_path


@pytest.fixture
def evaluate(tagstream: Tagstream) -> Evaluate:
    return lambda *arguments: tagstream("train", "evaluate", *arguments, "--device", "cpu", "--json").json


def tagger_of(bundle: Bundle) -> Tagger:
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    tagger.floor = 0.0
    return tagger


def scores(tagger: Tagger) -> np.ndarray[Any, Any]:
    images = [sample_image(64, seed) for seed in range(IMAGES)]
    return np.stack([tagger.postprocess(raw).scores for raw in tagger.forward(images)])


def csv(folder: Path, rows: Sequence[Sequence[str]]) -> Path:
    path = folder / "data.csv"
    path.write_text("image,tags\n" + "".join(f"{n}.png,{'|'.join(tags)}\n" for n, tags in enumerate(rows)))
    return path


def own_answers(bundle: Bundle, labels: Sequence[int], folder: Path) -> Path:
    """A table in which the three images with the highest scores for a label have it."""
    found = scores(tagger_of(bundle))
    best = {label: set(np.argsort(-found[:, label])[:3].tolist()) for label in labels}
    return csv(folder, [[bundle.labels[label] for label in labels if n in best[label]] for n in range(IMAGES)])


def test_a_model_agrees_with_its_own_answers(ram: Bundle, photos: Path, evaluate: Evaluate) -> None:
    result = evaluate(ram.folder, own_answers(ram, (3, 7, 50), photos))
    assert result["map"] == pytest.approx(1)
    assert [row["label"] for row in result["labels"]] == sorted(ram.labels[label] for label in (3, 7, 50))
    assert (result["images"], result["measured_labels"], result["skipped"]) == (IMAGES, 3, {})


def test_scores_below_the_floor_are_ranked_too(ram: Bundle, photos: Path) -> None:
    data = open_data(Request(own_answers(ram, (3,), photos)))
    tagger = load_tagger(ram.folder, device="cpu", precision="fp32")
    tagger.floor = 0.999
    tagged = score_tags(tagger, data)
    np.testing.assert_allclose(tagged.scores[:, 0], scores(tagger_of(ram))[:, 3], atol=1e-6)


def test_one_threshold_for_all_labels_takes_the_place_of_the_bundles(
    ram: Bundle, photos: Path, evaluate: Evaluate
) -> None:
    data = own_answers(ram, (3, 7), photos)
    assert evaluate(ram.folder, data, "--threshold", 0)["recall"] == pytest.approx(1)
    assert evaluate(ram.folder, data, "--threshold", 0)["precision"] == pytest.approx(0.5)
    assert evaluate(ram.folder, data, "--threshold", 1)["recall"] == 0


def test_labels_that_the_model_does_not_have_are_named(ram: Bundle, photos: Path, evaluate: Evaluate) -> None:
    result = evaluate(ram.folder, csv(photos, [[ram.labels[3], "no such label"]] * 3 + [[]] * 3))
    assert result["unknown_labels"] == ["no such label"]
    assert [row["label"] for row in result["labels"]] == [ram.labels[3]]


def test_images_that_cannot_be_used_do_not_count(ram: Bundle, photos: Path, evaluate: Evaluate) -> None:
    data = own_answers(ram, (3,), photos)
    (photos / "2.png").write_bytes(BROKEN)
    result = evaluate(ram.folder, data)
    assert (result["images"], list(result["skipped"])) == (IMAGES - 1, ["2.png"])


def test_an_absent_tag_is_negative_or_unknown(ram: Bundle, photos: Path, evaluate: Evaluate) -> None:
    label = ram.labels[3]
    path = photos / "data.csv"
    path.write_text(f"image,{label}\n0.png,1\n1.png,0\n2.png,\n3.png,\n")
    negative, unknown = (
        evaluate(ram.folder, path, "--threshold", 0, "--absent", way) for way in ("negative", "unknown")
    )
    assert negative["precision"] == pytest.approx(1 / 4)
    assert unknown["precision"] == pytest.approx(1 / 2)


@pytest.mark.parametrize(("kind", "rows"), [("ram", 2), ("ram_plus", 6)])
def test_new_labels_come_in_by_embeddings(
    tmp_path: Path, photos: Path, evaluate: Evaluate, kind: Any, rows: int
) -> None:
    bundle = small_bundle(kind, tmp_path / "bundles" / kind)
    width = bundle.weights()["label_embed"].shape[1]
    embeddings = torch.nn.functional.normalize(
        torch.randn(rows, width, generator=torch.Generator().manual_seed(0)), dim=1
    )
    save_file({"embeddings": embeddings}, tmp_path / "new.safetensors")
    data = csv(photos, [["new one"], ["new two"]] * 3)
    result = evaluate(bundle.folder, data, "--embeddings", tmp_path / "new.safetensors")
    assert [row["label"] for row in result["labels"]] == ["new one", "new two"]
    assert {row["threshold"] for row in result["labels"]} == {0.5}
    assert result["map"] is not None


def test_a_set_of_ids_is_measured_by_ids(ram: Bundle) -> None:
    assert label_columns(ram.labels, ["7", "59"]) == {0: 7, 1: 59}
    with pytest.raises(Misconfigured, match="none of the 2 labels"):
        label_columns(ram.labels, ["7", "60"])
    assert label_columns(["a", "b", "a"], ["x", "a"]) == {1: 0}


def test_an_official_file_is_measured_with_the_papers_numbers(ram: Bundle, photos: Path, tagstream: Tagstream) -> None:
    first, second = ram.labels[:2]
    (photos / "openimages_common_214_ram_taglist.txt").write_text(f"{first}\n{second}\n")
    lines = [f"{number},{first}" for number in range(3)] + [f"{number}" for number in range(3, 5)] + [f"5,{second}"]
    data = photos / "openimages_common_214_ram_annots.txt"
    data.write_text("\n".join(lines) + "\n")
    captured = tagstream("train", "evaluate", ram.folder, data, "--device", "cpu")
    assert "6 images" in captured.done
    assert "RAM-14M (Swin-L)" in captured.out
    assert "86.5" in captured.out
    assert first in captured.out
    assert "--threshold 0.86" in captured.err


def test_the_papers_numbers_are_found_by_the_official_names() -> None:
    known = benchmarks()
    assert {name: benchmark_of(each.files + "_annots.txt") for name, each in known.items()} == known
    assert benchmark_of("mine.csv") is None


def captioner_of(bundle: Bundle) -> Captioner:
    return load_captioner(bundle.folder, device="cpu", precision="fp32")


def test_captions_are_compared_with_the_datas_captions(tag2text: Bundle, photos: Path, evaluate: Evaluate) -> None:
    captioner, tagger = captioner_of(tag2text), load_tagger(tag2text.folder, device="cpu", precision="fp32")
    rows = [{"image_path": f"{number}.png", "caption": ["some words"]} for number in range(3)]
    (photos / "captions.json").write_text(json.dumps(rows))
    first = caption(captioner, tagger, open_data(Request(photos / "captions.json")))
    rows = [{"image_path": image, "caption": [text, "something else"]} for image, text in first.captions]
    (photos / "captions.json").write_text(json.dumps([*rows, {"image_path": "4.png"}]))
    how = (tag2text.folder, photos / "captions.json", "--task", "captions")
    result = evaluate(*how)
    assert result["bleu"] == pytest.approx([1, 1, 1, 1])
    assert result["captions"] == dict(first.captions)
    assert set(evaluate(*how, "--tags", "none")["captions"]) == set(result["captions"])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--task", "captions"], "writes no captions; Tag2Text does"), (["--format", "coco"], "Invalid JSON")],
)
def test_what_cannot_be_measured_is_a_sentence(
    ram: Bundle, photos: Path, options: list[str], complaint: str, tagstream: Tagstream
) -> None:
    data = csv(photos, [[ram.labels[0]]])
    assert complaint in tagstream("train", "evaluate", ram.folder, data, *options).fails()
