"""Full-size bundles of seeded random weights, for benchmarks and trials.

The answers mean nothing, and the bundle's provenance says so in every event. Scales are chosen such that activations
stay in range, a handful of labels pass their thresholds, and captions end now and then.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.manifest import Provenance
from workers.models.ram.adapters import golden_of
from workers.models.ram.config import PUBLISHED, AnyConfig, Kind
from workers.models.ram.importer import DEFAULT_THRESHOLD, DTYPES, MEAN, STD, Progress, WeightDtype, manifest_of
from workers.models.ram.networks import empty_model, filled_model
from workers.models.ram.wordpiece import PROMPT, PROMPT_IDS, SEP, SPECIAL, VOCABULARY_SIZE
from workers.models.tagger import sample_image

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
        seed: the same seed gives the same weights.
        config: other sizes, of this kind.
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
        golden=lambda made: golden_of(made, choose_device("cpu")),
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
    """Standard deviation of a weight."""
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
