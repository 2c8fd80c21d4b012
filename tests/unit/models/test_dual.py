"""Dual encoders: ids of sentences, bundles with a text tower, scores of labels, vectors."""

import base64
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.unit.models.small_dual import NAMES, SIZES, labelled, small_dual, tokenizer
from workers.errors import Misconfigured
from workers.models.bundle import MANIFEST, TEXT, TOKENIZER, WEIGHTS, Bundle, write_tensors
from workers.models.device import choose_device
from workers.models.dual import text as text_tower
from workers.models.dual.adapters import BACKGROUND, VECTORS, A, B, DualTagger, build_tagger
from workers.models.dual.config import KINDS, Kind
from workers.models.dual.importer import Labels, with_labels
from workers.models.dual.text import TokenIds, open_text
from workers.models.labels import label_ids
from workers.models.load import load_tagger
from workers.models.tagger import sample_image

SENTENCES = (
    "a dog on a beach",
    "A DOG",
    "<pad> x",
    "<eos>",
    "<|endoftext|> x",
    "🐶 ünïcödé 猫",
    "word " * 100,
    "",
    " ",
)
CPU = choose_device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dual")


@pytest.fixture(scope="module", params=KINDS)
def bundle(request: pytest.FixtureRequest, folder: Path) -> Bundle:
    return small_dual(request.param, folder / request.param)


@pytest.fixture(scope="module")
def with_names(bundle: Bundle, folder: Path) -> Bundle:
    return labelled(bundle, folder / f"{bundle.manifest.kind}-labelled")


def _tagger(bundle: Bundle, names: list[str] | None = None) -> DualTagger:
    return build_tagger(bundle, CPU, "fp32", None if names is None else label_ids(bundle, names))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sentence", SENTENCES)
def test_ids_equal_the_librarys_with_the_ends_that_the_tower_knows(kind: Kind, sentence: str) -> None:
    content, config = tokenizer(kind), SIZES[kind]
    library = Tokenizer.from_buffer(content)
    library.encode_special_tokens = True
    body = library.encode(sentence.lower(), add_special_tokens=False).ids
    ids, ends = TokenIds(content, config, Path("tokenizer.json"))([sentence])
    if kind == "siglip":
        pad, eos = library.token_to_id("<pad>"), library.token_to_id("<eos>")
        wanted = [*body[: config.length - 1], eos]
        assert pad not in body
        assert int(ends[0]) == config.length - 1
    else:
        pad, eos = 0, library.token_to_id("<|endoftext|>")
        wanted = [library.token_to_id("<|startoftext|>"), *body[: config.length - 2], eos]
        assert int(ends[0]) == len(wanted) - 1
    assert eos not in body
    assert ids[0].tolist() == wanted + [pad] * (config.length - len(wanted))


CLIPS = json.loads(Path(__file__).with_name("clip_ids.json").read_text(encoding="utf-8"))
"""Odd sentences with the ids that open_clip gives, and as much of CLIP's tokenizer as cuts them."""


def test_odd_sentences_have_the_ids_of_open_clip() -> None:
    config = replace(SIZES["clip"], vocabulary=49_408, length=77)
    ids, ends = TokenIds(json.dumps(CLIPS["tokenizer"]).encode(), config, Path("tokenizer.json"))(list(CLIPS["ids"]))
    found = [row[1:end].tolist() for row, end in zip(ids, ends.tolist(), strict=True)]
    assert dict(zip(CLIPS["ids"], found, strict=True)) == CLIPS["ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_cutting_by_a_tokenizers_file_are_replaced_by_ours(kind: Kind) -> None:
    library = Tokenizer.from_buffer(tokenizer(kind))
    library.enable_padding(length=9, pad_id=3)
    library.enable_truncation(4)
    ids = [
        TokenIds(content, SIZES[kind], Path("tokenizer.json"))(["a dog on a beach", "snow"])[0]
        for content in (tokenizer(kind), library.to_str().encode())
    ]
    assert torch.equal(*ids)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 9, b"[" * 100_000])
def test_an_invalid_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(Misconfigured, match=r"is no tokenizer\.json"):
        TokenIds(content, SIZES["clip"], Path("tokenizer.json"))


def _replaced(**parts: Any) -> bytes:
    return json.dumps({**json.loads(tokenizer("siglip")), **parts}).encode()


def _charsmap(content: bytes) -> dict[str, str]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(content).decode()}


