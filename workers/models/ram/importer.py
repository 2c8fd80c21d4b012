"""Makes bundles: of a published checkpoint and its lists, or of seeded random weights.

Random ones are for benchmarks and trials. Their answers mean nothing, and the bundle's provenance says so in every
event. Scales are chosen such that activations stay in range, a handful of labels pass their thresholds, and captions
end now and then.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.files import lines_of, read_saved, require_sha256
from workers.models.manifest import Manifest, Provenance
from workers.models.pull import Progress, licence_of
from workers.models.ram.adapters import golden_of
from workers.models.ram.config import PUBLISHED, AnyConfig, Kind, from_json, to_json
from workers.models.ram.keys import translate
from workers.models.ram.networks import empty_model, filled_model
from workers.models.ram.sizes import sizes_in, trained_at, with_windows
from workers.models.ram.wordpiece import PROMPT, PROMPT_IDS, SEP, SPECIAL, VOCABULARY_SIZE, WordPiece
from workers.models.tagger import sample_image
from workers.types import Transform

WeightDtype = Literal["fp32", "bf16", "fp16"]

DTYPES: Mapping[WeightDtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
FLOOR = 0.1

DEFAULT_THRESHOLD = 0.68
PAPER_THRESHOLD = 0.86
"""RAM's paper shows its results under this one threshold."""
TAG2TEXT_PEOPLE = (2701, 2828, 1167)
"""person, man, woman: 0.7 in Tag2Text."""
TAG2TEXT_SILENT = (127, 2961, 3351, 3265, 3338, 3355, 3359)
"""quarter, back and the numbers from one to five, which Tag2Text never shows: no score exceeds 1."""


@dataclass(frozen=True, slots=True)
class Lists:
    """The text files that belong to a checkpoint.

    Args:
        thresholds: a number a line, as many as tags; None takes the published defaults.
        translations: language → file of as many lines as tags.
        vocabulary: WordPiece's vocab.txt; Tag2Text needs it.
    """

    tags: Path
    thresholds: Path | None = None
    translations: Mapping[str, Path] | None = None
    vocabulary: Path | None = None


def import_checkpoint(
    checkpoint: Path,
    out: Path,
    lists: Lists,
    *,
    dtype: WeightDtype = "bf16",
    config: AnyConfig | None = None,
    image_size: int | None = None,
    sha256: str | None = None,
    licence: str | None = None,
    progress: Progress = lambda doing, done, total: None,
    replace_existing: bool = False,
) -> Bundle:
    """Make a bundle of a published (or fine-tuned) checkpoint: only what inference needs, in `dtype`.

    The file is memory-mapped, so that an optimizer inside costs nothing; it is read once for its sha256.

    Args:
        config: sizes; None finds them in the file (`sizes.sizes_in`).
        image_size: side of the images, pixels, where no `config` says it; None takes the one that the checkpoint was
            trained with. For another, the relative position biases are resampled as the original programs do it.
        licence: of the weights; None: the published file's, if known.

    Raises:
        Misconfigured: a file that is no checkpoint, cut short, of another model, or not of this sha256; a list of the
            wrong length; a bundle that exists already. Nothing is left behind.
    """
    tensors = read_checkpoint(checkpoint)
    found = config or _sizes(checkpoint, tensors, image_size)
    labels = _lines(lists.tags, found.labels)
    translations = {language: _lines(path, found.labels) for language, path in (lists.translations or {}).items()}
    thresholds = _thresholds(lists, found)
    vocabulary = _vocabulary(lists, found)
    digest = require_sha256(checkpoint, sha256, partial(progress, "reading the checkpoint"))
    done = itertools.count(1)

    def convert(tensor: Tensor) -> Tensor:
        """Cast matrices; norms, biases and scales are few and stay as they are."""
        progress("converting tensors", next(done), len(tensors))
        return tensor.to(DTYPES[dtype]) if tensor.dim() > 1 else tensor

    try:
        weights = translate(with_windows(tensors, found.encoder.window), found, convert)
    except Misconfigured as error:
        raise Misconfigured(f"{checkpoint}: {error}") from None
    progress("converting tensors", len(tensors), len(tensors))  # those that were not read are not needed
    provenance = Provenance(
        source=checkpoint.name, sha256=digest, licence=licence or licence_of(found.facts.kind, digest)
    )
    progress("writing the bundle and its golden answers", 0, 1)
    bundle = Bundle.write(
        out,
        manifest_of(found, provenance, thresholds),
        weights=weights,
        labels=labels,
        translations=translations,
        vocabulary=vocabulary,
        golden=golden_of,
        replace_existing=replace_existing,
    )
    progress("writing the bundle and its golden answers", 1, 1)
    return bundle


