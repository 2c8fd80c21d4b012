"""Divide data sets by the hashes of their images.

An image belongs to the part that its sha256 falls into. So no image is in two parts, whatever it is called; and as a
set grows, what was in a part stays there.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from tagstream_train.data.samples import DataSet, Sample, Some
from workers.errors import Misconfigured

DEFAULT: Final[Mapping[str, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}


def part_of(sha256: str, fractions: Mapping[str, float], *, salt: str = "") -> str:
    """The image's part, by its hash.

    Args:
        sha256: of the image's bytes, hex.
        fractions: by part, 1 in all; their order counts.
        salt: another one gives another division.
    """
    digest = hashlib.sha256(f"{salt}:{sha256}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    end = 0.0
    for part, fraction in fractions.items():
        end += fraction
        if place < end:
            return part
    return next(reversed([part for part, fraction in fractions.items() if fraction > 0]))


def split(
    samples: DataSet | Iterable[Sample], fractions: Mapping[str, float] = DEFAULT, *, salt: str = ""
) -> dict[str, Sequence[Sample]]:
    """The samples of each part, in order, parsed on demand.

    Raises:
        Misconfigured: fractions that are not 1 in all, a sample without a sha256, or a part that comes out empty.
    """
    if min(fractions.values(), default=-1.0) < 0 or not abs(sum(fractions.values()) - 1) < 1e-6:  # NaN is refused too
        shown = ", ".join(f"{part} {fraction:g}" for part, fraction in fractions.items())
        raise Misconfigured(f"The parts of a data set must be 1 in all, none below 0: {shown or 'there are none'}.")
    source = samples.lines() if isinstance(samples, DataSet) else _sequence(samples)
    parts = {part: array("q") for part in fractions}
    for number, sample in enumerate(source):
        if sample.sha256 is None:
            raise Misconfigured(
                f"{sample.image} has no sha256, by which parts are told apart: make the set with "
                "`tagstream train import`, which writes it."
            )
        parts[part_of(sample.sha256, fractions, salt=salt)].append(number)
    _refuse_empty(parts, fractions)
    return {part: Some(source, np.frombuffer(numbers, np.int64)) for part, numbers in parts.items()}


def _sequence(samples: Iterable[Sample]) -> Sequence[Sample]:
    return samples if isinstance(samples, Sequence) else list(samples)


def _refuse_empty(parts: Mapping[str, array[int]], fractions: Mapping[str, float]) -> None:
    for part, fraction in fractions.items():
        if fraction > 0 and not parts[part]:
            count = sum(map(len, parts.values()))
            raise Misconfigured(
                f"None of {count:,} images falls into the part {part!r} ({fraction:.0%}): "
                "it takes more images, or a larger part of them."
            )
