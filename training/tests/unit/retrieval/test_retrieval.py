"""Retrieval: recall against a literal count, kept features, the command, and fine-tuning."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tagstream_train import evaluate as evaluating
from tagstream_train import memory
from tagstream_train.data.formats import Request
from tagstream_train.data.images import Images
from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tagstream_train.evaluate import Opened, benchmarks, open_data
from tagstream_train.export import card_of
from tagstream_train.plan import Plan
from tagstream_train.pretrain.alignment import Contrast, new_part
from tagstream_train.pretrain.run import pretrain
from tagstream_train.pretrain.start import fresh
from tagstream_train.retrieval.finetune import retrieval_run
from tagstream_train.retrieval.measure import Both, Measured, measure, rank
from tests.support.command import Tagstream
from tests.unit.models.small import small_bundle
from tests.unit.models.test_alignment import aligned_bundle
from training.tests.unit.pictures import BROKEN
from workers.errors import Misconfigured
from workers.models.bundle import ALIGNMENT, Bundle
from workers.models.files import sha256_of
from workers.models.ram.alignment import Alignment, beside_of, load_alignment
from workers.models.ram.config import HeadConfig, SwinConfig, Tag2TextConfig, TextConfig
from workers.models.ram.importer import random_bundle
from workers.models.ram.networks import Tag2Text
from workers.models.ram.wordpiece import WordPiece
from workers.models.tagger import sample_image

pytestmark = pytest.mark.slow

IMAGES = 7
CAPTIONS = [
    [f"a {word} dog {number}" for word in ("red", "small", "wet")[: 1 + number % 3]] for number in range(IMAGES)
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return aligned_bundle(tmp_path_factory.mktemp("aligned") / "bundle")


@pytest.fixture(scope="module")
def alignment(bundle: Bundle) -> Alignment:
    return load_alignment(bundle, threads=1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(IMAGES):
        Image.fromarray(sample_image(64, number)).save(tmp_path / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": captions} for number, captions in enumerate(CAPTIONS)]
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps(rows))
    return tmp_path / "coco_karpathy_test.json"


def measured(bundle: Bundle, alignment: Alignment, data: Path, k: int | None = 3, tags: bool = True) -> Measured:
    how = {"batch": 3, "threads": 1, "tell": lambda *_: None}
    return measure(bundle, alignment, open_data(Request(data)), k=k, tags=tags, **how)  # type: ignore[arg-type]


def literal(bundle: Bundle, alignment: Alignment, k: int, tags: bool) -> tuple[Both, Both]:
    """Recall by vectors and re-ranked, by sorting all pairs, all of them matched."""
    parts = alignment.images([sample_image(64, number) for number in range(IMAGES)])
    texts = [text for row in CAPTIONS for text in row]
    owner = [number for number, row in enumerate(CAPTIONS) for _ in row]
    near = parts.units @ alignment.sentences(texts).T
    pairs = torch.cartesian_prod(torch.arange(IMAGES), torch.arange(len(texts)))
    matching = alignment.match(parts, texts, pairs, tags=tags).view(near.shape)

    def hits(order: Callable[[Tensor, Tensor], list[int]]) -> Both:
        places: tuple[list[int], list[int]] = ([], [])
        for image in range(IMAGES):
            found = [owner[text] for text in order(near[image], matching[image])]
            places[0].append(found.index(image))
        for text in range(len(texts)):
            places[1].append(order(near[:, text], matching[:, text]).index(owner[text]))
        first, second = (tuple(sum(p < depth for p in each) / len(each) for depth in (1, 5, 10)) for each in places)
        return first, second

    def by_vectors(near: Tensor, _: Tensor) -> list[int]:
        return sorted(range(len(near)), key=lambda n: -float(near[n]))

    def anew(near: Tensor, matching: Tensor) -> list[int]:
        first = by_vectors(near, matching)
        return sorted(first[:k], key=lambda n: -float(near[n] + matching[n])) + first[k:]

    return hits(by_vectors), hits(anew)


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("k", [1, 4, 256])
def test_recall_equals_that_of_all_pairs_sorted(
    bundle: Bundle, alignment: Alignment, data: Path, k: int, tags: bool
) -> None:
    found = measured(bundle, alignment, data, k, tags)
    contrast, reranked = literal(bundle, alignment, k, tags)
    assert (found.images, found.captions, found.skipped) == (IMAGES, sum(map(len, CAPTIONS)), {})
    assert found.reranked is not None
    np.testing.assert_allclose([*found.contrast, *found.reranked], [*contrast, *reranked])


def test_ties_and_invalid_numbers_count_against_the_model() -> None:
    scores = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 0], [torch.nan] * 4, [0.5, torch.nan, 0, 0]])
    right = torch.tensor([[0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    assert rank(scores, right).tolist() == [2, 1, 3, 1]


def test_a_second_run_decodes_nothing_and_another_caption_is_another_set(
    bundle: Bundle, alignment: Alignment, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data.parent / "3.png").write_bytes(BROKEN)
    first = measured(bundle, alignment, data)
    with monkeypatch.context() as patch:
        patch.setattr(Images, "decode", None)
        patch.setattr(alignment, "images", None)
        patch.setattr(alignment, "sentences", None)
        again = measured(bundle, alignment, data)
    assert (again.contrast, again.reranked, again.skipped) == (first.contrast, first.reranked, first.skipped)
    assert list(again.skipped) == ["3.png"]
    assert (again.images, again.captions) == (IMAGES - 1, sum(map(len, CAPTIONS)) - 1)
    data.write_text(data.read_text().replace("wet dog 2", "dry dog 2"))
    monkeypatch.setattr(alignment, "images", None)
    with pytest.raises(TypeError):
        measured(bundle, alignment, data)


def test_a_damaged_file_of_features_is_made_again(bundle: Bundle, alignment: Alignment, data: Path) -> None:
    first = measured(bundle, alignment, data)
    (kept,) = data.parent.glob("cache/tagstream/features/*.safetensors")
    kept.write_bytes(kept.read_bytes()[:300])
    assert measured(bundle, alignment, data).contrast == first.contrast


def test_only_the_part_test_is_measured(bundle: Bundle, alignment: Alignment, data: Path) -> None:
    table = data.with_name("t.csv")
    table.write_text("image,caption,split\n0.png,a dog,test\n0.png,a cat,test\n1.png,a bee,train\n2.png,an ant,\n")
    found = measured(bundle, alignment, table, None)
    assert (found.images, found.captions, found.reranked) == (1, 2, None)
    assert found.contrast == ((1, 1, 1), (1, 1, 1))


def test_tokens_that_do_not_fit_the_memory_are_refused(
    bundle: Bundle, alignment: Alignment, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda _: 1000)
    with pytest.raises(Misconfigured, match="tokens of 7 images take"):
        measured(bundle, alignment, data)


@pytest.fixture
def run(bundle: Bundle, tagstream: Tagstream) -> Callable[..., Any]:
    command, on = ("train", "evaluate", bundle.folder), ("--task", "retrieval", "--device", "cpu")
    return lambda *arguments: tagstream(*command, *arguments, *on).done


def test_the_papers_row_stands_below_its_own_images_alone(
    run: Callable[..., Any], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Tag2Text-Swin 14M" not in run(data)
    coco = benchmarks()["coco-retrieval"]
    monkeypatch.setitem(evaluating.benchmarks(), "coco-retrieval", coco.model_copy(update={"images": IMAGES}))
    shown = run(data, "--k", 3)
    for said in ("Tag2Text-Swin 14M", "79.0", "61.3", "best 3 re-ranked", "7 images and 13 captions"):
        assert said in shown
    document = json.loads(run(data, "--no-rerank", "--tags", "none", "--json"))
    assert document["reranked"] is None
    assert [len(hits) for hits in document["contrast"]] == [3, 3]
    assert [row.get("text_to_image") for row in document["papers"]] == [None, 61.3]


def test_what_retrieval_cannot_measure_is_a_sentence(
    data: Path, bundle: Bundle, tmp_path: Path, tagstream: Tagstream
) -> None:
    plain, table = small_bundle("tag2text", tmp_path / "plain").folder, tmp_path / "t.csv"
    table.write_text("image,caption\n0.png,\n")
    for folder, given, complaint in (
        (plain, data, "no alignment part"),
        (bundle.folder, table, "no captions"),
        (bundle.folder, data.with_name("gone.json"), "does not exist"),
    ):
        words = ["train", "evaluate", str(folder), str(given), "--task", "retrieval"]
        assert complaint in tagstream(*words).fails()
    for number in range(IMAGES):
        (tmp_path / f"{number}.png").write_bytes(BROKEN)
    said = tagstream("train", "evaluate", bundle.folder, data, "--task", "retrieval").fails()
    assert "None of 7 images can be used" in said


# fine-tuning

WALLS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "black": (0, 0, 0),
         "white": (255, 255, 255), "yellow": (230, 230, 10)}  # fmt: skip
_TINY = Tag2TextConfig(
    SwinConfig(image_size=32, width=16, depths=(1, 2), heads=(1, 2), window=4),
    labels=4,
    head=HeadConfig(width=48, heads=4, layers=2, hidden=96),
    text=TextConfig(width=48, heads=4, layers=2, hidden=96, positions=64),
)


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Walls of six colours, each with two captions, and one that is kept for tests."""
    folder = tmp_path_factory.mktemp("walls")
    samples = []
    for name, colour in WALLS.items():
        Image.new("RGB", (32, 32), colour).save(folder / f"{name}.png")
        sha256 = sha256_of(folder / f"{name}.png")
        samples.append(Sample(image=f"{name}.png", captions=(f"a {name} wall", f"all is {name}"), sha256=sha256))
    samples.append(Sample(image="red.png", captions=("kept apart",), sha256="0" * 64, part="test"))
    return write_dataset(folder, samples, (), name="walls")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("start")
    plain = random_bundle("tag2text", folder / "plain", seed=0, dtype="fp32", config=_TINY)
    network = fresh(_TINY, seed=1)
    return Bundle.write(
        folder / "start",
        plain.manifest.model_copy(update={"thresholds": (0.1, 0.9, 0.5, 0.5)}),
        weights=network.state_dict(),
        labels=plain.labels,
        vocabulary=plain.vocabulary.read_bytes(),
        beside=beside_of(new_part(network, None, seed=2, tags=True)),
    )