def manifest_of(config: AnyConfig, provenance: Provenance, thresholds: float | tuple[float, ...]) -> Manifest:
    """The manifest of a bundle of these sizes, with the published transform."""
    return Manifest(
        kind=config.facts.kind,
        name=config.facts.name,
        provenance=provenance,
        transform=Transform(size=config.encoder.image_size),
        mean=MEAN,
        std=STD,
        thresholds=thresholds,
        profiles={} if config.facts.captions else {"paper": PAPER_THRESHOLD},
        floor=FLOOR,
        architecture=to_json(config),
    )


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors under their official names: any shapes, mapped from the file.

    Raises Misconfigured: it can't be read, or holds no model.
    """
    document = read_saved(path, remedy="download it again")
    model = document.get("model", document) if isinstance(document, dict) else None
    found = model.items() if isinstance(model, dict) else ()
    tensors = {name: value for name, value in found if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise Misconfigured(f"{path} holds no model: its weights should be under the key `model`.")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise Misconfigured(f"{path}: the tensor {name[:100]!r} is not a dense tensor of real numbers.")
    return tensors


def _sizes(path: Path, tensors: Mapping[str, Tensor], image_size: int | None) -> AnyConfig:
    try:
        found = sizes_in(tensors, image_size)
        return from_json(found.facts.kind, to_json(found))  # with its bounds checked
    except Misconfigured as error:
        raise Misconfigured(f"{path}: {error}") from None


def _thresholds(lists: Lists, config: AnyConfig) -> float | tuple[float, ...]:
    if lists.thresholds is not None:
        lines = _lines(lists.thresholds, config.labels)
        try:
            thresholds = tuple(float(line) for line in lines)
        except ValueError as error:
            raise Misconfigured(f"{lists.thresholds}: {error}.") from None
        if not all(0 <= threshold <= 1 for threshold in thresholds):  # written so that a NaN fails
            raise Misconfigured(f"{lists.thresholds}: a threshold must be a number from 0 to 1.")
        return thresholds
    if config.facts.kind != "tag2text" or config.labels != PUBLISHED["tag2text"].labels:
        return DEFAULT_THRESHOLD
    special = dict.fromkeys(TAG2TEXT_PEOPLE, 0.7) | dict.fromkeys(TAG2TEXT_SILENT, 1.0)
    return tuple(special.get(label, DEFAULT_THRESHOLD) for label in range(config.labels))


def _vocabulary(lists: Lists, config: AnyConfig) -> bytes | None:
    if not config.facts.captions:
        return None
    if lists.vocabulary is None:
        raise Misconfigured("Tag2Text needs the vocabulary of bert-base-uncased; give its vocab.txt.")
    WordPiece.read(lists.vocabulary)
    return lists.vocabulary.read_bytes()


def _lines(path: Path, wanted: int) -> list[str]:
    lines = lines_of(path)
    if len(lines) != wanted:
        raise Misconfigured(f"{path} has {len(lines):,} lines where the checkpoint has {wanted:,} labels.")
    return lines


def sizes_told(checkpoint: Path, bundle: Bundle) -> Iterator[str]:
    """Lines for people on the sizes of a bundle and its checkpoint."""
    encoder = from_json(bundle.manifest.kind, bundle.manifest.architecture).encoder
    side, trained = encoder.image_size, trained_at(read_checkpoint(checkpoint))
    yield f"Swin, {encoder.width} wide, {'-'.join(map(str, encoder.depths))} blocks, {side} x {side} pixels"
    if side != trained:
        yield (
            f"trained with {trained} x {trained} pixels: position biases were resampled, and answers will differ "
            "from those at its own size"
        )


SHOWN = 8
"""Tags of an image."""


def random_bundle(
    kind: Kind,
    out: Path,
    *,
    seed: int = 0,
    dtype: WeightDtype = "bf16",
    config: AnyConfig | None = None,
    vocabulary: bytes | None = None,
    progress: Progress = lambda doing, done, total: None,
    replace_existing: bool = False,
) -> Bundle:
    """Write a bundle of random weights of the published sizes.

    Args:
        vocabulary: a vocab.txt for Tag2Text; None makes one up.

    Raises:
        Misconfigured: the folder exists already.
    """
    sizes = PUBLISHED[kind] if config is None else config
    shapes = {name: tensor.shape for name, tensor in empty_model(sizes).state_dict().items()}
    weights: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for index, (name, shape) in enumerate(shapes.items()):
        drawn = _parameter(name, shape, generator)
        weights[name] = drawn.to(DTYPES[dtype]) if drawn.dim() > 1 else drawn
        progress("drawing weights", index + 1, len(shapes))
    weights["class_bias"] = _bias_that_shows(sizes, weights)
    progress("writing the bundle and its golden answers", 0, 1)
    made_up = "\n".join(made_up_vocabulary()).encode() + b"\n" if sizes.facts.captions else None
    bundle = Bundle.write(
        out,
        manifest_of(sizes, Provenance(source=f"seed {seed}", random=True), DEFAULT_THRESHOLD),
        weights=weights,
        labels=[f"label {number}" for number in range(sizes.labels)],
        vocabulary=vocabulary or made_up,
        golden=golden_of,
        replace_existing=replace_existing,
    )
    progress("writing the bundle and its golden answers", 1, 1)
    return bundle


def _bias_that_shows(config: AnyConfig, weights: dict[str, Tensor]) -> Tensor:
    """The bias with which `SHOWN` labels of a sample image are shown.

    Rounded to sixteenths, so that it is the same on processors that round sums differently.
    """
    model = filled_model(config, {name: tensor.float() for name, tensor in weights.items()})
    pixels = torch.from_numpy(sample_image(config.encoder.image_size)).permute(2, 0, 1)[None] / 255
    image = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    logits = model.score(model.embed(model.encode(image.float())))
    last = logits.topk(min(SHOWN, config.labels), dim=1).values[0, -1]
    shift = math.log(DEFAULT_THRESHOLD / (1 - DEFAULT_THRESHOLD)) - float(last)
    return torch.full_like(weights["class_bias"], math.ceil(shift * 16) / 16)


def _parameter(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name == "log_scale":
        return torch.tensor(math.log(1 / 0.07))
    if "norm" in name and name.endswith("weight"):
        return torch.ones(shape)
    drawn = torch.randn(shape, generator=generator)
    if name == "text.decoder.bias":
        drawn = drawn * 0.05
        drawn[SEP] += 3.2 * 0.15 * math.sqrt(768)
        return drawn
    if name == "class_bias":
        return torch.zeros(shape)
    if name.endswith("bias"):
        return drawn * 0.05
    return drawn.mul_(_scale(name, shape))


def _scale(name: str, shape: torch.Size) -> float:
    fan_in = math.prod(shape[1:])
    if name == "class_weight":
        return 2.5 / math.sqrt(fan_in)
    if "embeddings" in name:
        return 0.15
    if "bias_table" in name:
        return 0.5
    if name == "label_proj.weight":
        return 4.0
    if name == "label_embed":
        return 1.0 if fan_in > 512 else 1 / math.sqrt(fan_in)
    return 1 / math.sqrt(fan_in)


def made_up_vocabulary() -> Iterator[str]:
    """As many tokens as the real one has: its special ones and the prompt's words in their places, letters and digits
    alone and as the rest of a word, so that any text can be cut, and made-up words."""
    fixed = dict(SPECIAL) | dict(zip(PROMPT_IDS[1:], PROMPT.split(), strict=True))
    characters = string.ascii_lowercase + string.digits + string.punctuation
    taken = set(fixed.values())
    pieces = iter([piece for c in characters for piece in (c, f"##{c}") if piece not in taken])
    for index in range(VOCABULARY_SIZE):
        yield fixed.get(index) or next(pieces, f"word{index}")
