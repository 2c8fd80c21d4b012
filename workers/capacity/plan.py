"""What a number of images a day needs. docs/guide/sizing.md explains each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from workers.capacity.profile import MachineProfile

DAY_S = 86_400
EVENT_BYTES, ENRICHED_BYTES = 160, 1_420
"""Of the README's own event and its outcome, as they are sent and uncompressed."""
REDIS_BYTES = 3_000
"""Of one image in Redis, at the most (docs/guide/deploying.md)."""
BYTES_A_MEGAPIXEL = 300_000
"""Of a JPEG as cameras and telephones write them."""
PARTITIONS = (6, 12, 24, 48, 60, 120, 240, 360, 720, 1_440, 2_880, 5_760)
"""Numbers with many divisors: the autoscaler takes only numbers of workers that divide the partitions."""

Bound: TypeAlias = Literal["processors", "device", "interpreter"]


@dataclass(frozen=True)
class Demand:
    """What is known beforehand.

    Args:
        megapixels: of an image; None: as those of the profile.
        image_bytes: of an image as it is stored; None: as a JPEG of its size.
        peak: the busiest hour's rate to the day's mean.
        known: share of the images whose bytes were seen before; they cost no model and no decoder.
        busy: share of a worker that may be at work in the busiest hour; the rest is for catching up.
        cores: processors of one worker.
        kept_days: how long the input topic keeps its records.
        cache_days: how long the cache keeps results.
        copies: of each record, by Kafka's replication.
        price: of one worker for one hour.
    """

    images_a_day: int
    megapixels: float | None = None
    image_bytes: int | None = None
    peak: float = 3.0
    known: float = 0.0
    busy: float = 0.7
    cores: int = 8
    kept_days: int = 7
    cache_days: int = 30
    copies: int = 3
    price: float | None = None


