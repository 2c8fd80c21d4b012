"""One worker, simulated: images arrive, share its processors and its device, and leave. The formulas of `plan` are
checked against it, and it tells how long an image waits at a rate, which no formula does.

Work is a fluid: all jobs that run at a moment share the processors evenly, none takes more than it can use. An image
takes three steps: what the interpreter does (one at a time, for there is one), if it is new its decoding (each on a
processor of its own), and a place in a batch. An idle device takes what is ready at once, as the worker does.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.capacity.plan import CapacityPlan

IN_FLIGHT = 64
"""Images that are in hand at once; the others wait in Kafka."""
_NEVER = math.inf


@dataclass(frozen=True)
class Simulated:
    """What became of the images.

    Args:
        waits: seconds from its arrival to its outcome, of each image, shortest first.
        seconds: from the first arrival to the last outcome.
    """

    waits: Sequence[float]
    seconds: float

    @property
    def rate(self) -> float:
        return len(self.waits) / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the images is done."""
        return self.waits[min(len(self.waits) - 1, math.ceil(share * len(self.waits)) - 1)]


@dataclass(eq=False)
class _Job:
    """Something that takes processors.

    Args:
        left: seconds of one processor that are still to be done.
        widest: processors that it can use at once.
        images: those that it is about, by the times of their arrival and whether they are new.
    """

    left: float
    widest: float
    images: Sequence[tuple[float, bool]]
    speed: float = 0.0


@dataclass
class _Worker:
    plan: CapacityPlan
    chance: random.Random
    now: float = 0.0
    waiting: deque[tuple[float, bool]] = field(default_factory=deque)
    to_decode: deque[tuple[float, bool]] = field(default_factory=deque)
    to_annotate: deque[tuple[float, bool]] = field(default_factory=deque)
    event: _Job | None = None
    decoding: list[_Job] = field(default_factory=list)
    batch: _Job | None = None
    waits: list[float] = field(default_factory=list)
    in_hand: int = 0
    decode_core_s: Sequence[float] = field(init=False)
    """What decoding costs: of each image that was measured, brought to the mean that is planned for."""

    def __post_init__(self) -> None:
        profile, planned = self.plan.profile, self.plan.decode_core_s
        usual = profile.decoder()
        self.decode_core_s = [
            profile.new_core_s - self.plan.interpreter_s + planned * each.core_s / usual(each.megapixels)
            for each in profile.decoded
        ]

    def running(self) -> list[_Job]:
        return [job for job in (self.event, self.batch, *self.decoding) if job is not None]

    def start(self) -> None:
        """Begin whatever can begin."""
        profile, cores = self.plan.profile, self.plan.demand.cores
        if self.event is None and self.waiting and self.in_hand < IN_FLIGHT + profile.batch:
            self.in_hand += 1
            image = self.waiting.popleft()
            beyond = self.plan.interpreter_s if image[1] else 0.0
            self.event = _Job(profile.known_core_s + beyond, 1, [image])
        while self.to_decode and len(self.decoding) < cores:
            self.decoding.append(_Job(self.chance.choice(self.decode_core_s), 1, [self.to_decode.popleft()]))
        if self.batch is None and self.to_annotate:
            taken = [self.to_annotate.popleft() for _ in range(min(profile.batch, len(self.to_annotate)))]
            # A device of its own takes its time, whatever the processors do.
            widest = float(cores) if profile.device == "cpu" else profile.device_cores
            self.batch = _Job(profile.batch_core_s(len(taken)), widest, taken)
        self._share(cores)

    def _share(self, cores: float) -> None:
        """Even shares of the processors; what one can't use the others have."""
        jobs = sorted(self.running(), key=lambda job: job.widest)
        for number, job in enumerate(jobs):
            job.speed = min(job.widest, cores / (len(jobs) - number))
            cores -= job.speed

    def next_s(self) -> float:
        """Until the first job is done."""
        return min((job.left / job.speed for job in self.running()), default=_NEVER)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for job in self.running():
            job.left -= job.speed * seconds

    def finish(self) -> None:
        """Hand on what is done."""
        if self.event is not None and self.event.left <= _DONE:
            (image,) = self.event.images
            self.event = None
            self.to_decode.append(image) if image[1] else self._end([image])
        for job in [job for job in self.decoding if job.left <= _DONE]:
            self.decoding.remove(job)
            self.to_annotate.extend(job.images)
        if self.batch is not None and self.batch.left <= _DONE:
            self._end(self.batch.images)
            self.batch = None

    def _end(self, images: Sequence[tuple[float, bool]]) -> None:
        self.in_hand -= len(images)
        self.waits.extend(self.now - arrived for arrived, _ in images)


_DONE = 1e-12


def simulate(plan: CapacityPlan, rate: float, images: int, seed: int = 0) -> Simulated:
    """Images that arrive at random (a Poisson process) at so many a second."""
    chance = random.Random(seed)
    arrivals: deque[float] = deque()
    moment = 0.0
    for _ in range(images):
        moment += chance.expovariate(rate)
        arrivals.append(moment)
    return _run(plan, arrivals, chance)


def saturated(plan: CapacityPlan, images: int, seed: int = 0) -> Simulated:
    """Images that are all there from the beginning."""
    return _run(plan, deque([0.0] * images), random.Random(seed))


def _run(plan: CapacityPlan, arrivals: deque[float], chance: random.Random) -> Simulated:
    worker = _Worker(plan, chance)
    first = arrivals[0]
    worker.now = first
    total = len(arrivals)
    while len(worker.waits) < total:
        while arrivals and arrivals[0] <= worker.now:
            worker.waiting.append((arrivals.popleft(), chance.random() >= plan.demand.known))
        worker.start()
        until_arrival = arrivals[0] - worker.now if arrivals else _NEVER
        worker.advance(min(worker.next_s(), until_arrival))
        if arrivals and until_arrival <= 0:
            continue
        worker.finish()
        if arrivals and arrivals[0] - worker.now < _DONE:
            worker.now = max(worker.now, arrivals[0])
    return Simulated(sorted(worker.waits), worker.now - first)
