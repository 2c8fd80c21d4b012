"""Makes a bundle of a published dual encoder: weights in either layout, and its tokenizer.json.

Also writes such files of random weights, small ones: a rehearsal that needs no hub.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.bundle import BESIDE, TEXT, TOKENIZER, Bundle, Golden, metadata_of, read_tensors, write_tensors
from workers.models.device import choose_device
from workers.models.dual.adapters import IMAGE, build_tagger
from workers.models.dual.config import KINDS, DualConfig, Kind, TowerConfig, to_json
from workers.models.dual.layouts import published_name, read
from workers.models.dual.text import MAX_TOKENIZER_BYTES, SPECIAL, TokenIds, open_text
from workers.models.dual.towers import ImageTower, TextTower, shapes
from workers.models.files import bytes_of, disk_faults, require_sha256
from workers.models.manifest import Manifest, Provenance, Thresholds
from workers.models.pull import Progress
from workers.models.ram.importer import DTYPES, WeightDtype
from workers.models.tagger import golden_answers
from workers.types import Transform

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
FLOOR = 0.01
RANDOM = "random"
"""In a file's metadata: its weights are random."""
SENTENCE = "a photo of a cat"
"""A sentence that a new bundle's text tower must encode."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the weights come from.

    Args:
        space: names the vector space; empty: one of the file's own, by its sha256.
        source: the published file; empty: the file's name.
    """

    name: str = ""
    space: str = ""
    source: str = ""
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of a bundle, as its tensors have them (`dual.adapters`).

    Args:
        tensors: `labels.vectors`, `labels.a`, `labels.b`, and for CLIP `labels.background`.
        translations: language → as many names.
        parents: wider names of each label, nearest first; empty: of none.
    """

    names: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    thresholds: Thresholds = 0.5
    translations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parents: Sequence[Sequence[str]] = ()


def import_dual(
    weights: Path,
    tokenizer: Path,
    out: Path,
    origin: Origin,
    *,
    dtype: WeightDtype = "bf16",
    image_size: int | None = None,
    sha256: str | None = None,
    progress: Progress = lambda doing, done, total: None,
    replace_existing: bool = False,
) -> Bundle:
    """Make a bundle without labels: it gives vectors of images and of sentences.

    Args:
        weights: a safetensors file in the layout of transformers, of open_clip, or of OpenAI.
        image_size: side of the images, pixels; None takes what the patches cover.

    Raises:
        Misconfigured: files that are damaged, too large, of another model or of another sha256; a tokenizer of another
            model; a bundle that exists already. Nothing is left behind.
    """
    digest = require_sha256(weights, sha256, partial(progress, "reading the weights")) if weights.is_file() else ""
    space = origin.space or f"own-{digest[:16]}"
    target = DTYPES[dtype]

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(target if tensor.dim() > 1 else torch.float32).contiguous()

    try:
        found = read(read_tensors(weights), space, side=image_size, convert=convert)
    except Misconfigured as error:
        raise error if str(weights) in str(error) else Misconfigured(f"{weights}: {error}") from None
    content = bytes_of(tokenizer, MAX_TOKENIZER_BYTES)
    TokenIds(content, found.config, tokenizer)([SENTENCE])  # fits the text tower
    drawn = RANDOM in metadata_of(weights)
    provenance = Provenance(source=origin.source or weights.name, sha256=digest, licence=origin.licence, random=drawn)
    progress("writing the bundle and its golden answers", 0, 1)
    made = Bundle.write(
        out,
        manifest_of(found.config, origin.name or space, provenance),
        weights={IMAGE + name: tensor for name, tensor in found.image.items()},
        beside={TEXT: lambda path: write_tensors(path, found.text), TOKENIZER: lambda path: path.write_bytes(content)},
        golden=_golden,
        replace_existing=replace_existing,
    )
    progress("writing the bundle and its golden answers", 1, 1)
    return made


def manifest_of(config: DualConfig, name: str, provenance: Provenance) -> Manifest:
    """The manifest of a bundle, with the published preprocessing of its kind."""
    side, clip = config.side, config.kind == "clip"
    return Manifest(
        kind=config.kind,
        name=name,
        provenance=provenance,
        transform=Transform(side, "crop", side, "bicubic") if clip else Transform(side, "squash"),
        mean=CLIP_MEAN if clip else HALF,
        std=CLIP_STD if clip else HALF,
        floor=FLOOR,
        architecture=to_json(config),
    )


def with_labels(
    bundle: Bundle, out: Path, labels: Labels, *, source: str = "", replace_existing: bool = False
) -> Bundle:
    """Write a copy of a dual encoder's bundle with these labels.

    They take the place of its own; the text tower is copied too. Raises Misconfigured: a bundle of another kind,
    tensors that do not fit it, or a folder that exists.
    """
    if bundle.manifest.kind not in KINDS:
        raise Misconfigured(f"{bundle.folder} is a bundle of the kind {bundle.manifest.kind!r}, not a dual encoder.")
    tower = {name: each for name, each in bundle.weights().items() if name.startswith(IMAGE)}
    provenance = bundle.manifest.provenance
    if source:
        first = provenance.source.partition(", labels of ")[0]
        provenance = provenance.model_copy(update={"source": f"{first}, labels of {source}"})
    options = {name: each for name, each in bundle.manifest.options.items() if name not in ("added", "own")}
    update: dict[str, Any] = {
        "provenance": provenance,
        "options": options,
        "thresholds": labels.thresholds,
        "profiles": {},
    }
    there = [name for name in BESIDE if (bundle.folder / name).is_file()]
    return Bundle.write(
        out,
        bundle.manifest.model_copy(update=update),
        weights={**tower, **labels.tensors},
        labels=labels.names,
        translations=labels.translations,
        parents=labels.parents,
        beside={name: partial(_copied, bundle.beside(name)) for name in there},
        golden=lambda made: golden_answers(build_tagger(made, choose_device("cpu"), "fp32")),
        replace_existing=replace_existing,
    )


def _copied(source: Path, path: Path) -> None:
    """Link a file under a second name, or copy it."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _golden(bundle: Bundle) -> Golden:
    """Golden answers, once the text tower has given numbers too."""
    vector = open_text(bundle).encode([SENTENCE])
    if not bool(vector.isfinite().all()):
        raise Misconfigured(f"{bundle.folder}: the text tower gives no numbers: damaged weights.")
    return golden_answers(build_tagger(bundle, choose_device("cpu"), "fp32"))


