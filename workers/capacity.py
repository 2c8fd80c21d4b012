"""From images a day to workers, partitions, memory and brokers: arithmetic alone (docs/guide/sizing.md)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.text import first_fault

MOST_BYTES = 1 << 20
"""Of a profile's file."""

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class Decoded(BaseModel):
    """One image's header, pixels and resizing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    megapixels: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
    core_s: Seconds

    @property
    def rounded(self) -> float:
        """Megapixels, as far as images count as of one size."""
        return round(self.megapixels, 1) or self.megapixels


class MachineProfile(BaseModel):
    """The cost of an image on one machine.

    Args:
        single_s: seconds of a batch of one image.
        device_cores: processors that are busy meanwhile.
        decoded: some images and what they cost; what others cost lies between them.
        known_core_s: of an event whose results are in the cache, seconds of one processor. One interpreter does this
            for all events of a worker.
        new_core_s: what an image that is not known costs beside that, its decoding and the model.
        new_interpreter_s: how much of that the one interpreter does, at most: user time of the worker's own process,
            where the model costs nothing.
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
        """Mean megapixels of the measured images."""
        return fmean(each.megapixels for each in self.decoded)

    def decode_core_s(self, megapixels: float) -> float:
        """Seconds of one processor to decode an image of that size.

        Between and beyond those measured by the line through the two next to it, and never less than the smallest one's
        share.
        """
        by_size: dict[float, list[float]] = defaultdict(list)
        for each in self.decoded:
            by_size[each.rounded].append(each.core_s)
        points = [(size, fmean(times)) for size, times in sorted(by_size.items())]
        smallest, least = points[0]
        if len(points) == 1:
            return least * megapixels / smallest
        for (left, low), (right, high) in pairwise(points):  # noqa: B007  # the last pair serves what is larger
            if megapixels <= right:
                break
        straight = low + (high - low) * (megapixels - left) / (right - left)
        return max(straight, least * min(1.0, megapixels / smallest))


_JPEGS = tuple(Decoded(megapixels=size, core_s=core_s) for size, core_s in ((0.3, 0.005), (2, 0.02), (12, 0.132)))


def _on_processors(name: str, core_s: float, weights_bytes: int, batch: int) -> MachineProfile:
    """A CPU model's profile from core seconds in full batches; one alone takes a fifth more."""
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
"""Measured on processors (docs/guide/sizing.md); one's own machine is measured by `tagstream bench`."""


def parse_profile(content: bytes) -> MachineProfile:
    """A profile from the content of its file, of at most `MOST_BYTES`. Raises ValueError: it is none; one line."""
    try:
        return MachineProfile.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


DAY_S = 86_400
EVENT_BYTES, ENRICHED_BYTES = 160, 1_660
"""Of the README's own event and its outcome, as they are sent and uncompressed."""
STORED_BYTES = 450
"""Of an outcome's header with 50 scores; two thousand at the most. TAGSTREAM_KEEP_SCORES=off leaves it out."""
REDIS_BYTES = 3_000
"""Of one image in Redis, at the most (docs/guide/deploying.md)."""
BYTES_A_MEGAPIXEL = 300_000
"""Of a JPEG as cameras and telephones write them."""
PARTITIONS = (6, 12, 24, 48, 60, 120, 240, 360, 720, 1_440, 2_880, 5_760)
"""Numbers with many divisors: the autoscaler takes only numbers of workers that divide the partitions."""

Bound: TypeAlias = Literal["processors", "device", "interpreter"]


@dataclass(frozen=True)
class Demand:
    """The load to plan for.

    Args:
        megapixels: of an image; None: as those of the profile.
        image_bytes: of an image as it is stored; None: as a JPEG of its size.
        peak: the busiest hour's rate to the day's mean.
        known: share of the images whose bytes were seen before; they cost no model and no decoder.
        busy: share of a worker that may be at work in the busiest hour; the rest is for catching up.
        processes: of one worker (TAGSTREAM_WORKERS), each with an interpreter and partitions of its own.
        kept_days: how long the input topic keeps its records.
        cache_days: how long the cache keeps results.
        copies: of each record, by Kafka's replication.
        price: of one worker for one hour.
        caption_s: seconds of a caption where a service writes them (TAGSTREAM_CAPTIONER=https://…).
        caption_tokens: of one such caption, with prompt and image.
    """

    images_a_day: int
    megapixels: float | None = None
    image_bytes: int | None = None
    peak: float = 3.0
    known: float = 0.0
    busy: float = 0.7
    cores: int = 8
    processes: int = 1
    kept_days: int = 7
    cache_days: int = 30
    copies: int = 3
    price: float | None = None
    caption_s: float = 0.0
    caption_tokens: int = 0


