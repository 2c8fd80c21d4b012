"""A head by `tagstream train fit` beside simple methods on the same features.

    python -m benchmarks fit PHOTOS [--from compact] [--splits 6] [--fine-tune EPOCHS]

PHOTOS: any labelled photographs that `train fit` reads; without it the drawn set. Each split holds out 30 % of the
images. Beside ours: scikit-learn's logistic regression as people write it (standardised, C of 1), the same with its
strength by cross-validation, and the nearest centroid. All learn from the same images and are measured on the others.
`--fine-tune` trains compact's whole network by timm's recipe on the first split, which takes minutes.

With a folder `none` in PHOTOS an open world is measured too: each split teaches fifty images of a label and 500 of
none, and measures on all others, weighted to a stream where each label has a share of 10 %, then of 1 %. *Holds* is how
many labels' measured precision lies in the interval that was promised, *above* and *below* how many lie outside.

Planted errors: a tenth of the images that teach get another label at random. *Doubtful* are those that the report of
`train fit` names; beside them confident learning (Northcutt, Jiang and Chuang, 2021) on the same held-out scores, as
cleanlab does it, and the part that the report's order finds at its precision.

F1 is the mean over labels: at a method's own thresholds, at one threshold for all labels that is best on the images
that taught (ours alone has scores of them by classifiers that did not see them), and at the one that is best on the
images that measure, which nothing that can be used reaches but by luck.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from rich.console import Console
from rich.table import Table

from benchmarks.fine_tune import fine_tuned, small
from examples.learn.sets import TRUTH, draw
from tagstream_train.data.formats import Request
from tagstream_train.data.images import Images
from tagstream_train.fit.data import NONE, Side, folds_of, opened_bundle, opened_set
from tagstream_train.fit.head import FOLDS, encoded
from tagstream_train.fit.linear import Linear, fit_best
from tagstream_train.fit.measures import Labels, Rule, Scored, judged
from tagstream_train.fit.promise import promises, stream_weights
from tagstream_train.fit.report import DOUBTFUL, doubts
from tagstream_train.metrics import best_f1, choose, table
from tagstream_train.plan import Plan

Floats = NDArray[np.float32]
Method = Callable[[Floats, Floats, Floats], tuple[Floats, Floats, float]]
"""Features, targets and other features to scores of these, a threshold for each label, and one for all (or NaN)."""

HELD_OUT = 0.3
NOISE = 0.2
RARE = 50
TAUGHT, TAUGHT_NONE = 50, 500
SHARES = (0.1, 0.01)
PLANTED = 0.1
BARS = np.linspace(0, 1, 41)
"""Quantiles of scores, which are tried as the one threshold."""


@dataclass(frozen=True)
class Seen:
    """Photographs as the methods get them.

    Args:
        features, targets: (images, width) and (images, labels).
        per_image: processor seconds that one took to be encoded.
        image: makes one, as fine-tuning wants it.
    """

    features: Floats
    targets: Floats
    per_image: float
    image: Callable[[int], Image]


@dataclass(frozen=True)
class Measured:
    """What a method came to on one split; parts of 1, and processor seconds."""

    map: float
    f1: float
    f1_at_one: float
    f1_at_best: float
    took: float


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fit")
    parser.add_argument("photos", nargs="?", help="labelled photographs; default: the drawn set")
    parser.add_argument("--from", dest="bundle", default="compact", help="the network, as for `train fit`")
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--fine-tune", type=int, default=0, metavar="EPOCHS")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # scikit-learn's, of its next version and of labels with few images
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as folder:
        seen = photographs(options.photos, options.bundle, Path(folder))
        console.print(
            f"{len(seen.features):,} images, {seen.targets.shape[1]} labels, {seen.features.shape[1]} features of "
            f"{options.bundle}; {seen.per_image * 1e3:.0f} ms of processor an image to encode"
        )
        seen, none = parted(seen)
        if len(none):
            open_worlds(console, seen, none, options.splits)
        planted_errors(console, seen, options.splits)
        for name, (taught, truth) in variants(seen.targets).items():
            found = {method: list(splits(fit, seen, taught, truth, options.splits)) for method, fit in METHODS.items()}
            _print(console, name, found, seen.per_image * _taught(taught))
        if options.fine_tune:
            method = f"the whole network, {options.fine_tune} epochs"
            _print(
                console, "first split", {method: [_whole(seen, options.fine_tune)]}, seen.per_image * _taught(taught)
            )
    return 0


def photographs(photos: str | None, name: str, folder: Path, drawn: int = 400) -> Seen:
    """A folder's images, or so many drawn ones, encoded once."""
    given = photos
    if given is None:
        given = str(draw(folder / "drawn", images=drawn, seed=0, report=lambda *_: None)[TRUTH].folder)
    bundle = opened_bundle(name, folder / "bundle")
    data = opened_set(Request(Path(given)), folder / "data", None, print, {})
    side = Side(list(data), Images(data.folder), range(len(data.labels)))
    os.environ["XDG_CACHE_HOME"] = str(folder)  # none of an earlier run's features
    began = time.process_time()
    (seen,) = encoded(bundle, [side], Plan(epochs=1, threads=1), threads=1, tell=lambda *_: None)
    took = time.process_time() - began
    targets = np.zeros((len(seen.samples), len(data.labels)), np.float32)
    for row, sample in enumerate(seen.samples):
        targets[row, list(sample.tags)] = 1
    kept = [label for label, name in enumerate(data.labels) if name != NONE]
    names = [sample.image for sample in seen.samples]
    per_image = took / len(side.samples)
    return Seen(seen.features.numpy(), targets[:, kept], per_image, lambda row: small(side.images.load(names[row])))


