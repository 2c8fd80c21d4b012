"""The alignment part of a Tag2Text bundle: its results, its file, and that no worker opens it."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.kept import kept
from tests.unit.models.small import SMALL, small_bundle
from workers.errors import Misconfigured
from workers.models.bundle import ALIGNMENT, Bundle, read_tensors, write_tensors
from workers.models.load import load_captioner, load_tagger
from workers.models.ram.alignment import (
    Alignment,
    AlignmentPart,
    beside_of,
    cleaned,
    has_alignment,
    load_alignment,
    sentence_tokens,
)
from workers.models.ram.config import Tag2TextConfig
from workers.models.ram.wordpiece import CLS, ENC, SEP, WordPiece
from workers.models.tagger import sample_image
from workers.types import Pixels

CONFIG = SMALL["tag2text"]
TEXTS = ["A dog, on the grass!", "two red stars", "a house and a tree to the left"]


def drawn(part: AlignmentPart, seed: int = 0) -> AlignmentPart:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(t.shape, generator=generator) * 0.2 for name, t in part.state_dict().items()}
    part.load_state_dict(tensors | {"temperature": torch.tensor(0.07)})
    return part


def aligned_bundle(folder: Path, *, tags: bool = True) -> Bundle:
    kept(folder, ("aligned", CONFIG, tags), lambda made: _make_aligned(made, tags))
    return Bundle.open(folder)


def _make_aligned(folder: Path, tags: bool) -> None:
    assert isinstance(CONFIG, Tag2TextConfig)
    plain = small_bundle("tag2text", folder.with_name(f"{folder.name}-plain"))
    part = drawn(AlignmentPart(CONFIG, dimensions=8, tags=tags))
    Bundle.write(
        folder,
        plain.manifest.model_copy(update={"thresholds": 0.5}),
        weights=plain.weights(),
        labels=plain.labels,
        vocabulary=plain.vocabulary.read_bytes(),
        beside=beside_of(part),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return aligned_bundle(tmp_path_factory.mktemp("aligned") / "bundle")


@pytest.fixture(scope="module")
def alignment(bundle: Bundle) -> Alignment:
    return load_alignment(bundle, threads=1)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    return [sample_image(64, number) for number in range(3)]


def literal(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], ids: Tensor, memory: Tensor | None) -> Tensor:
    """One text's first state, (width,), from its (n,) ids and the (m, width) tokens that it looks at, in float64."""

    def linear(x: Tensor, name: str, of: Mapping[str, Tensor] = weights) -> Tensor:
        return x @ of[f"{name}.weight"].double().T + of[f"{name}.bias"].double()

    def norm(x: Tensor, name: str, of: Mapping[str, Tensor] = weights) -> Tensor:
        spread = x.var(dim=-1, unbiased=False, keepdim=True)
        scaled = (x - x.mean(dim=-1, keepdim=True)) / torch.sqrt(spread + 1e-12)
        return scaled * of[f"{name}.weight"].double() + of[f"{name}.bias"].double()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        width = query.shape[1] // 6
        mixed = []
        for head in range(6):
            part = slice(head * width, (head + 1) * width)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width)
            mixed.append((scores.exp() / scores.exp().sum(dim=1, keepdim=True)) @ value[:, part])
        return torch.cat(mixed, dim=1)

    start = "text.tag_encoder."
    x = weights[f"{start}embeddings.word.weight"][ids].double()
    x = norm(x + weights[f"{start}embeddings.position.weight"][: len(ids)].double(), f"{start}embeddings.norm")
    for number in range(3):
        query, key, value = linear(x, f"attention.{number}.qkv", own).chunk(3, dim=1)
        x = norm(x + linear(attend(query, key, value), f"attention.{number}.out", own), f"attention.{number}.norm", own)
        layer = f"head.layers.{number}." if number < 2 else f"{start}cross.{number - 2}."
        if memory is not None:
            seen = memory.double()
            mixed = attend(linear(x, f"{layer}query"), linear(seen, f"{layer}key"), linear(seen, f"{layer}value"))
            x = norm(x + linear(mixed, f"{layer}out"), f"{layer}attention_norm")
        up = linear(x, f"{layer}up")
        x = norm(x + linear(up * 0.5 * (1 + torch.erf(up / math.sqrt(2))), f"{layer}down"), f"{layer}mlp_norm")
    return x[0]


@pytest.mark.slow
def test_sentences_are_read_alone_and_with_the_image_by_the_same_weights(
    bundle: Bundle, alignment: Alignment, images: list[Pixels]
) -> None:
    weights, own = bundle.weights(), read_tensors(bundle.folder / ALIGNMENT)
    pieces = WordPiece.read(bundle.vocabulary)
    parts = alignment.images(images)
    units = alignment.sentences(TEXTS)
    for number, text in enumerate(TEXTS):
        ids = torch.tensor([CLS, *pieces.encode(cleaned(text)), SEP])
        vector = literal(weights, own, ids, None) @ own["text_proj.weight"].double().T + own["text_proj.bias"].double()
        torch.testing.assert_close(units[number].double(), vector / vector.norm(), atol=1e-5, rtol=0)
        ids[0] = ENC
        tags = (
            weights["label_embed"][parts.tags[number][parts.tags[number] >= 0]] @ own["tag_proj.weight"].T
            + own["tag_proj.bias"]
        )
        for shown in (True, False):
            seen = torch.cat((parts.tokens[number], tags)) if shown else parts.tokens[number]
            wanted = literal(weights, own, ids, seen) @ own["match.weight"].double().T + own["match.bias"].double()
            found = alignment.match(parts, TEXTS, torch.tensor([[number, number]]), tags=shown)
            torch.testing.assert_close(found.double(), wanted[1:], atol=1e-5, rtol=0)
    image = parts.tokens[:, 0] @ own["image_proj.weight"].T + own["image_proj.bias"]
    torch.testing.assert_close(parts.units, image / image.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)


