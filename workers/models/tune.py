"""Tries a model's uses, and finds its fastest precision and execution.

A use is a field of the event's `models`, a setting of the worker, and a function `build_<use>` of a builder; or a role
that a package adds (`schemas.result_kinds`).

Each precision that the device offers is tried: it must give the golden answers, as nearly as it can; in int8, which
rounds most, none of their tags or captions may change. It is then run until it is warm, and timed in batches that
double as long as that pays, each in turn with the one of half its size, so that both meet the same machine. One that
the device only imitates, and is ten times slower than the best, is given up after a single batch.
The best precision is then executed in the other ways that the device has (CUDA graphs, torch's compiler), which must
give the golden answers too, in every batch size that has kernels of its own. What is fastest, and more than a little so
if it is less exact or less plain, is stored in the state folder, where `resolve` finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from workers.errors import Broken, Misconfigured
from workers.models.bundle import Golden
from workers.models.device import PRECISIONS, Device, Execution, Precision, named
from workers.models.precision import LONGEST_BATCH_S, Tuned, remember_tuned
from workers.ports import Captioner, Model, Tagger
from workers.types import ImageAbout, Pixels


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well two sets of answers to the same images agree.

    Args:
        same: of how many the answers are the same as an event shows them.
        gap: largest difference between two logits; None if they are unknown.
    """

    images: int
    same: int
    what: str
    gap: float | None = None

    def __str__(self) -> str:
        logits = f", logits within {self.gap:.2g}" if self.gap is not None else ""
        return f"{self.same} of {self.images} {self.what}{logits}"


def of_rows(tagger: Tagger, expected: Sequence[Any], found: Sequence[Any]) -> Agreement:
    """Compare raw answers of a tagger, image by image: `expected` ones and those `found`."""
    pairs = list(zip(expected, found, strict=True))
    same = sum(shown_labels(tagger, one) == shown_labels(tagger, other) for one, other in pairs)
    arrays = all(isinstance(raw, np.ndarray) for pair in pairs for raw in pair)
    gap = max((float(np.abs(one - other).max(initial=0)) for one, other in pairs), default=0.0) if arrays else None
    return Agreement(len(pairs), same, "tag sets", gap)


def of_captions(expected: Sequence[str], found: Sequence[str]) -> Agreement:
    """Compare captions, image by image."""
    same = sum(one == other for one, other in zip(expected, found, strict=True))
    return Agreement(len(expected), same, "captions")


def shown_labels(tagger: Tagger, raw: Any) -> set[int]:
    """Ids of the labels that score above their thresholds."""
    scores = tagger.postprocess(raw)
    shown = scores.scores > np.asarray(tagger.thresholds, np.float32)[scores.label_ids]
    return set(scores.label_ids[shown].tolist())


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a model.

    Args:
        trial: runs a batch as an event would that tells nothing but its image; what tuning times.
        agreement: how far a model of a whole bundle gives its golden answers; None: it has none for this use.
    """

    trial: Callable[[Any, Sequence[Pixels]], Sequence[Any]]
    agreement: Callable[[Any, Golden], Agreement | None]


def _tags_agree(tagger: Tagger, golden: Golden) -> Agreement | None:
    if not golden.outputs.size:
        return None
    found = tagger.forward(list(golden.pixels))
    width = len(found[0]) if isinstance(found[0], np.ndarray) else len(tagger.labels)
    return of_rows(tagger, list(golden.outputs[:, :width]), found)


def _captions_agree(captioner: Captioner, golden: Golden) -> Agreement | None:
    if not golden.captions:
        return None
    raws = captioner.forward(list(golden.pixels), golden.guides)
    return of_captions(golden.captions, [captioner.postprocess(raw).text for raw in raws])


USES: Final = {
    "tagger": Use(lambda tagger, images: tagger.forward(images), _tags_agree),
    "captioner": Use(
        lambda captioner, images: captioner.forward(images, [captioner.guide([])] * len(images)), _captions_agree
    ),
}
_OF_A_ROLE = Use(
    lambda model, images: model.forward(images, [ImageAbout.of(each) for each in images]),
    lambda _model, _golden: None,  # its own warm-up compares them
)


def use_named(use: str) -> Use:
    """One of `USES`, or how an added role's models are run."""
    return USES.get(use, _OF_A_ROLE)


LARGEST_BATCH = 128
GAIN = 1.05
"""A batch of twice the size has to bring this much more images a second; below, it only delays them."""
WORTH = 1.05
"""A less exact precision or less plain execution must be faster than the best so far by this factor."""
TIMED = 3
"""Least number of runs of a batch; the quickest counts."""
TIMED_S = 2.0
"""Least seconds for timing two sizes in turn."""
WARM_S = 4.0
"""So long a model runs at least before it is timed: in its first seconds a small one took twice the time of later."""
HOPELESS = 10.0
"""A precision that takes so many times as long for one image as the best before it is given up."""
SURE_S = 1.0
"""One run of this length is believed; a shorter one may have been interrupted by something else."""