def parted(seen: Seen) -> tuple[Seen, Floats]:
    """Images with labels, and features of those with none."""
    rows = np.flatnonzero(seen.targets.any(axis=1))
    some = Seen(seen.features[rows], seen.targets[rows], seen.per_image, lambda row: seen.image(int(rows[row])))
    return some, np.delete(seen.features, rows, axis=0)


def open_worlds(console: Console, seen: Seen, none: Floats, count: int) -> None:
    """Print precision on streams, promised and measured."""
    columns = ("holds", "measured above, below", "precision", "promised", "F1", "logistic regression")
    shown = Table("open world, share", *columns, box=None)
    rows = [row for split in range(count) for row in open_world(seen, none, split)]
    for share in SHARES:
        numbers = np.array([numbers for each, *numbers in rows if each == share])
        holds, above, below = ((numbers[:, 0] == side).sum() for side in (0, 1, -1))
        means = (f"{100 * each:.1f}" for each in np.nanmean(numbers[:, 1:], axis=0))
        shown.add_row(f"{share:.0%}", f"{holds} of {len(numbers)}", f"{above}, {below}", *means)
    console.print(shown)
    console.print()


def open_world(seen: Seen, none: Floats, split: int) -> Iterator[tuple[float, ...]]:
    """For each share and label of a split six numbers.

    The share, the side of its interval on which the measured precision lies (0: inside), precision measured and
    promised, F1, and F1 of a logistic regression.
    """
    (features, targets), (unseen, truth) = world(seen, none, split)
    fitted, folds = _head(features, targets)
    labels = Labels([f"label {number}" for number in range(targets.shape[1])], 0, range(targets.shape[1]), ())
    scored = Scored(fitted.held_out.sigmoid().numpy(), targets, np.ones_like(targets))
    scores = fitted.logits(torch.from_numpy(unseen)).sigmoid().numpy()
    plain, at, _ = METHODS["logistic regression"](features, targets, unseen)
    for share in SHARES:
        found = judged(labels, scored, folds, Rule(share), "")
        bars = np.array([each.value for each in found.thresholds.values()], np.float32)
        weights = stream_weights(truth, np.ones_like(truth), share)
        ours_, theirs = (list(promises(taken, truth, weights, share, 0.5)) for taken in (scores > bars, plain > at))
        for promised, one, other in zip(found.promises.values(), ours_, theirs, strict=True):
            side = float(one.precision > promised.high) - float(one.precision < promised.low)
            yield share, side, one.precision, promised.precision, one.f1, other.f1