@dataclass(frozen=True)
class CapacityPlan:
    """What a demand needs on machines of a profile."""

    demand: Demand
    profile: MachineProfile

    @property
    def megapixels(self) -> float:
        return self.demand.megapixels or self.profile.megapixels

    @property
    def mean(self) -> float:
        """Mean images a second over the day."""
        return self.demand.images_a_day / DAY_S

    @property
    def at_peak(self) -> float:
        """Images a second in the busiest hour."""
        return self.mean * self.demand.peak

    @property
    def new(self) -> float:
        """Share of images that need decoding and a model."""
        return 1 - self.demand.known

    @property
    def new_core_s(self) -> float:
        """Seconds of one processor for a new image."""
        own = self.profile
        decode_core_s = own.decode_core_s(self.megapixels)
        return own.known_core_s + own.new_core_s + decode_core_s + own.image_s * own.device_cores

    @property
    def core_s(self) -> float:
        """Mean seconds of one processor for an image, known or new."""
        return self.new * self.new_core_s + self.demand.known * self.profile.known_core_s

    @property
    def rates(self) -> dict[Bound, float]:
        """Images a second of one worker under each bound alone."""
        new_s = min(self.profile.new_core_s, self.profile.new_interpreter_s)
        bounds: dict[Bound, float] = {
            "processors": self.demand.cores / self.core_s,
            "interpreter": self.demand.processes / (self.profile.known_core_s + self.new * new_s),
        }
        # A model on processors shares them with all else, which the first bound counts.
        if self.profile.device == "cuda" and self.new:
            bounds["device"] = 1 / (self.profile.image_s * self.new)
        return bounds

    @property
    def bound(self) -> Bound:
        """The bottleneck of a worker."""
        return min(self.rates, key=lambda bound: self.rates[bound])

    @property
    def rate(self) -> float:
        """Images a second of one saturated worker."""
        return min(self.rates.values())

    @property
    def busy_workers(self) -> float:
        return self.at_peak / (self.rate * self.demand.busy)

    @property
    def workers(self) -> int:
        """Workers in the busiest hour; at least two, so that one can be replaced."""
        return max(2, math.ceil(self.busy_workers))

    @property
    def partitions(self) -> int:
        """At least two partitions for each process of a worker.

        Partitions of a topic with keys should not be added later.
        """
        wanted = 2 * self.workers * self.demand.processes
        return next((each for each in PARTITIONS if each >= wanted), wanted)

    @property
    def lag_threshold(self) -> int:
        """The autoscaler's threshold: events that a worker does in a minute.

        A worker more takes about as long to start and to have its partitions.
        """
        return max(1, round(60 * self.rate))

    @property
    def store_bytes_a_s(self) -> float:
        """Bytes a second from the store in the busiest hour. An image whose etag is known is not fetched."""
        return self.at_peak * self.new * (self.demand.image_bytes or BYTES_A_MEGAPIXEL * self.megapixels)

    @property
    def captions_at_once(self) -> int:
        """Concurrent requests for captions in the busiest hour."""
        return math.ceil(self.at_peak * self.new * self.demand.caption_s)

    @property
    def caption_tokens_a_day(self) -> int:
        return round(self.demand.images_a_day * self.new * self.demand.caption_tokens)

    @property
    def redis_bytes(self) -> float:
        return self.demand.images_a_day * self.new * REDIS_BYTES * self.demand.cache_days

    @property
    def redis_commands_a_s(self) -> float:
        """Redis commands a second in the busiest hour: two lookups an image, two writes for a new one."""
        return self.at_peak * (2 + 2 * self.new)

    @property
    def input_bytes(self) -> int:
        """Bytes of the input topics on the brokers' disks."""
        return self.demand.images_a_day * EVENT_BYTES * self.demand.kept_days * self.demand.copies

    @property
    def output_bytes_a_day(self) -> int:
        """Bytes of a day's outcomes on the disks, with stored scores."""
        return self.demand.images_a_day * (ENRICHED_BYTES + STORED_BYTES) * self.demand.copies

    @property
    def broker_bytes_a_s(self) -> float:
        """Bytes a second that all brokers write in the busiest hour."""
        return self.at_peak * (EVENT_BYTES + ENRICHED_BYTES + STORED_BYTES) * self.demand.copies

    @property
    def catch_up_h(self) -> float:
        """Hours to work off one hour's outage at the day's mean rate."""
        return self.mean / (self.workers * self.rate - self.mean)

    @property
    def cost_a_day(self) -> float | None:
        """Cost a day of workers that follow the load; at least two always run."""
        if self.demand.price is None:
            return None
        hours = self.demand.images_a_day / (self.rate * self.demand.busy) / 3600
        return max(hours, 2 * 24) * self.demand.price
