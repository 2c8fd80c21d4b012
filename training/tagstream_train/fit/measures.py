"""Metrics of labels before and after a fit, and thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tagstream_train.metrics import Summary, Threshold, best_f1, choose, precision_floor, table

OTHERS = "other old labels"
UNKNOWN_THRESHOLD = 0.5
"""The threshold of a new label with too few images to choose one."""


@dataclass(frozen=True)
class Row:
    """Labels' mean average precision before and after; None: not measured.

    Args:
        truth: the reference, in words.
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
        """Mean average precision against the set's targets or other, known ones."""
        wanted = (self.targets, self.known) if targets is None else (targets, np.ones_like(targets))
        columns = _measurable(ids, *wanted)
        if not columns:
            return None
        found = table(self.scores[:, columns], wanted[0][:, columns], 0.5, wanted[1][:, columns]).mean().map
        return None if math.isnan(found) else found


@dataclass(frozen=True)
class Labels:
    """A network's labels: the bundle's first, then new ones.

    Args:
        names: of all labels.
        kept: number of the bundle's labels.
        own: ids of the training set's labels, ascending.
        thresholds: of the bundle's labels.
    """

    names: Sequence[str]
    kept: int
    own: Sequence[int]
    thresholds: Sequence[float]

    @property
    def others(self) -> list[int]:
        """The bundle's labels that the set lacks."""
        own = set(self.own)
        return [i for i in range(self.kept) if i not in own]

    def default_threshold(self, label: int) -> float:
        """A label's threshold without a chosen one."""
        return self.thresholds[label] if label < self.kept else UNKNOWN_THRESHOLD


@dataclass(frozen=True)
class Judged:
    """A fit's numbers.

    Args:
        thresholds: of the training set's labels.
        summary: means over these labels, at thresholds chosen on other images.
    """

    scored: Scored
    thresholds: dict[str, Threshold]
    summary: Summary
    rows: Sequence[Row]


def judged(
    labels: Labels,
    scored: Scored,
    folds: NDArray[np.int64],
    rule: tuple[float | None, int],
    truth: str,
    before: Scored | None = None,
) -> Judged:
    """Thresholds and numbers of a network's scores.

    Args:
        folds: (images,) fold numbers: each fold measures the thresholds of the others.
        rule: arguments of `thresholds_of`.
        truth: the reference of the set's labels, in words.
        before: scores before the encoder learnt; None: it did not learn.
    """
    thresholds = thresholds_of(labels, scored, *rule)
    return Judged(scored, thresholds, _honest(scored, folds, labels, rule), _rows(labels, scored, truth, before))


def _rows(labels: Labels, after: Scored, truth: str, before: Scored | None) -> list[Row]:
    rows = []
    for name, kept in (("new labels", False), ("labels taught anew", True)):
        if ids := [i for i in labels.own if (i < labels.kept) == kept]:
            rows.append(Row(name, len(ids), None if before is None else before.map(ids), after.map(ids), truth))
    others = labels.others
    if others and before is None:
        rows.append(Row(OTHERS, len(others), None, None, "unchanged to the bit"))
    elif others and before is not None:
        shown = np.zeros_like(before.scores)  # the bundle's own tags
        shown[:, : labels.kept] = before.scores[:, : labels.kept] > np.asarray(labels.thresholds)
        means = before.map(others, shown), after.map(others, shown)
        truth = "what the bundle said before" if means[0] is not None else "nothing: it showed none on these images"
        rows.append(Row(OTHERS, len(others), *means, truth))
    return rows


def thresholds_of(labels: Labels, scored: Scored, floor: float | None, least_positives: int) -> dict[str, Threshold]:
    """Thresholds of the training set's labels, by name.

    Args:
        floor: the least precision; None: the best F1.
        least_positives: a label with fewer images keeps its threshold, or gets the default one. With a floor it is
            never shown, as its precision is unknown.
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


def _honest(scored: Scored, folds: NDArray[np.int64], labels: Labels, rule: tuple[float | None, int]) -> Summary:
    """Means at thresholds from the other folds."""
    ids, moved = list(labels.own), scored.scores.copy()
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        others = thresholds_of(labels, Scored(scored.scores[~out], scored.targets[~out], scored.known[~out]), *rule)
        bars = np.array([others[labels.names[i]].value for i in ids], np.float32)
        moved[np.ix_(out, ids)] += 1 - bars  # every fold's thresholds move to 1
    ids = _measurable(ids, scored.targets, scored.known)
    found = table(moved[:, ids], scored.targets[:, ids], 1.0, scored.known[:, ids]).mean()
    return replace(found, map=scored.map(ids) or math.nan)


def _measurable(ids: Sequence[int], targets: NDArray[np.float32], known: NDArray[np.float32]) -> list[int]:
    """Labels with known positive and negative images."""
    has, seen = (targets * known)[:, list(ids)].sum(0), known[:, list(ids)].sum(0)
    return [label for label, some, all_ in zip(ids, has, seen, strict=True) if 0 < some < all_]