def found_first(bundle: Bundle, walls: DataSet) -> float:
    data = open_data(Request(walls.folder))
    data = Opened(data.name, data.samples[: len(WALLS)], data.labels, data.images)
    found = measure(bundle, load_alignment(bundle), data, k=None, tags=True, batch=6, threads=1, tell=lambda *_: None)
    return (found.contrast[0][0] + found.contrast[1][0]) / 2


@pytest.mark.timeout(300)  # ten seconds of one processor
def test_fine_tuning_lets_images_find_their_captions_and_continues_at_its_place(
    walls: DataSet, start: Bundle, tmp_path: Path, tagstream: Tagstream
) -> None:
    words = ["train", "finetune", str(walls.folder), "--task", "retrieval", "--from", str(start.folder)]
    words += ["-o", str(tmp_path / "out"), "--augment", "none", "--json"]
    words += ["--epochs", "40", "--batch", "6", "--lr", "2e-3"]
    document, made = tagstream(*words).json, Bundle.open(tmp_path / "out")
    made.verify()
    assert (document["steps"], document["digest"]) == (40, made.digest)
    before, after = found_first(start, walls), found_first(made, walls)
    assert after > before + 0.3, (before, after)
    assert made.manifest.thresholds == start.manifest.thresholds
    card = card_of(made)
    assert card is not None
    assert (card.data["trained_on"], card.parents[start.name]) == (6, start.digest)
    again = tagstream(*words, "--replace").json
    assert (again["digest"], again["losses"]) == (made.digest, {}), "the run had ended"