DOUBLED = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40
HOSTILE = {
    "panics when it is opened": _replaced(normalizer=_charsmap(b"")),
    "takes four gigabytes at once": _replaced(normalizer=_charsmap(b"\xff" * 12)),
    "panics on a sentence": _replaced(normalizer=_charsmap(b"\x08\0\0\0" + b"\xff" * 8 + b"abc")),
    "panics on pieces of length 0": _replaced(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "knows no other piece": _replaced(
        model={"type": "Unigram", "unk_id": None, "vocab": [["<pad>", 0.0], ["<eos>", 0.0]], "byte_fallback": False}
    ),
    "doubles an a forty times": _replaced(normalizer={"type": "Sequence", "normalizers": DOUBLED}),
}


def cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut a sentence with a hostile tokenizer; the one that hangs has little time for it."""
    ids = TokenIds(HOSTILE[name], SIZES["siglip"], Path("tokenizer.json"))
    monkeypatch.setattr(text_tower, "ANSWER_S", 0.3 if name.startswith("doubles") else 30.0)
    ids(["a photo of a cat"])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tokenizer_that_panics_hangs_or_fills_the_memory_is_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Misconfigured, match=r"^tokenizer.json is no tokenizer.json .* \([^\n]{3,210}\)\.$"):
        cut(name, monkeypatch)


def test_the_tokenizer_of_the_other_kind_is_refused() -> None:
    with pytest.raises(Misconfigured, match="has no token <pad>"):
        TokenIds(tokenizer("clip"), SIZES["siglip"], Path("tokenizer.json"))


def test_ids_that_the_tower_lacks_are_refused() -> None:
    document = json.loads(tokenizer("siglip"))
    document["model"]["vocab"]["▁"] = 99_999
    cut = TokenIds(json.dumps(document).encode(), SIZES["siglip"], Path("tokenizer.json"))
    with pytest.raises(Misconfigured, match="another model"):
        cut([" "])


def test_sentences_have_vectors_of_length_one_whatever_their_batch(bundle: Bundle) -> None:
    text = open_text(bundle.folder)
    assert (text.space, text.kind) == (f"small-{bundle.manifest.kind}", bundle.manifest.kind)
    assert (text.scale, text.bias) == pytest.approx((SIZES[text.kind].scale, SIZES[text.kind].bias))
    found = text.encode(SENTENCES * 5)
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)))
    alone = torch.cat([text.encode([sentence]) for sentence in SENTENCES])
    assert torch.allclose(found[: len(SENTENCES)], alone, atol=1e-5)
    assert text.encode([]).shape == (0, found.shape[1])


def test_a_bundle_without_labels_gives_vectors_of_images(bundle: Bundle) -> None:
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    assert isinstance(tagger, DualTagger)
    tagger.warm_up()
    images = [sample_image(tagger.transform.size, seed) for seed in range(3)]
    rows = tagger.forward(images)
    assert all(np.array_equal(row, vector) for row, vector in zip(rows, tagger.embed(images), strict=True))
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 1])
    assert len(tagger.postprocess(rows[0]).label_ids) == 0
    assert tagger.embedding_space == f"small-{bundle.manifest.kind}"


def test_vectors_of_scored_images_are_not_computed_again_and_those_of_new_ones_are(with_names: Bundle) -> None:
    tagger = _tagger(with_names)
    images = [sample_image(tagger.transform.size, seed) for seed in range(3)]
    rows = tagger.forward(images[1:2])
    compute, tagger._logits = tagger._logits, None  # type: ignore[assignment]
    assert np.array_equal(tagger.embed(images[1:2])[0], rows[0][len(NAMES) :])
    with pytest.raises(TypeError):
        tagger.embed(images)
    tagger._logits = compute
    found = tagger.embed(images)
    assert len(found) == 3
    assert np.array_equal(found[1], rows[0][len(NAMES) :])


def test_a_labels_score_does_not_depend_on_the_other_labels(with_names: Bundle, folder: Path) -> None:
    image = sample_image(with_names.transform.size)
    tagger = _tagger(with_names)
    all_of_them = tagger.forward([image])[0][: len(NAMES)]
    for number, name in enumerate(NAMES):
        assert _tagger(with_names, [name]).forward([image])[0][0] == pytest.approx(all_of_them[number], abs=1e-4)
    weights = {name: each for name, each in with_names.weights().items() if name.startswith("labels.")}
    fewer = {name: each if name == BACKGROUND else each[1:2].clone() for name, each in weights.items()}
    kind = with_names.manifest.kind
    one = with_labels(with_names, folder / f"{kind}-one", Labels(NAMES[1:2], fewer))
    assert _tagger(one).forward([image])[0][0] == pytest.approx(all_of_them[1], abs=1e-4)


def test_scores_follow_the_formula(with_names: Bundle, folder: Path) -> None:
    weights, config = with_names.weights(), SIZES[with_names.manifest.kind]  # type: ignore[index]
    changed = {name: each for name, each in weights.items() if name.startswith("labels.")}
    changed[A], changed[B] = torch.tensor([0.5, 1, 2, -1]), torch.tensor([1.0, 2, 3, 4])
    made = with_labels(with_names, folder / f"{config.kind}-ab", Labels(NAMES, changed))
    tagger = _tagger(made)
    image = sample_image(tagger.transform.size)
    vector = torch.from_numpy(tagger.embed([image])[0])
    z = math.exp(config.scale) * weights[VECTORS] @ vector + config.bias
    if config.kind == "clip":
        z = z - (math.exp(config.scale) * weights[BACKGROUND] @ vector).exp().mean().log()
    wanted = torch.sigmoid(changed[A] * z + changed[B]).numpy()
    found = tagger.postprocess(tagger.forward([image])[0])
    kept = wanted >= tagger.floor
    assert found.label_ids.tolist() == np.flatnonzero(kept).tolist()
    assert found.scores == pytest.approx(wanted[kept], abs=1e-4)


def test_offsets_change_the_digest_and_thresholds_and_the_text_tower_do_not(with_names: Bundle, folder: Path) -> None:
    labels = {name: each for name, each in with_names.weights().items() if name.startswith("labels.")}
    kind = with_names.manifest.kind
    same = with_labels(with_names, folder / f"{kind}-same", Labels(NAMES, labels, thresholds=(0.1, 0.2, 0.3, 0.4)))
    assert (same.digest, same.thresholds) == (with_names.digest, (0.1, 0.2, 0.3, 0.4))
    other = with_labels(with_names, folder / f"{kind}-other", Labels(NAMES, labels | {B: labels[B] + 1}))
    assert other.digest != with_names.digest
    assert {TEXT, TOKENIZER}.isdisjoint(other.manifest.files)
    assert other.manifest.provenance.beside == with_names.manifest.provenance.beside


def test_a_worker_needs_no_text_tower_and_commands_say_that_it_is_missing(with_names: Bundle, folder: Path) -> None:
    kind = with_names.manifest.kind
    labels = {name: each for name, each in with_names.weights().items() if name.startswith("labels.")}
    moved = with_labels(with_names, folder / f"{kind}-moved", Labels(NAMES, labels))
    (moved.folder / TEXT).unlink()
    (moved.folder / TOKENIZER).unlink()
    assert moved.size_bytes == sum(each.stat().st_size for each in moved.folder.iterdir() if each.name != MANIFEST)
    load_tagger(moved.folder, device="cpu", precision="fp32").warm_up()
    Bundle.open(moved.folder).verify()
    with pytest.raises(Misconfigured, match="came without it"):
        open_text(moved.folder)


@pytest.mark.parametrize("name", [TEXT, TOKENIZER])
def test_a_changed_file_in_the_bundles_folder_is_refused(name: str, folder: Path) -> None:
    made = small_dual("clip", folder / f"changed-{name}")
    path = made.folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    for use in (lambda: open_text(made.folder), made.verify):
        with pytest.raises(Misconfigured, match="not the bundle's original file"):
            use()
    outside = folder / f"outside-{name}"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(Misconfigured, match="link out of the bundle"):
        open_text(made.folder)


def test_vectors_of_two_spaces_are_not_compared(bundle: Bundle) -> None:
    text = open_text(bundle)
    text.require_space(text.space, "the bundle itself")
    with pytest.raises(Misconfigured, match=r"RAM has vectors of the space 'clip-vit-b-16'.*can't be compared"):
        text.require_space("clip-vit-b-16", "RAM")


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        (VECTORS, torch.ones(4, 64), "length is not 1"),
        (VECTORS, torch.eye(64)[:3], "should be fp32 of the shape"),
        (A, torch.ones(4, dtype=torch.float64), "should be fp32 of the shape"),
        (BACKGROUND, torch.eye(64)[:3], "does not belong"),
    ],
)
def test_label_tensors_that_do_not_fit_are_refused(name: str, tensor: torch.Tensor, says: str, folder: Path) -> None:
    made = labelled(
        small_dual("siglip", folder / f"unfit-{says[:4]}{name}{tensor.dtype}"),
        folder / f"u{says[:4]}{name}{tensor.dtype}",
    )
    write_tensors(made.folder / WEIGHTS, made.weights() | {name: tensor})
    with pytest.raises(Misconfigured, match=says):
        _tagger(Bundle(made.folder, made.manifest))
