"""Results of the whole loop, and their spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers.errors import Misconfigured

FILE = "learned.json"
_LARGEST_BYTES = 1 << 20


class _Exact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Round(_Exact):
    """A round's training set and results, all in 0..1."""

    name: str
    bundle: str
    """The model's folder."""
    right: float
    """Part of the tags it learned from that are true."""
    found: float
    """Part of the true tags that it learned from."""
    test: float
    """Mean average precision on other images."""
    unseen: float
    """The same on images with a shape in a colour that it never saw together."""


class Learned(_Exact):
    """One seed's rounds, and CIDEr-D of captions with and without guide.

    `images` and `steps` say of which size the run was.
    """

    seed: int
    images: int
    steps: int
    rounds: Annotated[tuple[Round, ...], Field(fail_fast=True)]
    guided: float
    unguided: float

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Learned | None:
        """Read the folder's result, or None without one.

        Raises:
            Misconfigured: the file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                return cls.model_validate_json(file.read(_LARGEST_BYTES))
        except ValidationError:
            raise Misconfigured(f"{path} is damaged: remove {folder}, and the seed is run again.") from None


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over seeds.

    Args:
        above: of how many seeds the number is above 0, which tells for a gain how often it is one.
    """

    mean: float
    deviation: float
    above: int


def spread(numbers: Sequence[float]) -> Spread:
    """Mean and deviation of at least one number."""
    return Spread(fmean(numbers), stdev(numbers) if len(numbers) > 1 else 0.0, sum(number > 0 for number in numbers))


def gains(seeds: Sequence[Learned], measure: str) -> list[Spread]:
    """Each round's gain in a measure over the last, by seed."""
    values = [[float(getattr(each, measure)) for each in learned.rounds] for learned in seeds]
    pairs = [[later - earlier for earlier, later in pairwise(row)] for row in values]
    return [spread(column) for column in zip(*pairs, strict=True)]


def means(seeds: Sequence[Learned], measure: str) -> list[Spread]:
    """Each round's measure over all seeds."""
    return [spread(column) for column in zip(*([getattr(r, measure) for r in s.rounds] for s in seeds), strict=True)]