Build = Callable[[Precision, Execution], Model]
"""Makes a fresh model; raises Misconfigured where the device or the model lacks the precision or the execution."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of trying one precision in one execution. `refusal` says why it can't be used; else it ran."""

    precision: Precision
    execution: Execution = "eager"
    images_per_s: float = 0.0
    single_s: float = 0.0
    max_batch: int = 0
    refusal: str = ""
    agreement: Agreement | None = None
    """With the golden answers, where the bundle has some."""

    @property
    def name(self) -> str:
        return named(self.precision, self.execution)


def tune(
    digest: str,
    use: str,
    build: Build,
    device: Device,
    state_dir: Path,
    *,
    report: Callable[[Trial], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    judge: Callable[[Model], Agreement | None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Try every precision, store the fastest, return it.

    Args:
        digest: the bundle's, without regard to a subset of labels.
        progress: gets the numbers of done and of all trials; at the beginning, and after each.

    Raises:
        Broken: no precision gives the golden answers.
    """
    timed = _Timed(use_named(use).trial, device, clock)
    plain, *others = device.executions
    done, total = 0, len(PRECISIONS) + len(others)

    def better(best: Trial | None, precision: Precision, execution: Execution) -> Trial | None:
        """The best so far, this trial included."""
        nonlocal done
        trial = _try(Trial(precision, execution), build, timed, judge, best)
        report(trial)
        progress(done := done + 1, total)
        worth = not trial.refusal and (best is None or trial.images_per_s >= WORTH * best.images_per_s)
        return trial if worth else best

    progress(done, total)
    best: Trial | None = None
    for precision in PRECISIONS:
        best = better(best, precision, plain)
    if best is None:
        raise Broken(f"No precision gives the golden answers on {device.name}: damaged weights, or a broken device.")
    for execution in others:
        best = better(best, best.precision, execution) or best
    tuned = Tuned(digest, use, device.name, best.precision, best.max_batch, best.execution)
    remember_tuned(tuned, device, state_dir)
    return tuned


def _try(
    trial: Trial, build: Build, timed: _Timed, judge: Callable[[Model], Agreement | None], best: Trial | None
) -> Trial:
    try:
        model = build(trial.precision, trial.execution)
        model.max_batch = 1  # known, so that warming up checks the answers and settles nothing
        model.warm_up()
        if best is not None:
            times = timed.single(model, HOPELESS * best.single_s) / best.single_s
            if times >= HOPELESS:
                return replace(trial, refusal=f"given up after one batch: {times:.0f} times as slow as {best.name}")
        agreement = judge(model)
        if trial.precision == "int8" and agreement is not None and agreement.same < agreement.images:
            return replace(trial, refusal=f"its rounding changes answers: {agreement}", agreement=agreement)
        single_s, batch, batch_s = timed.best_batch(model)
        if trial.execution != "eager":
            model.max_batch = batch
            model.warm_up()  # as at a start: every size of a batch that has kernels of its own gives the golden answers
    except (Misconfigured, Broken) as refusal:
        return replace(trial, refusal=str(refusal))
    except MemoryError:
        return replace(trial, refusal="not even one image fits in memory")
    return replace(trial, images_per_s=batch / batch_s, single_s=single_s, max_batch=batch, agreement=agreement)


@dataclass(frozen=True)
class _Timed:
    """Batches of a model, timed on its device."""

    run: Callable[[Any, Sequence[Pixels]], Sequence[Any]]
    device: Device
    clock: Callable[[], float]

    def single(self, model: Model, hopeless_s: float) -> float:
        """Seconds for one image: of one run, or of the quickest of several short ones."""
        took = self._seconds(model, 1)
        if took < hopeless_s or took >= SURE_S:
            return took
        return min(took, *self._in_turn(model, (1,), TIMED_S))

    def best_batch(self, model: Model) -> tuple[float, int, float]:
        """Seconds for one image; the largest batch that pays, and its seconds.

        Batches grow until one does not fit, takes too long, or gains too little over one of half its size. Raises
        MemoryError: not even one image fits.
        """
        (single_s,) = self._in_turn(model, (1,), WARM_S)
        size, took = 1, single_s
        while 2 * size <= LARGEST_BATCH and took < LONGEST_BATCH_S:
            try:
                half, whole = self._in_turn(model, (size, 2 * size), TIMED_S)
            except MemoryError:
                self.device.release()
                break
            if whole >= LONGEST_BATCH_S or 2 * half < GAIN * whole:
                break
            size, took = 2 * size, whole
        return single_s, size, took

    def _in_turn(self, model: Model, sizes: Sequence[int], least_s: float) -> list[float]:
        """Seconds of the quickest batch of each size, timed in turn."""
        rounds: list[list[float]] = []
        until = self.clock() + least_s
        while len(rounds) < TIMED or self.clock() < until:
            rounds.append([self._seconds(model, size) for size in sizes])
        return [min(runs) for runs in zip(*rounds, strict=True)]

    def _seconds(self, model: Model, size: int) -> float:
        images = [model.self_test_image()] * size
        self.device.synchronise()
        started = self.clock()
        self.run(model, images)
        self.device.synchronise()
        return self.clock() - started
