"""Metrics of labels before and after a fit, and thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tagstream_train.fit.promise import Promise, of_none, promises, stream_weights
from tagstream_train.metrics import OFF, Curve, Threshold, best_f1, choose, curve, precision_floor, table

OTHERS = "other old labels"
UNKNOWN_THRESHOLD = 0.5
"""The threshold of a new label with too few images to choose one."""
LEAST = 3
"""Images that a label must have to get a threshold of its own."""
_HALF = 0.5
"""The precision to show where none is wanted: a tag is rather right than wrong."""


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
        kept: number of the bundle's labels.
        own: ids of the training set's labels, ascending.
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
class Rule:
    """What thresholds are chosen for.

    Args:
        share: assumed of each label on the stream.
        precision: to keep; None: the best F1.
        drawn: (images, all labels) scores of unlabelled images of the stream, or None.
    """

    share: float
    precision: float | None = None
    drawn: NDArray[np.float32] | None = None

    @property
    def wanted(self) -> float:
        return _HALF if self.precision is None else self.precision


@dataclass(frozen=True)
class Judged:
    """A fit's numbers.

    Args:
        promises: on a stream, by label.
        closed: whether no image shows none of the labels, so that all numbers hold among these labels only.
    """

    scored: Scored
    thresholds: dict[str, Threshold]
    rows: Sequence[Row]
    promises: dict[str, Promise]
    closed: bool


def judged(
    labels: Labels, scored: Scored, folds: NDArray[np.int64], rule: Rule, truth: str, before: Scored | None = None
) -> Judged:
    """Thresholds and numbers of a network's scores.

    Args:
        folds: (images,) fold numbers: each fold measures the thresholds of the others.
        truth: the reference of the set's labels, in words.
        before: scores before the encoder learnt; None: it did not learn.
    """
    ids, moved = list(labels.own), _moved(scored, folds, labels, rule)
    targets, known = scored.targets[:, ids], scored.known[:, ids]
    weights = stream_weights(targets, known, rule.share)
    kept = promises(moved[:, ids] > 1, targets, weights, rule.share, rule.wanted)
    return Judged(
        scored,
        thresholds_of(labels, scored, rule),
        _rows(labels, scored, truth, before),
        dict(zip((labels.names[i] for i in ids), kept, strict=True)),
        not of_none(targets, known).any(),
    )


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


def thresholds_of(labels: Labels, scored: Scored, rule: Rule) -> dict[str, Threshold]:
    """Thresholds of the training set's labels, by name.

    With images of none they are for a stream with the rule's share; without, for the images as they are. A label with
    fewer than `LEAST` images keeps its threshold, or gets the default one. If a precision is wanted it is never shown,
    as its precision is unknown.
    """
    ids = list(labels.own)
    scores, targets, known = (each[:, ids] for each in (scored.scores, scored.targets, scored.known))
    weights = stream_weights(targets, known, rule.share) if of_none(targets, known).any() else known
    best = best_f1 if rule.precision is None else precision_floor(rule.precision)
    chosen = choose(scores, targets, best, weights=weights, least_positives=LEAST)
    if rule.drawn is not None:
        for place, one in enumerate(chosen):
            if not one.why:
                shown = scores[(targets * known)[:, place] > 0, place]
                chosen[place] = _bounded(one, shown, rule.drawn[:, ids[place]], rule, best)
    return {
        labels.names[i]: replace(one, value=labels.default_threshold(i)) if one.why and rule.precision is None else one
        for i, one in zip(ids, chosen, strict=True)
    }


def _bounded(
    chosen: Threshold,
    shown: NDArray[np.float32],
    drawn: NDArray[np.float32],
    rule: Rule,
    best: Callable[[Curve], float | None],
) -> Threshold:
    """The threshold, raised where too much of a stream would be tagged.

    Of the drawn images that are tagged, the label's assumed share of all, as far as it is found, counts as right.

    Args:
        shown: scores of images with the label. drawn: of images of the stream.
    """
    scores = np.concatenate((shown, drawn))
    has = np.arange(len(scores)) < len(shown)
    points = curve(scores, has, np.where(has, 1.0, len(shown) / (rule.share * len(drawn))))
    taken = np.maximum(points.taken - points.hits, points.hits)  # the drawn ones alone, of which some are right
    least = best(replace(points, taken=taken, precision=points.hits / np.maximum(taken, 1e-12)))
    value = OFF if least is None else max(chosen.value, least)
    return replace(chosen, value=value, why="too many drawn images are tagged" if least is None else "")


def _moved(scored: Scored, folds: NDArray[np.int64], labels: Labels, rule: Rule) -> NDArray[np.float32]:
    """Scores moved so that each fold's threshold is 1; it is chosen on other folds."""
    ids, moved = list(labels.own), scored.scores.copy()
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        others = thresholds_of(labels, Scored(scored.scores[~out], scored.targets[~out], scored.known[~out]), rule)
        bars = np.array([others[labels.names[i]].value for i in ids], np.float32)
        moved[np.ix_(out, ids)] += 1 - bars
    return moved


def _measurable(ids: Sequence[int], targets: NDArray[np.float32], known: NDArray[np.float32]) -> list[int]:
    """Labels with known positive and negative images."""
    has, seen = (targets * known)[:, list(ids)].sum(0), known[:, list(ids)].sum(0)
    return [label for label, some, all_ in zip(ids, has, seen, strict=True) if 0 < some < all_]