def world(seen: Seen, none: Floats, split: int) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Features and targets of the images that teach in a split, and of the others."""
    random = np.random.default_rng(split)
    order = random.permutation(len(seen.features))
    ranks = np.cumsum(seen.targets[order], axis=0) * seen.targets[order]
    few = np.minimum(TAUGHT, seen.targets.sum(0) // 2)
    taught = order[(ranks.max(axis=1) <= few[seen.targets[order].argmax(axis=1)])]
    rest, others = np.setdiff1d(order, taught), random.permutation(len(none))
    first, second = (
        (
            np.concatenate((seen.features[rows], none[more])),
            np.concatenate((seen.targets[rows], np.zeros((len(more), seen.targets.shape[1]), np.float32))),
        )
        for rows, more in ((taught, others[:TAUGHT_NONE]), (rest, others[TAUGHT_NONE:]))
    )
    return first, second


def _head(features: Floats, targets: Floats) -> tuple[Linear, NDArray[np.int64]]:
    """A head as `train fit` makes it, and the folds of its images."""
    given, wanted = torch.from_numpy(features), torch.from_numpy(targets)
    folds = folds_of(wanted, [f"{number:08}" for number in range(len(wanted))], (1 / FOLDS,) * FOLDS)
    return fit_best(given, wanted, torch.ones_like(wanted), folds), folds.numpy()


def planted_errors(console: Console, seen: Seen, count: int) -> None:
    """Print which planted errors are found."""
    columns = ("doubtful: found, precision", "confident learning: found, precision", "found at this precision")
    shown = Table("planted errors", *columns, box=None)
    if (seen.targets.sum(1) != 1).any():
        return
    numbers = np.mean([planted(seen, split) for split in range(count)], axis=0)
    cells = [f"{100 * each:.1f}" for each in numbers]
    shown.add_row("a tenth", f"{cells[0]}, {cells[1]}", f"{cells[2]}, {cells[3]}", cells[4])
    console.print(shown)
    console.print()


def planted(seen: Seen, split: int) -> tuple[float, ...]:
    """Found and precision of doubtful annotations, of confident learning, and found at the latter's precision."""
    random, count = np.random.default_rng(split), seen.targets.shape[1]
    rows = list(_divided(seen.targets, split + 1))[split][1]
    truth = seen.targets[rows].argmax(axis=1)
    wrong = random.random(len(rows)) < PLANTED
    given = np.where(wrong, (truth + random.integers(1, count, len(rows))) % count, truth)
    targets = np.eye(count, dtype=np.float32)[given]
    scores = _head(seen.features[rows], targets)[0].held_out.sigmoid().numpy()
    off = np.abs(scores - targets).max(axis=1)
    doubtful, shares = off > DOUBTFUL, scores / scores.sum(axis=1, keepdims=True)
    bars = np.array([shares[given == label, label].mean() for label in range(count)])
    sure = np.where(shares >= bars, shares, -1)
    confident = (sure.max(axis=1) >= 0) & (sure.argmax(axis=1) != given)
    ranked = wrong[np.argsort(-np.where(doubtful, doubts(scores, targets), -2), kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    named = wrong[confident].mean() if confident.any() else 1.0
    at = np.flatnonzero(precision >= named)
    return (
        wrong[doubtful].sum() / wrong.sum(),
        wrong[doubtful].mean(),
        wrong[confident].sum() / wrong.sum(),
        named,
        ranked[: at[-1] + 1].sum() / wrong.sum() if len(at) else 0.0,
    )


def variants(targets: Floats) -> Mapping[str, tuple[Floats, Floats]]:
    """By name: what is taught, and what is true. Rows that are NaN are left out."""
    random = np.random.default_rng(0)
    found = {"as they are": (targets, targets)}
    groups = (targets @ random.integers(0, 2, (targets.shape[1], 3)) > 0).astype(np.float32)
    both = np.concatenate((targets, groups[:, (groups.mean(0) > 0) & (groups.mean(0) < 1)]), axis=1)
    found["several labels an image"] = (both, both)
    rare = targets.copy()
    has = np.flatnonzero(targets[:, 0])
    kept = max(8, int((targets[:, 0] == 0).sum() / RARE))
    rare[has[kept:]] = np.nan
    found[f"the first label {kept} times"] = (rare, rare)
    wrong = targets.copy()
    flipped = random.random(len(targets)) < NOISE
    wrong[flipped] = wrong[random.permutation(len(targets))][flipped]
    found["a fifth labelled at random"] = (wrong, targets)
    return found


def splits(fit: Method, seen: Seen, taught: Floats, truth: Floats, count: int) -> Iterator[Measured]:
    """The method on so many random splits."""
    for out, rest in _divided(taught, count):
        began = time.process_time()
        scores, thresholds, one = fit(seen.features[rest], taught[rest], seen.features[out])
        yield _measured(scores, truth[out], thresholds, one, time.process_time() - began)


def _divided(taught: Floats, count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Images held out and others, among those that are taught."""
    usable = np.flatnonzero(~np.isnan(taught).any(axis=1))
    for split in range(count):
        order = np.random.default_rng(split).permutation(usable)
        out, rest = np.split(order, [int(HELD_OUT * len(order))])
        yield out, rest


def _measured(scores: Floats, truth: Floats, thresholds: Floats, one: float, took: float) -> Measured:
    at_own = table(scores, truth, thresholds)
    at_best = max(_f1(scores, truth, bar) for bar in np.quantile(scores, BARS))
    return Measured(at_own.mean().map, float(np.nanmean(at_own.f1)), _f1(scores, truth, one), at_best, took)


def _f1(scores: Floats, truth: Floats, bar: float) -> float:
    return float(np.nanmean(table(scores, truth, bar).f1)) if np.isfinite(bar) else np.nan


def _whole(seen: Seen, epochs: int) -> Measured:
    out, rest = next(_divided(seen.targets, 1))
    images = [seen.image(row) for row in range(len(seen.targets))]
    began = time.process_time()
    scores = fine_tuned([images[row] for row in rest], seen.targets[rest], [images[row] for row in out], epochs)
    took = time.process_time() - began
    return _measured(scores, seen.targets[out], np.full(seen.targets.shape[1], 0.5, np.float32), np.nan, took)


def _taught(taught: Floats) -> float:
    """How many images teach in a split."""
    return (1 - HELD_OUT) * float((~np.isnan(taught).any(axis=1)).sum())


def _print(console: Console, name: str, found: Mapping[str, Sequence[Measured]], one_pass: float) -> None:
    """Means and spread; `one_pass`: processor seconds to encode the images that teach."""
    columns = ("mAP", "F1 at own thresholds", "at one for all", "at the best one", "passes over the images")
    shown = Table(name, *columns, box=None)
    for method, rows in found.items():
        numbers = np.array([(row.map, row.f1, row.f1_at_one, row.f1_at_best) for row in rows])
        cells = [
            "-" if np.isnan(mean) else f"{100 * mean:.1f} ± {100 * spread:.1f}"
            for mean, spread in zip(numbers.mean(0), numbers.std(0), strict=True)
        ]
        shown.add_row(method, *cells, f"{np.mean([row.took for row in rows]) / one_pass:.2f}")
    console.print(shown)
    console.print()


def ours(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats, float]:
    fitted, _ = _head(features, targets)
    held_out = fitted.held_out.sigmoid().numpy()
    chosen = choose(held_out, targets, best_f1, least_positives=3, otherwise=0.5)
    one = max(np.quantile(held_out, BARS), key=lambda bar: _f1(held_out, targets, bar))
    scores = fitted.logits(torch.from_numpy(others)).sigmoid().numpy()
    return scores, np.array([each.value for each in chosen], np.float32), float(one)


def _scikit_learn(make: Callable[[], object]) -> Method:
    def fit(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats, float]:
        from sklearn.pipeline import make_pipeline  # here, because it takes seconds to load
        from sklearn.preprocessing import StandardScaler

        columns = []
        for label in range(targets.shape[1]):
            has = targets[:, label]
            if has.min() == has.max():
                columns.append(np.full(len(others), has[0]))
                continue
            model = make_pipeline(StandardScaler(), make()).fit(features, has)
            columns.append(model.predict_proba(others)[:, 1])
        return np.stack(columns, axis=1).astype(np.float32), np.full(targets.shape[1], 0.5, np.float32), np.nan

    return fit


def _logistic() -> object:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=2000)


def _by_cross_validation() -> object:
    from sklearn.linear_model import LogisticRegressionCV

    return LogisticRegressionCV(Cs=np.logspace(-5, 1, 7), cv=5, scoring="neg_log_loss", max_iter=2000)


def _fewer(method: Method, part: float) -> Method:
    """The method taught with the first of the images alone."""

    def fit(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats, float]:
        kept = int(part * len(features))
        return method(features[:kept], targets[:kept], others)

    return fit


def _centroids(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats, float]:
    mean = features.mean(0)

    def units(rows: Floats) -> Floats:
        centred = rows - mean
        scaled: Floats = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-9)
        return scaled

    centres = units(targets.T @ units(features) / targets.sum(0)[:, None].clip(1) + mean)
    scores = ((units(others) @ centres.T + 1) / 2).astype(np.float32)
    return scores, np.full(targets.shape[1], 0.5, np.float32), np.nan


METHODS: Mapping[str, Method] = {
    "train fit": ours,
    "logistic regression": _scikit_learn(_logistic),
    "the same, of 80 %": _fewer(_scikit_learn(_logistic), 0.8),
    "its strength by cross-validation": _scikit_learn(_by_cross_validation),
    "nearest centroid": _centroids,
}