def test_all_captions_of_an_image_are_right_ones_and_an_epoch_has_one_of_each(
    walls: DataSet, start: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces, said = WordPiece.read(start.vocabulary), list[tuple[str, int]]()
    shown: list[Sequence[Sequence[int]]] = []

    def losses(
        made: Contrast, images: Tensor, tokens: Tensor, ids: Tensor, mask: Tensor, tags: Any, keys: Tensor
    ) -> Mapping[str, Tensor]:
        said.extend((pieces.decode(row.tolist()), key) for row, key in zip(ids, keys.tolist(), strict=True))
        shown.append([[int(tag) for tag in row if tag >= 0] for row in tags])
        return {"itc": tokens.sum() * 0, "itm": tokens.sum() * 0}

    monkeypatch.setattr(Contrast, "losses", losses)
    monkeypatch.setattr(memory, "estimate", lambda *_, **__: memory.Estimate(0, 0, 1, None))
    plan = Plan(epochs=12, batch=6, threads=1)
    pretrain(walls, retrieval_run(start, plan, "none"), tmp_path / "work")
    assert len(said) == 72
    assert {text for text, _ in said} == {text for name in WALLS for text in (f"a {name} wall", f"all is {name}")}
    keys = {next(name for name in WALLS if name in text): key for text, key in said}
    assert all(len({key for _, key in said[at : at + 6]}) == len(WALLS) for at in range(0, 72, 6))
    assert [key for _, key in said] == [keys[next(name for name in WALLS if name in text)] for text, _ in said]
    assert len(set(keys.values())) == len(WALLS)
    assert all(0 in tags and 1 not in tags for row in shown for tags in row), "by the bundle's thresholds"


def test_fine_tuning_without_tags_computes_no_tag_head(
    walls: DataSet, start: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = Bundle.write(
        tmp_path / "blind",
        start.manifest,
        weights=start.weights(),
        labels=start.labels,
        vocabulary=start.vocabulary.read_bytes(),
        beside=beside_of(new_part(fresh(_TINY, seed=1), None, seed=2, tags=False)),
    )
    monkeypatch.setattr(Tag2Text, "score", None)
    plan = Plan(steps=1, batch=6, threads=1, clip=0)
    made = pretrain(walls, retrieval_run(blind, plan, "none"), tmp_path / "work", workers=0)
    assert made.losses.keys() == {"itc", "itm", "total"}


def test_a_model_that_can_not_be_fine_tuned_is_a_sentence(
    walls: DataSet, start: Bundle, tmp_path: Path, tagstream: Tagstream
) -> None:
    plain = small_bundle("tag2text", tmp_path / "plain").folder
    silent = write_dataset(tmp_path / "silent", [Sample(image="a.png", sha256="1" * 64)], (), name="silent").folder
    options = start.manifest.model_copy(update={"options": {"added": [3], "own": 3}})
    head = Bundle.write(
        tmp_path / "head",
        options,
        weights=start.weights(),
        labels=start.labels,
        vocabulary=start.vocabulary.read_bytes(),
        beside={ALIGNMENT: partial(shutil.copyfile, start.folder / ALIGNMENT)},
    )
    for folder, data, more, complaint in (
        (plain, walls.folder, (), "no alignment part"),
        (start.folder, silent, (), "have no caption"),
        (start.folder, walls.folder, ("--batch", "1"), "a wrong pair"),
        (head.folder, walls.folder, (), "labels of a head"),
    ):
        words = ["train", "finetune", str(data), "--from", str(folder), "-o", str(tmp_path / "out"), *more]
        assert complaint in tagstream(*words).fails()