def test_pairs_of_any_order_are_scored_as_alone(alignment: Alignment, images: list[Pixels]) -> None:
    parts = alignment.images(images)
    parts = parts._replace(tags=torch.tensor([(3, 1, -1), (-1, -1, -1), (7, -1, -1)]))
    pairs = torch.tensor([[2, 0], [0, 2], [2, 2], [1, 1], [0, 0], [0, 2]] * 8)
    together = alignment.match(parts, TEXTS, pairs)
    alone = [alignment.match(parts, [TEXTS[t]], torch.tensor([[i, 0]])) for i, t in pairs[:6].tolist()]
    torch.testing.assert_close(together, torch.cat(alone * 8), atol=1e-5, rtol=0)
    assert together[1] == pytest.approx(float(together[5]), abs=1e-6)


def test_tags_are_those_over_their_thresholds_at_most_forty_the_best_first(
    bundle: Bundle, alignment: Alignment, images: list[Pixels]
) -> None:
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    network = alignment._aligned.network
    with torch.no_grad():
        scores = network.score(network.embed(alignment.images(images).tokens)).sigmoid()
    assert len(tagger.labels) == 60
    for row, tags in zip(scores, alignment.images(images).tags, strict=True):
        ranked = [int(i) for i in row.argsort(descending=True) if row[i] > 0.5]
        assert tags[tags >= 0].tolist() == ranked[:40]


def test_sentences_end_at_their_length() -> None:
    tokens = WordPiece(_vocabulary())
    ids, mask = sentence_tokens(tokens, ["a " * 50, "a"], length=12)
    assert ids.shape == (2, 12)
    assert [*ids[0, [0, -1]].tolist(), int(mask[1].sum())] == [CLS, SEP, 3]


def _vocabulary() -> list[str]:
    from workers.models.ram.importer import made_up_vocabulary

    return list(made_up_vocabulary())


@pytest.mark.slow
def test_the_part_is_in_the_bundle_and_no_worker_opens_it(bundle: Bundle, tmp_path: Path) -> None:
    plain = small_bundle("tag2text", tmp_path / "plain")
    same = Bundle.write(
        tmp_path / "same",
        plain.manifest.model_copy(update={"thresholds": 0.5}),
        weights=plain.weights(),
        labels=plain.labels,
        vocabulary=plain.vocabulary.read_bytes(),
    )
    assert has_alignment(bundle)
    assert not has_alignment(same)
    assert same.digest == bundle.digest
    other = aligned_bundle(tmp_path / "other")
    (other.folder / ALIGNMENT).write_bytes(b"no tensors")
    load_tagger(other.folder, device="cpu", precision="fp32").warm_up()
    load_captioner(other.folder, device="cpu", precision="fp32").warm_up()
    with pytest.raises(Misconfigured, match=ALIGNMENT):
        load_alignment(other)
    (other.folder / ALIGNMENT).unlink()
    load_tagger(other.folder, device="cpu", precision="fp32").warm_up()
    with pytest.raises(Misconfigured, match="came without it"):
        load_alignment(other)


@pytest.mark.slow
def test_a_bundle_without_the_part_says_so(tmp_path: Path) -> None:
    for kind in ("tag2text", "ram"):
        with pytest.raises(Misconfigured, match="no alignment part"):
            load_alignment(small_bundle(kind, tmp_path / kind))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"match.weight": torch.zeros(3, 96)}, r"match.weight: .*\[3, 96\].*\[2, 96\]"),
        ({"temperature": None}, r'Missing.*"temperature"'),
        ({"more": torch.zeros(1)}, r'Unexpected.*"more"'),
        ({"text_proj.bias": torch.zeros(9)}, r"text_proj.weight: "),
        ({"tag_proj.weight": None}, "tag_proj.bias"),
    ],
)
def test_a_part_that_does_not_fit_is_a_sentence(
    bundle: Bundle, tmp_path: Path, changes: Mapping[str, Tensor | None], complaint: str
) -> None:
    tensors = {**read_tensors(bundle.folder / ALIGNMENT), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    wrong = Bundle.write(
        tmp_path / "wrong",
        bundle.manifest,
        weights=bundle.weights(),
        labels=bundle.labels,
        vocabulary=bundle.vocabulary.read_bytes(),
        beside={ALIGNMENT: lambda path: write_tensors(path, kept)},
    )
    with pytest.raises(Misconfigured, match=complaint):
        load_alignment(wrong)


@pytest.mark.slow
def test_a_part_that_was_trained_without_tags_gets_no_tags(tmp_path: Path, images: list[Pixels]) -> None:
    alignment = load_alignment(aligned_bundle(tmp_path / "bundle", tags=False), threads=1)
    parts = alignment.images(images)
    pairs = torch.tensor([[0, 0], [1, 1]])
    assert torch.equal(alignment.match(parts, TEXTS, pairs), alignment.match(parts, TEXTS, pairs, tags=False))
