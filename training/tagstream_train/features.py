"""Vectors in files: CLIP's image and text features, and features that an earlier run computed.

CLIP's have two forms, both safetensors:

- a vector for each key, with the key as its name; for up to about a hundred thousand;
- one matrix, and its rows' keys in a text file: `images.safetensors` with `images.txt`, a key a line.

An image's key is its name in the data set or the sha256 of its bytes. A text's key is the text or the sha256 of its
UTF-8. Both hashes are in hex.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagstream_train.data.samples import Sample
from workers.errors import Misconfigured
from workers.models.files import reading_safetensors
from workers.models.ram.relabel import NORM_SLACK

_MOST_KEPT = 100_000
"""Tensors of a file: each has a name in its head."""


class Features:
    """Vectors by key, from a mapped file."""

    def __init__(self, path: Path, width: int | None = None) -> None:
        """
        Args:
            width: numbers that a vector must have; None: any, all alike.

        Raises:
            Misconfigured: the file can't be read, or holds something else.
        """
        self.path = path
        with reading_safetensors(path):
            tensors = load_file(path)
            self.width = _width(tensors, width)
            matrix = next((tensor for tensor in tensors.values() if tensor.dim() == 2), None)
            self._rows: Tensor | Sequence[Tensor] = list(tensors.values()) if matrix is None else matrix
            keys = tensors if matrix is None else _lines(path.with_suffix(".txt"))
            self._places = {key: place for place, key in enumerate(keys)}
        if not len(self._places) == len(keys) == len(self._rows):
            raise Misconfigured(
                f"{path} has {len(self._rows):,} rows, and {path.with_suffix('.txt').name} {len(self._places):,} "
                f"different keys in {len(keys):,} lines."
            )

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def keys(self) -> list[str]:
        return list(self._places)

    def rows(self, keys: Iterable[str]) -> Tensor:
        """(keys, width) float32.

        Raises:
            Misconfigured: a key is not there, or its vector is not of finite numbers.
        """
        rows = torch.stack([self._row(key) for key in keys])
        if not bool(torch.isfinite(rows).all()):
            raise Misconfigured(f"{self.path} has a vector with values that are not finite numbers.")
        return rows

    def units(self, keys: Iterable[str]) -> Tensor:
        """Vectors by key, normalised to length 1.

        Raises:
            Misconfigured: a vector has another length by more than rounding.
        """
        rows = self.rows(keys)
        lengths = torch.linalg.vector_norm(rows, dim=1)
        if bool(((lengths - 1).abs() > NORM_SLACK).any()):
            raise Misconfigured(
                f"{self.path}: vectors have lengths from {lengths.min():.3g} to {lengths.max():.3g}; divide each by "
                "its length, as CLIP's text features are meant to be compared."
            )
        units: Tensor = rows / lengths[:, None]
        return units

    def _row(self, key: str) -> Tensor:
        place = self._places.get(key)
        if place is None:
            raise Misconfigured(f"{self.path} has no vector for {key[:200]!r}.")
        return self._rows[place].float()


def image_key(features: Features, sample: Sample) -> str:
    """The file's key for this image: its sha256, else its name."""
    return sample.sha256 if sample.sha256 is not None and sample.sha256 in features else sample.image


def text_key(features: Features, text: str) -> str:
    """The file's key for this text: itself, else its sha256."""
    return text if text in features else hashlib.sha256(text.encode()).hexdigest()


def kept(file: Path) -> dict[str, Tensor]:
    """Tensors that an earlier run kept; empty if the file is missing or damaged."""
    with suppress(Misconfigured), reading_safetensors(file):
        return load_file(file)
    return {}


def keep(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors for the next run, if the folder is writable."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}")
        save_file(dict(list(tensors.items())[-_MOST_KEPT:]), scratch)
        scratch.replace(file)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode().removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} can't be read ({error}); it has a line for each row, its key.") from None


def _width(tensors: Mapping[str, Tensor], wanted: int | None) -> int:
    """The vectors' length."""
    shapes = sorted({tuple(tensor.shape) for tensor in tensors.values()})
    allowed = (1, 2) if len(tensors) == 1 else (1,)
    if len(shapes) != 1 or len(shapes[0]) not in allowed:
        raise ValueError(f"shapes {shapes[:3]} where vectors of one width belong, or one matrix")
    if odd := next((str(tensor.dtype) for tensor in tensors.values() if not tensor.is_floating_point()), None):
        raise ValueError(f"numbers of {odd}")
    width = shapes[0][-1]
    if wanted is not None and width != wanted:
        raise ValueError(f"vectors of {width:,} numbers where the model reads {wanted:,}")
    return width
