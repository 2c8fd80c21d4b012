"""From a checkpoint file to a bundle to a tagger and a captioner, and all faults of the file."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tagstream_testing.conformance import CAPTIONER_CHECKS, TAGGER_CHECKS
from tests.parity.subjects import SMALL, Subject, checkpoint, guide_ids, pixels
from tests.unit.models.small import small_bundle
from workers.errors import Broken, Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.labels import label_ids
from workers.models.ram.adapters import build_captioner, build_tagger
from workers.models.ram.config import PUBLISHED, AnyConfig, Kind, RamConfig
from workers.models.ram.engine import engine_of
from workers.models.ram.importer import (
    TAG2TEXT_SILENT,
    Lists,
    import_checkpoint,
    made_up_vocabulary,
    random_bundle,
)
from workers.models.ram.keys import kind_in
from workers.models.ram.wordpiece import WordPiece
from workers.models.tagger import sample_image
from workers.pipeline.embedding import Embedder
from workers.ports import Captioner, Tagger

pytestmark = pytest.mark.slow

KINDS = tuple(PUBLISHED)
CPU = choose_device("cpu")


def tagging_config(kind: Kind) -> AnyConfig:
    config = SMALL[kind]
    return replace(config, text=None) if isinstance(config, RamConfig) else config


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up vocab.txt of the right form."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in made_up_vocabulary()))
    return path


class Published:
    """A checkpoint file like the published ones, of the small size, with its lists."""

    def __init__(self, kind: Kind, folder: Path, vocabulary: Path) -> None:
        self.kind = kind
        self.config = tagging_config(kind)
        self.file = folder / f"{kind}.pth"
        self.subject = Subject(kind, "small384")
        model = checkpoint(kind, SMALL[kind], self.subject.facts["bias_shift"], full=False)
        optimizer = {"state": {0: {"exp_avg": torch.zeros(9)}}, "param_groups": [{"lr": 1e-4}]}
        torch.save({"model": model, "optimizer": optimizer, "epoch": 4}, self.file)
        tags = folder / "tags.txt"
        tags.write_text("".join(f"tag {number}\n" for number in range(self.config.labels)))
        thresholds = folder / "thresholds.txt"
        thresholds.write_text("".join(f"{each}\n" for each in self.subject.arrays["class_threshold"].tolist()))
        chinese = folder / "chinese.txt"
        chinese.write_text("".join(f"标签{number} \n" for number in range(self.config.labels)))
        self.lists = Lists(tags, thresholds, {"zh": chinese}, vocabulary if kind == "tag2text" else None)

    def imported(self, out: Path, **options: Any) -> Bundle:
        return import_checkpoint(self.file, out, self.lists, config=self.config, **{"dtype": "fp32", **options})


@pytest.fixture(scope="module", params=KINDS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Published:
    return Published(request.param, tmp_path_factory.mktemp(request.param), vocabulary)


@pytest.fixture(scope="module")
def bundle(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return published.imported(tmp_path_factory.mktemp("bundles") / published.kind)


def test_an_imported_checkpoint_tags_like_the_original_program(published: Published, bundle: Bundle) -> None:
    tagger = build_tagger(bundle, CPU, "fp32")
    tagger.warm_up()
    found = np.stack(tagger.forward([pixels(0), pixels(1)]))
    assert np.abs(found - published.subject.arrays["logits"]).max() <= 1e-4
    tags = published.subject.facts.get("tags")
    for index, row in enumerate(found):
        scores = tagger.postprocess(row)
        shown = scores.scores > np.asarray(tagger.thresholds)[scores.label_ids]
        if tags is not None:
            assert shown.sum() == len(tags[index].split(" | "))
    assert tagger.translations["zh"][7] == "标签7 "


def test_ram_and_ram_plus_give_the_original_embedding_from_the_pass_that_tags(
    published: Published, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagger = build_tagger(bundle, CPU, "fp32")
    if published.kind == "tag2text":
        assert not isinstance(tagger, Embedder)
        return
    assert isinstance(tagger, Embedder)
    images = [pixels(0), pixels(1)]
    wanted = published.subject.arrays["image_embeds_first8"][:, 0]
    assert wanted.shape == (2, tagger.embedding_dimensions)
    assert np.abs(np.stack(tagger.embed(images)) - wanted).max() <= 1e-4
    assert np.abs(np.stack(tagger.embed(images[1:])) - wanted[1:]).max() <= 1e-4
    tagger.forward(images)
    with monkeypatch.context() as without:
        without.setattr(engine_of(bundle, CPU, "fp32"), "encode", None)
        assert np.abs(np.stack(tagger.embed(images[::-1])) - wanted[::-1]).max() <= 1e-4
    equal = [image.copy() for image in images[:1]]
    assert np.abs(np.stack(tagger.embed(equal + images[1:])) - wanted).max() <= 1e-4
    assert tagger.embed([]) == []


def test_a_bundle_holds_only_what_inference_needs(bundle: Bundle) -> None:
    names = bundle.weights().keys()
    assert not any("relative_position_index" in name or "attn_mask" in name for name in names)
    assert any(name.startswith("text.") for name in names) == (bundle.manifest.kind == "tag2text")


def test_a_bf16_bundle_is_half_as_large_and_tags_nearly_alike(
    published: Published, bundle: Bundle, tmp_path: Path
) -> None:
    half = published.imported(tmp_path / "half", dtype="bf16")
    assert half.manifest.files["weights.safetensors"].bytes < 0.6 * bundle.manifest.files["weights.safetensors"].bytes
    logits = build_tagger(half, CPU, "fp32").forward([pixels(0)])[0]
    assert np.abs(logits - published.subject.arrays["logits"][0]).max() < 0.5


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_other_precisions_pass_their_golden_check(bundle: Bundle, precision: Any) -> None:
    build_tagger(bundle, CPU, precision).warm_up()


def test_damaged_weights_do_not_pass_the_golden_check(bundle: Bundle) -> None:
    tagger = build_tagger(bundle, CPU, "fp32")
    norm = engine_of(bundle, CPU, "fp32").model.encoder.norm
    kept = norm.weight.clone()
    try:
        norm.weight.mul_(-1)
        with pytest.raises(Broken, match="golden answers"):
            tagger.warm_up()
    finally:
        norm.weight.copy_(kept)


def test_an_imported_checkpoint_captions_like_the_original_program(
    tmp_path: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = Published("tag2text", tmp_path_factory.mktemp("captions"), vocabulary)
    captioner = build_captioner(source.imported(tmp_path / "tag2text"), CPU, "fp32")
    captioner.warm_up()
    wanted = source.subject.facts["captions"]["original"]["beam3_max30"]
    # the made-up vocabulary cuts guides in another way, so the real ids are put in its place
    captioner._wordpiece = _Recorded(captioner._wordpiece)  # type: ignore[assignment]
    found = captioner.forward([pixels(0), pixels(1)], [caption["guide"] for caption in wanted])
    assert [list(each.ids) for each in found] == [caption["ids"] for caption in wanted]
    caption = captioner.postprocess(found[0])
    assert caption.method == "beam"
    assert caption.score == found[0].score < 0


def test_a_captioner_takes_the_tokens_that_the_tagger_of_its_bundle_left(random_tag2text: Bundle) -> None:
    tagger = build_tagger(random_tag2text, CPU, "fp32")
    captioner = build_captioner(random_tag2text, CPU, "fp32")
    runs = []
    encoder = engine_of(random_tag2text, CPU, "fp32").model.encoder
    encoder.register_forward_hook(lambda module, inputs, output: runs.append(len(output)))
    images = [sample_image(64, seed) for seed in (0, 1)]
    tagger.forward(images)
    together = captioner.forward(images[::-1], ["a", "b"])
    assert runs == [2]
    alone = captioner.forward(images[::-1], ["a", "b"])
    assert runs == [2, 2]
    assert [each.ids for each in together] == [each.ids for each in alone]


def test_a_captioner_without_a_tagger_keeps_nothing(random_tag2text: Bundle) -> None:
    captioner = build_captioner(random_tag2text, CPU, "fp32")
    image = sample_image(64)
    captioner.forward([image], [""])
    assert engine_of(random_tag2text, CPU, "fp32")._kept.row(image) is None


@pytest.mark.parametrize("check", TAGGER_CHECKS, ids=lambda check: str(check.__name__))
@pytest.mark.parametrize("kind", KINDS)
def test_the_tagger_keeps_the_promises_of_its_port(
    random_bundles: Callable[[Kind], Bundle], kind: Kind, check: Callable[[Any], None]
) -> None:
    bundle = random_bundles(kind)

    def load(allow: Sequence[str] | None) -> Tagger:
        return build_tagger(bundle, CPU, "fp32", None if allow is None else label_ids(bundle, allow))

    check(load)


@pytest.mark.parametrize("check", CAPTIONER_CHECKS, ids=lambda check: str(check.__name__))
def test_the_captioner_keeps_the_promises_of_its_port(random_tag2text: Bundle, check: Callable[[Any], None]) -> None:
    def load() -> Captioner:
        return build_captioner(random_tag2text, CPU, "fp32")

    check(load)


def test_random_weights_say_so_and_are_the_same_for_a_seed(tmp_path: Path) -> None:
    one, same, other = (
        random_bundle("ram", tmp_path / str(i), seed=seed, config=SMALL["ram"]) for i, seed in enumerate((1, 1, 2))
    )
    assert one.digest == same.digest != other.digest
    assert build_tagger(one, CPU, "fp32").random_weights


def test_a_ram_bundle_can_not_caption(random_bundles: Callable[[Kind], Bundle]) -> None:
    with pytest.raises(Misconfigured, match="can't caption"):
        build_captioner(random_bundles("ram"), CPU, "fp32")


def test_decoding_options_are_read_from_the_bundle(random_tag2text: Bundle) -> None:
    plain = build_captioner(random_tag2text, CPU, "fp32")
    other = _with_options(random_tag2text, {"decoding": {"method": "greedy", "max_length": 12}})
    greedy = build_captioner(other, CPU, "fp32")
    assert greedy.decoding.method == "greedy"
    assert greedy.options_digest != plain.options_digest
    assert len(greedy.forward([sample_image(64)], [""])[0].ids) <= 12
    for wrong in ({"method": "best"}, {"beams": 0}, {"colour": 1}):
        with pytest.raises(Misconfigured, match="decoding"):
            build_captioner(_with_options(random_tag2text, {"decoding": wrong}), CPU, "fp32")


@pytest.fixture(scope="module")
def ram(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Published:
    return Published("ram", tmp_path_factory.mktemp("wrong"), vocabulary)


class TestWrongFiles:
    def test_a_checkpoint_of_another_network(self, ram: Published, tmp_path: Path) -> None:
        other = tmp_path / "other.pth"
        torch.save({"model": {"conv1.weight": torch.zeros(3)}}, other)
        with pytest.raises(Misconfigured, match=r"no checkpoint of RAM, RAM\+\+ or Tag2Text"):
            import_checkpoint(other, tmp_path / "out", ram.lists)

    def test_another_size_than_the_published_one(self, ram: Published, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match=r"ram\.pth: .* has the shape"):
            import_checkpoint(ram.file, tmp_path / "out", ram.lists)

    @pytest.mark.parametrize("which", ["tags", "thresholds"])
    def test_a_list_of_the_wrong_length(self, ram: Published, tmp_path: Path, which: str) -> None:
        short = tmp_path / f"{which}.txt"
        short.write_text("0.5\n" * 59)
        lists = replace(ram.lists, tags=short) if which == "tags" else replace(ram.lists, thresholds=short)
        with pytest.raises(Misconfigured, match=rf"{which}\.txt has 59 lines where the checkpoint has 60 labels"):
            import_checkpoint(ram.file, tmp_path / "out", lists, config=ram.config)
        assert not (tmp_path / "out").exists()

    def test_another_checksum(self, ram: Published, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match="download it again"):
            ram.imported(tmp_path / "out", sha256="0" * 64)

    def test_tag2text_without_its_vocabulary(self, tmp_path: Path, vocabulary: Path) -> None:
        source = Published("tag2text", tmp_path, vocabulary)
        with pytest.raises(Misconfigured, match=r"vocab\.txt"):
            import_checkpoint(source.file, tmp_path / "o", replace(source.lists, vocabulary=None), config=source.config)
        wrong = replace(source.lists, vocabulary=source.lists.tags)
        with pytest.raises(Misconfigured, match="bert-base-uncased"):
            import_checkpoint(source.file, tmp_path / "o", wrong, config=source.config)


def test_progress_is_reported_to_the_end(tmp_path: Path, vocabulary: Path) -> None:
    told: dict[str, tuple[int, int]] = {}
    Published("ram", tmp_path, vocabulary).imported(
        tmp_path / "out", progress=lambda doing, done, total: told.__setitem__(doing, (done, total))
    )
    assert {doing: done == total for doing, (done, total) in told.items()} == {
        "reading the checkpoint": True,
        "converting tensors": True,
        "writing the bundle and its golden answers": True,
    }
    assert told["converting tensors"][0] > 100


def test_tag2text_has_its_published_thresholds_without_a_list(tmp_path: Path, vocabulary: Path) -> None:
    source = Published("tag2text", tmp_path, vocabulary)
    bundle = import_checkpoint(
        source.file, tmp_path / "out", replace(source.lists, thresholds=None), config=source.config, dtype="fp32"
    )
    wanted = source.subject.arrays["class_threshold"].copy()
    wanted[list(TAG2TEXT_SILENT)] = 1.0
    assert np.allclose(bundle.thresholds, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_in_a_checkpoint_identify_it(kind: Kind) -> None:
    assert kind_in(checkpoint(kind, SMALL[kind], 0.0, full=False)) == kind


@pytest.fixture(scope="module")
def random_bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Bundle]:
    made: dict[Kind, Bundle] = {}

    def bundle_of(kind: Kind) -> Bundle:
        if kind not in made:
            folder = tmp_path_factory.mktemp("random") / kind
            made[kind] = small_bundle(kind, folder)
        return made[kind]

    return bundle_of


@pytest.fixture(scope="module")
def random_tag2text(random_bundles: Callable[[Kind], Bundle]) -> Bundle:
    return random_bundles("tag2text")


class _Recorded:
    """A tokenizer that knows the ids of the reference's guides."""

    def __init__(self, plain: WordPiece) -> None:
        self.guide = guide_ids
        self.caption = plain.caption


def _with_options(bundle: Bundle, options: dict[str, Any]) -> Bundle:
    return Bundle(bundle.folder, bundle.manifest.model_copy(update={"options": options}))
