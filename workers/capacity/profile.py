"""What an image costs on one kind of machine with one model: measured by `tagstream bench`, or built in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import fmean
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.text import first_fault

MOST_BYTES = 1 << 20
"""Of a profile's file."""

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class Decoded(BaseModel):
    """One image's header, pixels and resizing.

    Args:
        core_s: seconds of one processor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    megapixels: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
    core_s: Seconds

    @property
    def rounded(self) -> float:
        """Megapixels, as far as images count as of one size."""
        return round(self.megapixels, 1) or self.megapixels


class MachineProfile(BaseModel):
    """What an image costs.

    Args:
        name: of the model and its precision.
        machine: where it was measured.
        device: where the model runs.
        single_s: seconds of a batch of one image.
        batch: images of a full batch.
        batch_s: seconds of a full batch.
        device_cores: processors that are busy meanwhile.
        decoded: some images and what they cost; what others cost lies between them.
        known_core_s: of an event whose results are in the cache, seconds of one processor. One interpreter does this
            for all events of a worker.
        new_core_s: what an image that is not known costs beside that, its decoding and the model.
        new_interpreter_s: how much of that the one interpreter does, at most: user time of the worker's own process,
            where the model costs nothing.
        weights_bytes: of all bundles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Annotated[Literal["tagstream-profile/1"], Field(alias="schema")] = "tagstream-profile/1"
    name: Annotated[str, Field(max_length=200)]
    machine: Annotated[str, Field(max_length=200)]
    device: Literal["cpu", "cuda"] = "cpu"
    single_s: Seconds
    batch: Annotated[int, Field(ge=1, le=4096)]
    batch_s: Seconds
    device_cores: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)]
    decoded: Annotated[tuple[Decoded, ...], Field(min_length=1, max_length=10_000, fail_fast=True)]
    known_core_s: Seconds = 0.00024
    new_core_s: Seconds = 0.006
    new_interpreter_s: Seconds = 0.002
    weights_bytes: Annotated[int, Field(ge=0, le=10**13)]

    @property
    def image_s(self) -> float:
        """Seconds of the device for an image, in full batches."""
        return self.batch_s / self.batch

    @property
    def megapixels(self) -> float:
        """Of an image, in the mean of those that were measured."""
        return fmean(each.megapixels for each in self.decoded)

    def batch_core_s(self, images: float) -> float:
        """Seconds of one processor for a batch: a part for each batch, and one for each of its images."""
        growth = (self.batch_s - self.single_s) / (self.batch - 1) if self.batch > 1 else self.single_s
        return (self.single_s + growth * (images - 1)) * self.device_cores

    def decode_core_s(self, megapixels: float) -> float:
        """Seconds of one processor to decode an image of that size; for many sizes see `decoder`."""
        return self.decoder()(megapixels)

    def decoder(self) -> Callable[[float], float]:
        """What an image of so many megapixels costs: between and beyond those measured by the line through the two next
        to it, and never less than the smallest one's share."""
        by_size: dict[float, list[float]] = defaultdict(list)
        for each in self.decoded:
            by_size[each.rounded].append(each.core_s)
        points = [(size, fmean(times)) for size, times in sorted(by_size.items())]

        def core_s(megapixels: float) -> float:
            smallest, least = points[0]
            if len(points) == 1:
                return least * megapixels / smallest
            for (left, low), (right, high) in pairwise(points):  # noqa: B007  # the last pair serves what is larger
                if megapixels <= right:
                    break
            straight = low + (high - low) * (megapixels - left) / (right - left)
            return max(straight, least * min(1.0, megapixels / smallest))

        return core_s


_JPEGS = tuple(Decoded(megapixels=size, core_s=core_s) for size, core_s in ((0.3, 0.005), (2, 0.02), (12, 0.132)))


def _on_processors(name: str, core_s: float, weights_bytes: int, batch: int) -> MachineProfile:
    """A profile of a CPU model from its seconds of one processor.

    They are an image's in full batches; one alone takes a fifth longer.
    """
    return MachineProfile(
        name=name,
        machine="Xeon with AMX" if name != "compact, fp32" else "EPYC",
        single_s=1.2 * core_s,
        batch=batch,
        batch_s=batch * core_s,
        device_cores=1,
        decoded=_JPEGS,
        weights_bytes=weights_bytes,
    )


BUILT_IN: Mapping[str, MachineProfile] = {
    "compact": _on_processors("compact, fp32", 0.013, 18_000_000, 4),
    "ram-bf16": _on_processors("RAM, bf16", 0.7, 420_000_000, 4),
    "ram-fp32": _on_processors("RAM, fp32", 2.3, 420_000_000, 2),
    "tag2text-bf16": _on_processors("Tag2Text, bf16", 0.5, 750_000_000, 4),
    "tag2text-fp32": _on_processors("Tag2Text, fp32", 1.8, 750_000_000, 2),
}
"""Measured on processors (docs/guide/performance.md); one's own machine is measured by `tagstream bench`."""


def parse_profile(content: bytes) -> MachineProfile:
    """A profile from the content of its file, of at most `MOST_BYTES`.

    Raises:
        ValueError: it is none; one line.
    """
    try:
        return MachineProfile.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None
