"""`tagstream models import`, `pull` and `embed` of dual encoders: to a bundle, to vectors, or to a sentence."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.parity.dual import elsewhere
from tests.support.command import Tagstream
from tests.support.ran import Ran
from tests.unit.models.hub import Hub, serving
from tests.unit.models.small_dual import SIZES, published, small_dual, tokenizer
from workers.cli.app import run_command
from workers.errors import MISCONFIGURED, UNAVAILABLE
from workers.models.bundle import Bundle
from workers.models.dual.config import KINDS, Kind
from workers.models.dual.published import PUBLISHED
from workers.models.dual.text import open_text
from workers.models.files import sha256_of
from workers.models.load import load_tagger
from workers.models.tagger import sample_image


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Files:
    def __init__(self, kind: Kind, folder: Path, tagstream: Tagstream) -> None:
        self.kind, self._tagstream = kind, tagstream
        self.weights, self.tokenizer = folder / f"{kind}.safetensors", folder / f"{kind}.json"
        save_file(published(kind), self.weights)
        self.tokenizer.write_bytes(tokenizer(kind))

    def import_to(self, out: Path, *more: str) -> Ran:
        given = [self.weights, "--tokenizer", self.tokenizer, "-o", out]
        return self._tagstream("models", "import", *given, *more)


@pytest.fixture
def clip(tmp_path: Path, tagstream: Tagstream) -> Files:
    return Files("clip", tmp_path, tagstream)


@pytest.mark.parametrize("kind", KINDS)
def test_both_layouts_of_a_file_become_the_same_model(kind: Kind, tmp_path: Path, tagstream: Tagstream) -> None:
    files = Files(kind, tmp_path, tagstream)
    ran = files.import_to(tmp_path / "one", "--space", SIZES[kind].space, "--dtype", "fp32", "--licence", "mine")
    assert f"in the space {SIZES[kind].space}, images of 64 pixels" in ran.done
    assert (ran.err, "mine" in ran.out) == ("", True)
    save_file(elsewhere(published(kind)), files.weights)
    assert files.import_to(tmp_path / "other", "--space", SIZES[kind].space, "--dtype", "fp32").code == 0
    one, other = Bundle.open(tmp_path / "one"), Bundle.open(tmp_path / "other")
    assert one.digest == other.digest
    assert one.manifest.provenance.beside == other.manifest.provenance.beside
    assert (one.manifest.provenance.licence, other.manifest.provenance.sha256) == ("mine", sha256_of(files.weights))
    assert one.transform.fit == ("squash" if kind == "siglip" else "crop")


@pytest.mark.slow
def test_stored_in_bf16_it_gives_nearly_the_same_vectors(clip: Files, tmp_path: Path) -> None:
    assert clip.import_to(tmp_path / "half").code == clip.import_to(tmp_path / "whole", "--dtype", "fp32").code == 0
    half, whole = (open_text(tmp_path / name).encode(["a dog on a beach"])[0] for name in ("half", "whole"))
    assert 0.99 < float(half @ whole) < 1
    assert (tmp_path / "half" / "text.safetensors").stat().st_size < 0.6 * (
        tmp_path / "whole" / "text.safetensors"
    ).stat().st_size


def test_a_model_of_ones_own_has_a_space_of_its_own(clip: Files, tmp_path: Path) -> None:
    assert "--space" in clip.import_to(tmp_path / "mine").notes
    space = load_tagger(tmp_path / "mine", device="cpu", precision="fp32").embedding_space  # type: ignore[attr-defined]
    assert space == f"own-{sha256_of(clip.weights)[:16]}"


def _without(name: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        save_file({key: each for key, each in published(files.kind).items() if key != name}, files.weights)

    return change


def _with(name: str, tensor: torch.Tensor) -> Callable[[Files], None]:
    return lambda files: save_file(published(files.kind) | {name: tensor}, files.weights)


BAD: dict[str, tuple[Callable[[Files], object], str]] = {
    "a missing tensor": (_without("visual_projection.weight"), "image.head.weight is missing"),
    "no scale": (_without("logit_scale"), "logit_scale is missing"),
    "a tensor of another shape": (_with("text_model.final_layer_norm.weight", torch.ones(63)), "should have"),
    "an unknown tensor": (_with("text_model.extra.weight", torch.ones(3)), "'text_model.extra.weight'"),
    "patches that are no square": (
        _with("vision_model.embeddings.position_embedding.weight", torch.ones(16, 128)),
        "not those of an image",
    ),
    "whole numbers": (_with("logit_scale", torch.ones((), dtype=torch.int64)), "'logit_scale' (int64)"),
    "heads that do not go together": (
        _with("text_model.encoder.layers.0.self_attn.q_proj.weight", torch.ones(64)),
        "do not go together",
    ),
    "a NaN": (_with("vision_model.post_layernorm.bias", torch.full((128,), torch.nan)), "not numbers"),
    "a NaN in the text tower": (_with("text_projection.weight", torch.full((48, 64), torch.nan)), "no numbers"),
    "an endless scale": (_with("logit_scale", torch.tensor(torch.inf)), "scale"),
    "a cut file": (lambda files: files.weights.write_bytes(files.weights.read_bytes()[:-9]), "is damaged"),
    "no safetensors": (lambda files: files.weights.write_bytes(b"PK" * 999), "is damaged"),
    "no file": (lambda files: files.weights.unlink(), "can't be read"),
    "another tokenizer": (lambda files: files.tokenizer.write_bytes(tokenizer("siglip")), "<|startoftext|>"),
    "no tokenizer": (lambda files: files.tokenizer.write_text("{}"), "is no tokenizer.json"),
    "an endless tokenizer": (lambda files: _grow(files.tokenizer), "more than the 67,108,864 bytes"),
}


def _grow(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(65 * 1024**2)


@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_does_not_fit_is_one_sentence_and_leaves_nothing(fault: str, clip: Files, tmp_path: Path) -> None:
    change, says = BAD[fault]
    change(clip)
    assert says in " ".join(clip.import_to(tmp_path / "out").fails().split())
    assert sorted(each.name for each in tmp_path.iterdir() if not each.is_file()) in ([], ["cache"])


def test_options_of_the_other_family_are_refused(clip: Files, tmp_path: Path, tagstream: Tagstream) -> None:
    assert "models labels" in clip.import_to(tmp_path / "out", "--tags", str(clip.tokenizer)).fails()
    assert "--tokenizer" in tagstream("models", "import", clip.weights, "-o", tmp_path / "out").fails()
    assert "is wanted" in clip.import_to(tmp_path / "out", "--sha256", "0" * 64).fails()


@pytest.fixture
def small_published(monkeypatch: pytest.MonkeyPatch, clip: Files) -> Hub:
    was = PUBLISHED["clip-b16"]
    small = replace(
        was,
        weights=replace(was.weights, sha256=(), size=clip.weights.stat().st_size),
        tokenizer=replace(was.tokenizer, size=clip.tokenizer.stat().st_size),
        image_size=64,
    )
    monkeypatch.setitem(PUBLISHED, "clip-b16", small)
    at = {
        f"{each.repo}/resolve/{each.revision}/{each.name}": path.read_bytes()
        for each, path in ((small.weights, clip.weights), (small.tokenizer, clip.tokenizer))
    }
    return Hub(at)


def test_a_published_model_is_pulled_at_its_revision_and_checked_by_the_hubs_sha256(
    small_published: Hub, tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = ["models", "pull", "clip-b16", "-o", str(tmp_path / "clip")]
    with serving(small_published) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert run_command(pull) == 0
        assert run_command([*pull, "--keep"]) == 0
    bundle = Bundle.open(tmp_path / "clip")
    provenance = bundle.manifest.provenance
    assert provenance.sha256 == sha256_of(tmp_path / "clip.safetensors")
    assert PUBLISHED["clip-b16"].weights.revision[:12] in provenance.source
    assert provenance.licence is None
    assert (bundle.name, bundle.manifest.architecture["space"]) == ("clip-b16", "clip-vit-b-16")
    assert "not of clip-vit-b-32" in tagstream("models", "pull", "clip-b32", "-o", tmp_path / "clip", "--keep").fails()


def test_a_small_file_is_checked_by_gits_name_of_its_content(
    small_published: Hub, tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = next((path, each) for path, each in small_published.files.items() if path.endswith(".json"))
    small_published.etags[path] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    with serving(small_published) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        assert run_command(["models", "pull", "clip-b16", "-o", str(tmp_path / "clip")]) == 0
        small_published.etags[path] = "0" * 40
        again = ("models", "pull", "clip-b16", "-o", tmp_path / "again")
        assert "not the published file" in tagstream(*again).fails(UNAVAILABLE)
        small_published.etags[path] = "unknown"
        assert "the hub states none" in tagstream(*again).fails(UNAVAILABLE)


def test_a_pinned_sha256_decides_before_anything_is_fetched(
    small_published: Hub, tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(small_published) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        ran = tagstream("models", "pull", "clip-b16", "-o", tmp_path / "clip", "--sha256", "0" * 64)
    assert "Nothing was downloaded" in ran.fails(UNAVAILABLE)


def test_sentences_become_json_or_an_array(tmp_path: Path, tagstream: Tagstream) -> None:
    bundle = small_dual("siglip", tmp_path / "siglip")
    sentences = ["a dog on a beach", "snow"]
    documents = [json.loads(line) for line in tagstream("models", "embed", bundle.folder, *sentences).done.splitlines()]
    wanted = open_text(bundle).encode(sentences).numpy()
    assert [each["text"] for each in documents] == sentences
    assert {each["space"] for each in documents} == {"small-siglip"}
    assert np.allclose([each["vector"] for each in documents], wanted, atol=1e-6)
    assert run_command(["models", "embed", str(bundle.folder), *sentences, "-o", str(tmp_path / "v.npy")]) == 0
    found = np.load(tmp_path / "v.npy")
    assert (found.dtype, found.shape) == (np.float32, (2, 64))
    assert np.array_equal(found, wanted)


def test_a_bundle_without_a_text_tower_is_a_sentence(tmp_path: Path, tagstream: Tagstream) -> None:
    from tests.unit.models.tiny import tiny_bundle

    tiny_bundle(tmp_path / "tiny")
    assert "has no text tower" in tagstream("models", "embed", tmp_path / "tiny", "snow").fails()


@pytest.mark.parametrize(("file", "part"), [("text.safetensors", "text tower"), ("tokenizer.json", "tokenizer")])
def test_a_bundle_that_came_without_a_part_names_it_and_its_source(
    tmp_path: Path, tagstream: Tagstream, file: str, part: str
) -> None:
    bundle = small_dual("siglip", tmp_path / "siglip")
    (bundle.folder / file).unlink()
    said = " ".join(tagstream("models", "embed", bundle.folder, "snow").fails().split())
    assert all(each in said for each in (file, part, bundle.manifest.provenance.source))


@pytest.mark.parametrize("sentences", [[""], ["snow", "  "]])
def test_an_empty_sentence_has_no_vector(tmp_path: Path, tagstream: Tagstream, sentences: list[str]) -> None:
    bundle = small_dual("siglip", tmp_path / "siglip")
    ran = tagstream("models", "embed", bundle.folder, *sentences)
    assert (ran.code, ran.out) == (MISCONFIGURED, "")


def test_tags_of_a_bundle_without_labels_are_refused_before_the_first_image(
    tmp_path: Path, tagstream: Tagstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = small_dual("siglip", tmp_path / "siglip")
    Image.fromarray(sample_image(64)).save(tmp_path / "a.png")
    said = tagstream("tag", tmp_path / "a.png", "--model", bundle.folder).fails()
    assert "`tagstream models labels`" in " ".join(said.split())
