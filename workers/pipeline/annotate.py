"""The device's step: score a batch, then caption it under the tags' guidance; find out whose fault a failure is."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace

from schemas.dead_letter import Failure, Reason, Stage
from workers import metrics
from workers.errors import Broken
from workers.pipeline.answers import caption_of, one_each, scores_of
from workers.pipeline.batching import SafeBatch, run_halving
from workers.pipeline.task import Task
from workers.ports import Captioner, SubsetTagger, Tagger
from workers.types import Caption, LabelScores, Pixels, Subset

_log = logging.getLogger(__name__)
_tracer = trace.get_tracer("tagstream")


class Ceiling:
    """Too many blamed images mean that we are broken, whatever the canary says.

    Args:
        run: so many in a row.
        share: or this share of the last `window` images, once the window is full.
    """

    def __init__(self, run: int = 20, share: float = 0.5, window: int = 100) -> None:
        self._run_limit = run
        self._share = share
        self._last: deque[bool] = deque(maxlen=window)
        self._run = 0

    def note(self, blamed: bool) -> None:
        """Raises:
        Broken: a ceiling is reached.
        """
        self._last.append(blamed)
        self._run = self._run + 1 if blamed else 0
        full = len(self._last) == self._last.maxlen
        if self._run >= self._run_limit or (full and sum(self._last) > self._share * len(self._last)):
            raise Broken(
                f"{sum(self._last)} of the last {len(self._last)} images made the model fail: "
                "that is the device or the model, not the images; replay those that were dead-lettered until now"
            )


class Annotator:
    """Runs on the device thread and nowhere else."""

    def __init__(self, tagger: Tagger | None, captioner: Captioner | None) -> None:
        self._tagger = tagger
        self._captioner = captioner
        largest = [model.max_batch for model in (tagger, captioner) if model is not None]
        self.safe = SafeBatch(min(largest, default=1))
        self._ceilings: dict[Stage, Ceiling] = {"annotate": Ceiling(), "caption": Ceiling()}

    def annotate(self, tasks: Sequence[Task]) -> None:
        """Fill in `raw_scores` (or `scores`, where a caption needs them now), `caption`, or `failures`."""
        links = [trace.Link(task.span.get_span_context()) for task in tasks]
        with _tracer.start_as_current_span("annotate batch", links=links) as span:
            span.set_attribute("tagstream.batch.images", len(tasks))
            self._tag([task for task in tasks if self._needs_scores(task)])
            if self._captioner is not None:
                captioner = self._captioner
                self._caption(captioner, [task for task in tasks if task.wants_caption and task.caption is None])
        self.safe.ran(len(tasks))
        metrics.SAFE_BATCH.set(self.safe.size)

    def _needs_scores(self, task: Task) -> bool:
        guided_by_tags = task.wants_caption and not task.event.options.guide_tags
        return self._tagger is not None and task.scores is None and (task.wants_tags or guided_by_tags)

    def _tag(self, tasks: Sequence[Task]) -> None:
        tagger = self._tagger
        if tagger is None or not tasks:
            return

        def forward(some: Sequence[Task]) -> Sequence[Any]:
            raws = _score(tagger, [_pixels(task, tagger) for task in some], [task.profile.subset for task in some])
            one_each(tagger, raws, len(some))
            if some[0].alone:
                # An image under suspicion is postprocessed here, where the canary can answer for the device.
                for task, raw in zip(some, raws, strict=True):
                    task.scores = scores_of(tagger, raw)
            return raws

        for task, answer in zip(tasks, run_halving(forward, tasks, self._failed), strict=True):
            if isinstance(answer, Exception):
                self._blame_tagging(tagger, task, answer)
            else:
                task.raw_scores = answer
                self._ceilings["annotate"].note(False)

    def _caption(self, captioner: Captioner, tasks: Sequence[Task]) -> None:
        ready = [task for task in tasks if not task.failures and self._guide(captioner, task)]

        def forward(some: Sequence[Task]) -> Sequence[Caption]:
            raws = captioner.forward([_pixels(task, captioner) for task in some], [task.guide or "" for task in some])
            return [caption_of(captioner, raw) for raw in one_each(captioner, raws, len(some))]

        for task, answer in zip(ready, run_halving(forward, ready, self._failed), strict=True):
            if not isinstance(answer, Exception):
                task.caption = answer
                self._ceilings["caption"].note(False)
            else:
                self._blame(task, "caption", "caption-failed", answer, lambda: _try_captioner(captioner))

    def _guide(self, captioner: Captioner, task: Task) -> bool:
        """Settle the guide string. False: the tags are not to be had, and the task says why."""
        if task.event.options.guide_tags:
            task.guide = captioner.guide(task.event.options.guide_tags)
            return True
        if task.scores is None and self._tagger is not None:
            tagger = self._tagger
            try:
                task.scores = scores_of(tagger, task.raw_scores)
            except ValueError as error:
                self._blame_tagging(tagger, task, error)
                return False
        task.guide = captioner.guide(guide_names(task, self._tagger))
        return True

    def _failed(self, tasks: Sequence[Task], error: Exception) -> None:
        out_of_memory = isinstance(error, MemoryError)
        metrics.BATCH_FAILURES.add(cause="memory" if out_of_memory else "error")
        _log.warning("a batch of %d failed: %s", len(tasks), type(error).__name__)
        if out_of_memory:
            self.safe.ran_out_of_memory(len(tasks))

    def _blame_tagging(self, tagger: Tagger, task: Task, error: Exception) -> None:
        """The good image is scored for the same labels: what fails may be what these take."""
        self._blame(task, "annotate", "annotate-failed", error, lambda: _try_tagger(tagger, task.profile.subset))

    def _blame(self, task: Task, stage: Stage, reason: Reason, error: Exception, canary: Callable[[], object]) -> None:
        """Before an image is blamed, one that is known to be good takes the same step.

        Raises:
            Broken: the good one fails too, or too many were blamed of late.
        """
        try:
            canary()
        except Exception as second:  # noqa: BLE001  # whatever it is, it is not the image
            raise Broken(
                f"the device fails on an image that is known to be good ({type(second).__name__}: {second})"
            ) from error
        self._ceilings[stage].note(True)
        detail = f"the model raised {type(error).__name__} on this image alone, not on one known to be good"
        task.failures.append(Failure(index=task.job.coordinates.index, stage=stage, reason=reason, detail=detail))


def guide_names(task: Task, tagger: Tagger | None) -> list[str]:
    """Names of the tags above the task's thresholds, in label order, as the captioner was trained on."""
    if tagger is None or task.scores is None:
        return []
    return [tagger.labels[label_id] for label_id, _ in sorted(task.profile.select(task.scores))]


def _pixels(task: Task, model: Tagger | Captioner) -> Pixels:
    assert task.image is not None
    return task.image.pixels[model.transform]


def _score(tagger: Tagger, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
    """Each image for its labels. Where all want all, the way is the one that every tagger has."""
    if any(subset is not None for subset in subsets) and isinstance(tagger, SubsetTagger):
        return tagger.forward_subsets(images, subsets)
    return tagger.forward(images)


def _try_tagger(tagger: Tagger, subset: Subset | None) -> LabelScores:
    return scores_of(tagger, _score(tagger, [tagger.canary()], [subset])[0])


def _try_captioner(captioner: Captioner) -> object:
    return caption_of(captioner, captioner.forward([captioner.canary()], [""])[0])
