"""Metrics of labels before and after a fit, and thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tagstream_train.metrics import Summary, Threshold, best_f1, choose, precision_floor, table

OTHERS = "other old labels"
UNKNOWN_THRESHOLD = 0.5
"""The threshold of a new label for which none could be chosen."""


@dataclass(frozen=True)
class Row:
    """Labels' mean average precision before and after, or None.

    Args:
        truth: what was taken for right.
    """

    labels: str
    count: int
    before: float | None
    after: float | None
    truth: str


@dataclass(frozen=True)
class Scored:
    """Scores, targets and known places of validation images."""

    scores: NDArray[np.float32]
    targets: NDArray[np.float32]
    known: NDArray[np.float32]

    def map(self, ids: Sequence[int], targets: NDArray[np.float32] | None = None) -> float | None:
        """Mean average precision of these labels.

        `targets` in the place of the set's, all of them known.
        """
        wanted = (self.targets, self.known) if targets is None else (targets, np.ones_like(targets))
        columns = _measurable(ids, *wanted)
        if not columns:
            return None
        found = table(self.scores[:, columns], wanted[0][:, columns], 0.5, wanted[1][:, columns]).mean().map
        return None if math.isnan(found) else found

    def summary(self, ids: Sequence[int], thresholds: Sequence[float]) -> Summary:
        """Means over these labels, at a threshold for each."""
        columns = _measurable(ids, self.targets, self.known)
        bars = np.array([bar for i, bar in zip(ids, thresholds, strict=True) if i in columns])
        return table(self.scores[:, columns], self.targets[:, columns], bars, self.known[:, columns]).mean()


@dataclass(frozen=True)
class Labels:
    """A network's labels, by what happens to them.

    Args:
        names: of all.
        kept: how many of the first are the bundle's.
        own: ids of the training set's, ascending.
        replayed: ids of the replay set's; None: there is none.
        thresholds: of the bundle's labels.
    """

    names: Sequence[str]
    kept: int
    own: Sequence[int]
    replayed: Sequence[int] | None
    thresholds: Sequence[float]

    @property
    def new(self) -> list[int]:
        return [i for i in self.own if i >= self.kept]

    @property
    def further(self) -> list[int]:
        """Labels of the set that the bundle has."""
        return [i for i in self.own if i < self.kept]

    def default_threshold(self, label: int) -> float:
        """The threshold of a label for which none was chosen."""
        return self.thresholds[label] if label < self.kept else UNKNOWN_THRESHOLD


def rows_of(labels: Labels, before: Scored, after: Scored, old_before: Scored, old_after: Scored) -> list[Row]:
    """Rows for new labels, further trained ones, and the others.

    Args:
        old_before, old_after: the replay set's images, where there is one.
    """
    new, further = labels.new, labels.further
    trained = set(labels.own)
    others = [i for i in labels.replayed or range(labels.kept) if i < labels.kept and i not in trained]
    rows = []
    if new:
        rows.append(Row("new labels", len(new), None, after.map(new), "the set's tags"))
    if further:
        means = before.map(further), after.map(further)
        rows.append(Row("labels trained further", len(further), *means, "the set's tags"))
    if others and labels.replayed is not None:
        means = old_before.map(others), old_after.map(others)
        rows.append(Row(OTHERS, len(others), *means, "the replay set's tags"))
    elif others:
        truth = _shown(labels, before)
        means = before.map(others, truth), after.map(others, truth)
        rows.append(Row(OTHERS, len(others), *means, "what the bundle said before"))
    return rows


def thresholds_of(labels: Labels, scored: Scored, floor: float | None, least_positives: int) -> dict[str, Threshold]:
    """Thresholds of the training set's labels, by name.

    Args:
        floor: the least precision; None: the best F1.
        least_positives: a label with fewer images keeps its threshold, or gets the default one. With a floor it is
            never shown, as nothing says that its threshold keeps the precision.
    """
    ids = list(labels.own)
    chosen = choose(
        scored.scores[:, ids],
        scored.targets[:, ids],
        best_f1 if floor is None else precision_floor(floor),
        weights=scored.known[:, ids],
        least_positives=least_positives,
    )
    return {
        labels.names[i]: replace(one, value=labels.default_threshold(i)) if one.why and floor is None else one
        for i, one in zip(ids, chosen, strict=True)
    }


def _measurable(ids: Sequence[int], targets: NDArray[np.float32], known: NDArray[np.float32]) -> list[int]:
    """Labels that some known images have and others don't: of one alone every score is right."""
    has, seen = (targets * known)[:, list(ids)].sum(0), known[:, list(ids)].sum(0)
    return [label for label, some, all_ in zip(ids, has, seen, strict=True) if 0 < some < all_]


def metrics_of(rows: Sequence[Row], summary: Summary) -> Mapping[str, float | None]:
    """Metrics for the bundle's card."""
    metrics: dict[str, float | None] = {}
    for row in rows:
        metrics |= {f"map, {row.labels}, before": row.before, f"map, {row.labels}": row.after}
    numbers = {"precision": summary.precision, "recall": summary.recall}
    return metrics | {name: None if math.isnan(number) else number for name, number in numbers.items()}


def _shown(labels: Labels, before: Scored) -> NDArray[np.float32]:
    """The bundle's own tags as targets, for all labels."""
    shown = np.zeros_like(before.scores)
    shown[:, : labels.kept] = before.scores[:, : labels.kept] > np.asarray(labels.thresholds)
    return shown
