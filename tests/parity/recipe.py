"""Weights and images that anyone can make again: a name, a shape and a salt give the numbers.

The original programs were filled with these under their own parameter names; `reference/` has their answers. Tensors
that a checkpoint holds under two names are drawn once, under the name in `canonical`.
"""

import math
import re
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SALT = "A"
END_TOKEN = 102

_SHARED_HEAD = re.compile(r"tagging_head(\.encoder\.layer\.[01]\.(crossattention|intermediate|output)\..*)")
_OUTPUT_MATRIX = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}


def canonical(name: str, *, has_tag_encoder: bool) -> str:
    """The name that a tensor's values are drawn under; a model without a tag encoder shares nothing with it."""
    shared = _SHARED_HEAD.fullmatch(name)
    if shared and has_tag_encoder:
        return f"tag_encoder{shared[1]}"
    return _OUTPUT_MATRIX.get(name, name)


def parameter(name: str, shape: tuple[int, ...], *, full: bool, text_width: int) -> Floats:
    """Values of the official parameter with this canonical name."""
    if name == "reweight_scale":
        return np.full(shape, math.log(1 / 0.07), np.float32)
    if name == "fc.bias":
        return np.full(shape, -1, np.float32)
    drawn = _normal(f"{SALT}:{name}", shape)
    if name == "label_embed":
        unit: Floats = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
        return unit
    if name == "label_embed.weight":
        return drawn
    if name == "fc.b":
        return drawn * np.float32(0.5) - np.float32(4)
    if "LayerNorm.weight" in name or ("norm" in name and name.endswith("weight")):
        return np.float32(0.1) * drawn + 1
    if name.endswith("bias"):
        return _bias(name, drawn, text_width)
    return drawn * np.float32(_scale(name, shape, full))


def image(index: int, height: int = 427, width: int = 640) -> NDArray[np.uint8]:
    """(height, width, 3) RGB: colour waves under grain."""
    random = _random(f"{SALT}:picture:{index}")  # as in the references: another name, other pixels
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    channels = [(np.sin(fx * x + px) * np.cos(fy * y + py) + 1) / 2 for fx, px, fy, py in random.random((3, 4)) * 12]
    grain = 0.15 * random.standard_normal((height, width, 3))
    levels: NDArray[np.uint8] = (np.clip(np.stack(channels, -1) + grain, 0, 1) * 255).round().astype(np.uint8)
    return levels


def _scale(name: str, shape: tuple[int, ...], full: bool) -> float:
    """Standard deviation of a weight; the first rule that fits counts."""
    fan_in = shape[-1]
    decoder = "text_decoder" in name
    rules: list[tuple[bool, Callable[[], float]]] = [
        (name in ("fc.W", "fc.weight"), lambda: 2.5 / math.sqrt(fan_in)),
        ("relative_position_bias_table" in name, lambda: 0.5),
        ("position_embeddings" in name, lambda: 0.4 if decoder else 0.05),
        ("word_embeddings" in name, lambda: 0.15 if decoder else 0.05),
        (len(shape) == 4, lambda: 1 / math.sqrt(math.prod(shape[1:]))),
        (name.endswith(("query.weight", "key.weight")) or "qkv" in name, lambda: 1.5 / math.sqrt(fan_in)),
        ("wordvec_proj" in name, lambda: 4.0),
        (full and decoder and "output.dense" in name, lambda: 0.3 / math.sqrt(fan_in)),
        (True, lambda: 1 / math.sqrt(fan_in)),
    ]
    return next(scale() for fits, scale in rules if fits)


def _bias(name: str, drawn: Floats, text_width: int) -> Floats:
    values = np.float32(0.05) * drawn
    if name == "text_decoder.cls.predictions.bias":
        values[END_TOKEN] += np.float32(3.2 * 0.15 * math.sqrt(text_width))
    return values


def _normal(key: str, shape: tuple[int, ...]) -> Floats:
    return _random(key).standard_normal(shape, dtype=np.float32)


def _random(key: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(zlib.crc32(key.encode())))