@dataclass(frozen=True)
class CapacityPlan:
    """What a demand needs on machines of a profile."""

    demand: Demand
    profile: MachineProfile

    @property
    def megapixels(self) -> float:
        return self.demand.megapixels or self.profile.megapixels

    @property
    def image_bytes(self) -> float:
        return self.demand.image_bytes or BYTES_A_MEGAPIXEL * self.megapixels

    @property
    def mean(self) -> float:
        """Images a second, over the day."""
        return self.demand.images_a_day / DAY_S

    @property
    def at_peak(self) -> float:
        """Images a second in the busiest hour."""
        return self.mean * self.demand.peak

    @property
    def new(self) -> float:
        """Share of the images that cost a decoder and a model."""
        return 1 - self.demand.known

    @property
    def decode_core_s(self) -> float:
        return self.profile.decode_core_s(self.megapixels)

    @property
    def new_core_s(self) -> float:
        """Seconds of one processor for an image that was not seen before."""
        own = self.profile
        return own.known_core_s + own.new_core_s + self.decode_core_s + own.image_s * own.device_cores

    @property
    def interpreter_s(self) -> float:
        """Seconds of the worker's interpreter for each new image alone."""
        return min(self.profile.new_core_s, self.profile.new_interpreter_s)

    @property
    def core_s(self) -> float:
        """The same for an image in the mean, whether known or new."""
        return self.new * self.new_core_s + self.demand.known * self.profile.known_core_s

    @property
    def rates(self) -> dict[Bound, float]:
        """Images a second of one worker under each bound alone."""
        bounds: dict[Bound, float] = {
            "processors": self.demand.cores / self.core_s,
            "interpreter": 1 / (self.profile.known_core_s + self.new * self.interpreter_s),
        }
        # A model on processors shares them with all else, which the first bound counts.
        if self.profile.device == "cuda" and self.new:
            bounds["device"] = 1 / (self.profile.image_s * self.new)
        return bounds

    @property
    def bound(self) -> Bound:
        """What bounds a worker."""
        return min(self.rates, key=lambda bound: self.rates[bound])

    @property
    def rate(self) -> float:
        """Images a second of one worker that has enough to do."""
        return min(self.rates.values())

    @property
    def busy_workers(self) -> float:
        return self.at_peak / (self.rate * self.demand.busy)

    @property
    def workers(self) -> int:
        """In the busiest hour; two at least, so that one can be replaced."""
        return max(2, math.ceil(self.busy_workers))

    @property
    def processors(self) -> float:
        """Processors that work, or wait beside the device for those that do."""
        return self.busy_workers * self.demand.cores

    @property
    def partitions(self) -> int:
        """At least two partitions for each worker.

        Partitions of a topic with keys should not be added later.
        """
        return next((each for each in PARTITIONS if each >= 2 * self.workers), 2 * self.workers)

    @property
    def waits_s(self) -> tuple[float, float]:
        """Seconds from arrival to outcome in the busiest hour: of half the images, and of 99 %.

        An image's own steps with a batch as large as it grows at that rate, and the queue before a server of the
        worker's rate (M/G/1, with a spread of service half as large as that of an M/M/1).
        """
        arriving, served_s = self.at_peak / self.workers, 1 / self.rate
        load = min(arriving * served_s, 0.99)
        batch_s = self._growing_batch_s(arriving * self.new)
        own_s = self.profile.known_core_s + self.profile.new_core_s + self.decode_core_s + batch_s
        half = own_s + load * batch_s / 2 + load**2 / (1 - load) * served_s / 2
        most = own_s + batch_s + math.log(max(1.0, 100 * load)) / (1 - load) * served_s / 2
        return half, max(half, most)

    def _growing_batch_s(self, arriving: float) -> float:
        """Seconds of a batch of all images that arrive during a batch."""
        profile = self.profile
        cores = float(self.demand.cores) if profile.device == "cpu" else profile.device_cores
        images = 1.0
        for _ in range(30):
            images = min(float(profile.batch), max(1.0, arriving * profile.batch_core_s(images) / cores))
        return profile.batch_core_s(images) / cores

    @property
    def lag_threshold(self) -> int:
        """For the autoscaler: events that may wait for each worker, what it does in a minute.

        A worker more takes about as long to start and to have its partitions.
        """
        return max(1, round(60 * self.rate))

    @property
    def store_bytes_a_s(self) -> float:
        """From the store, in the busiest hour. An image whose etag is known is not fetched."""
        return self.at_peak * self.new * self.image_bytes

    @property
    def redis_bytes(self) -> float:
        return self.demand.images_a_day * self.new * REDIS_BYTES * self.demand.cache_days

    @property
    def redis_commands_a_s(self) -> float:
        """In the busiest hour: two lookups an image, and two writes for a new one."""
        return self.at_peak * (2 + 2 * self.new)

    @property
    def input_bytes(self) -> int:
        """On the brokers' disks."""
        return self.demand.images_a_day * EVENT_BYTES * self.demand.kept_days * self.demand.copies

    @property
    def output_bytes_a_day(self) -> int:
        return self.demand.images_a_day * ENRICHED_BYTES * self.demand.copies

    @property
    def broker_bytes_a_s(self) -> float:
        """What all brokers write together in the busiest hour."""
        return self.at_peak * (EVENT_BYTES + ENRICHED_BYTES) * self.demand.copies

    @property
    def catch_up_h(self) -> float:
        """Hours to work off one hour's outage at the day's mean rate."""
        return self.mean / (self.workers * self.rate - self.mean)

    @property
    def cost_a_day(self) -> float | None:
        """Of workers that follow the day's load; two at least are always there."""
        if self.demand.price is None:
            return None
        hours = self.demand.images_a_day / (self.rate * self.demand.busy) / 3600
        return max(hours, 2 * 24) * self.demand.price

    @property
    def cost_of_a_thousand(self) -> float | None:
        cost = self.cost_a_day
        return None if cost is None else 1_000 * cost / self.demand.images_a_day