_BYTES: Final = tuple(f"<0x{byte:02X}>" for byte in range(256))
_TOWER: Final = TowerConfig(width=64, hidden=256, layers=2, heads=1)
_SIGLIP: Final = DualConfig("siglip", "random", 64, 16, _TOWER, _TOWER, 260, 64, 64, scale=4.7, bias=-16.0)
SIZES: Final[Mapping[Kind, DualConfig]] = {"siglip": _SIGLIP, "clip": replace(_SIGLIP, kind="clip", bias=0.0)}
"""Images of 64 pixels; the text tower reads 62 bytes."""


def write_checkpoint(kind: Kind, weights: Path, tokenizer: Path, seed: int) -> None:
    """Write both files that `models import` reads. Raises Misconfigured: the disk is full."""
    from safetensors.torch import save_file

    with disk_faults(weights):
        save_file(_parameters(SIZES[kind], seed), weights, metadata={RANDOM: f"seed {seed}"})
        tokenizer.write_text(_made_up_tokenizer(kind), encoding="utf-8")


def _parameters(config: DualConfig, seed: int) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    tensors = {"logit_scale": torch.tensor(config.scale)}
    if config.kind == "siglip":
        tensors["logit_bias"] = torch.tensor(config.bias)
    for side, tower in (("image", ImageTower), ("text", TextTower)):
        for name, shape in shapes(tower, config).items():
            scale = 0.01 if len(shape) < 2 or name in ("tokens", "positions") else shape[-1] ** -0.5
            drawn = scale * torch.randn(shape, generator=made)
            is_gain = "norm" in name and name.endswith("weight")
            tensors[published_name(f"{side}.{name}")] = drawn + 1 if is_gain else drawn
    return tensors


def _made_up_tokenizer(kind: Kind) -> str:
    """A tokenizer.json that cuts any text into its bytes."""
    from tokenizers import Tokenizer, models

    pieces = (*SPECIAL[kind], "<unk>", *_BYTES)
    numbers = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(numbers, [], unk_token="<unk>", byte_fallback=True))
    made.add_special_tokens(list(SPECIAL[kind]))
    return str(made.to_str())
