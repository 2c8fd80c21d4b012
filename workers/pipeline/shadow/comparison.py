"""The comparison of two taggers on one image after the other: by the names of labels, under each one's thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Protocol

from workers import metrics
from workers.errors import Misconfigured
from workers.pipeline.answers import one_each, scores_of
from workers.pipeline.profiles import Profile
from workers.pipeline.shadow.report import ShadowReport, known, new_report, side_of
from workers.ports import Tagger
from workers.types import LabelScores, Pixels, Transform


class Comparable(Protocol):
    """Of a tagger or its bundle, what decides whether two can be compared."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def transform(self) -> Transform: ...


def require_comparable(live: Comparable, shadow: Comparable) -> None:
    """Whether the shadow can see what the live tagger sees, and has something to say of it.

    Decoding each image a second way, for the shadow alone, would take time from the live line.

    Raises:
        Misconfigured: it wants its images in another form, or no label is known to both.
    """
    if shadow.transform != live.transform:
        raise Misconfigured(
            f"TAGSTREAM_SHADOW_TAGGER: {shadow.name} takes images as {_form(shadow)}, and the live tagger "
            f"{live.name} as {_form(live)}: a shadow sees the live tagger's pixels, so it must take the same."
        )
    if set(shadow.labels).isdisjoint(live.labels):
        raise Misconfigured(
            f"TAGSTREAM_SHADOW_TAGGER: {shadow.name} has no label of the live tagger {live.name}: "
            "there is nothing to compare."
        )


class Comparison:
    """A shadow tagger and the live one.

    Args:
        live_profile, profile: which scores of each are tags.
    """

    def __init__(self, live: Tagger, live_profile: Profile, shadow: Tagger, profile: Profile) -> None:
        self._live, self._live_profile = live.labels, live_profile
        self._shadow, self._profile = shadow, profile
        self._common = set(live.labels) & set(shadow.labels)
        self._sides = side_of(live, live_profile), side_of(shadow, profile)

    def report(self, path: Path, worker: str, now: datetime) -> ShadowReport:
        """The worker's report to go on with: that of the file, if it is of these two taggers and thresholds."""
        fresh = new_report(worker, now, *self._sides)
        found = known(path)
        ours = found is not None and found.same_taggers(fresh) and found.workers == fresh.workers
        return found if found is not None and ours else fresh

    def tags(self, pixels: Pixels) -> set[str]:
        """Names of the tags that the shadow gives an image.

        Raises:
            Exception: what it says is no answer, or whatever else it raises.
        """
        [answer] = one_each(self._shadow, self._shadow.forward([pixels]), 1)
        return _names(self._shadow.labels, self._profile, scores_of(self._shadow, answer))

    def count(self, report: ShadowReport, live: LabelScores, tags: set[str]) -> None:
        """Enter an image into the report and the metrics.

        Args:
            live: the live tagger's scores.
            tags: the shadow's.
        """
        found = report.count(_names(self._live, self._live_profile, live), tags, self._common)
        metrics.SHADOW_IMAGES.add(result="compared")
        metrics.SHADOW_JACCARD.record(found.share)
        for by, number in (("both", found.both), ("live", found.live), ("shadow", found.shadow)):
            metrics.SHADOW_TAGS.add(number, by=by)


def _names(labels: Sequence[str], profile: Profile, scores: LabelScores) -> set[str]:
    return {labels[label] for label, _ in profile.select(scores)}


def _form(model: Comparable) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(model.transform).items())
