"""How much arithmetic an image takes, and how much a device can do: both in multiplications and additions.

Counted is the plain architecture, whatever an implementation spares by precomputing or folding; only label queries
that are the same for every image count as free.
"""

from __future__ import annotations

import time
from functools import singledispatch
from typing import NamedTuple

import torch
from torch import nn

from workers.models.device import Device, Precision
from workers.models.ram.config import AnyConfig, RamConfig, RamPlusConfig, SwinConfig, Tag2TextConfig, TextConfig

PATCH_VALUES = 4 * 4 * 3
GUIDE = 40
"""Tokens of a guide, padding included."""
CEILING_SIDES = {"cpu": 2048, "cuda": 8192}
"""Of the matrices that show what a device can do: large enough that starting a kernel is nothing beside it."""
CEILING_RUNS = 5


def encoder(config: SwinConfig) -> int:
    """Of one image."""
    grid, width = config.image_size // 4, config.width
    total = 2 * grid**2 * PATCH_VALUES * width
    for stage, depth in enumerate(config.depths):
        tokens, window = grid**2, min(config.window, grid)
        linear = 2 * tokens * width**2 * (3 + 1 + 8)
        attention = 4 * tokens * window**2 * width
        total += depth * (linear + attention)
        if stage + 1 < len(config.depths):
            total += 2 * (tokens // 4) * (4 * width) * (2 * width)
            grid, width = grid // 2, width * 2
    return total


class Attended(NamedTuple):
    """What the labels of a head attend to, and what it takes to have it.

    Args:
        width: of an image token.
        an_image: operations of projecting one image's tokens to this width.
        a_label: operations of making a label's query.
    """

    width: int
    an_image: int
    a_label: int


@singledispatch
def attended(config: AnyConfig) -> Attended:
    raise TypeError(config)


@attended.register
def _ram(config: RamConfig) -> Attended:
    return Attended(config.embedding, _projection(config), 0)


@attended.register
def _ram_plus(config: RamPlusConfig) -> Attended:
    width, embedding = config.head.width, config.embedding
    mixing = 2 * width**2 + 4 * config.descriptions * embedding + 2 * embedding * width
    return Attended(embedding, _projection(config), mixing)


@attended.register
def _tag2text(config: Tag2TextConfig) -> Attended:
    return Attended(config.encoder.width_out, 0, 0)


def _projection(config: RamConfig | RamPlusConfig) -> int:
    return 2 * image_tokens(config) * config.encoder.width_out * config.embedding


def head(config: AnyConfig, labels: int) -> int:
    """Of one image and so many labels."""
    tokens, memory = image_tokens(config), attended(config)
    width, hidden, layers = config.head.width, config.head.hidden, config.head.layers
    a_label = layers * (2 * width**2 + 4 * tokens * width + 4 * width * hidden)  # attention, its output, feed-forward
    queries = (layers - 1) * 2 * width**2 + memory.a_label
    return memory.an_image + layers * tokens * 4 * memory.width * width + labels * (a_label + queries)


def tag_encoder(config: Tag2TextConfig) -> int:
    """Of one image."""
    text, memory, tokens = config.text, config.encoder.width_out, image_tokens(config)
    a_layer = GUIDE * (_self_attention(text, GUIDE) + _cross_attention(text, tokens) + _feed_forward(text))
    return text.layers * (a_layer + tokens * 4 * memory * text.width)


def decoder(text: TextConfig, tokens: int, beams: int) -> int:
    """Of a caption of so many tokens, its prompt among them."""
    a_token = text.layers * (_self_attention(text, tokens // 2) + _cross_attention(text, GUIDE) + _feed_forward(text))
    words = 2 * text.width**2 + 2 * text.width * text.vocabulary
    return text.layers * GUIDE * 4 * text.width**2 + beams * tokens * (a_token + words)


def image_tokens(config: AnyConfig) -> int:
    """What the encoder leaves of an image."""
    side = config.encoder.image_size // (4 << (len(config.encoder.depths) - 1))
    return 1 + side**2


def _self_attention(text: TextConfig, seen: int) -> int:
    return 8 * text.width**2 + 4 * seen * text.width


def _cross_attention(text: TextConfig, seen: int) -> int:
    return 4 * text.width**2 + 4 * seen * text.width


def _feed_forward(text: TextConfig) -> int:
    return 4 * text.width * text.hidden


def ceiling(device: Device, precision: Precision, side: int = 0) -> float:
    """Operations a second of the quickest of some large linear layers in this precision.

    Args:
        side: of the matrices; 0: by `CEILING_SIDES`.
    """
    side = side or CEILING_SIDES[device.kind]
    with torch.inference_mode():
        layer = device.place(nn.Linear(side, side, bias=False), precision)
        x = torch.randn(side, side, device=device.where).to(device.dtype(precision))
        layer(x)
        quickest = float("inf")
        for _ in range(CEILING_RUNS):
            device.synchronise()
            started = time.perf_counter()
            layer(x)
            device.synchronise()
            quickest = min(quickest, time.perf_counter() - started)
    return 2 * side**3 / quickest
