"""A head by `tagstream train fit` beside simple methods on the same features.

    python -m benchmarks fit PHOTOS [--from compact] [--splits 6]

PHOTOS: any labelled photographs that `train fit` reads; without it the drawn set. Each split holds out 30 % of the
images. Beside ours: scikit-learn's logistic regression as people write it (standardised, C of 1), the same with its
strength by cross-validation, and the nearest centroid. All learn from the same images and are measured on the others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tagstream_train.data.formats import Request
from tagstream_train.data.images import Images
from tagstream_train.drawn.sets import TRUTH, draw
from tagstream_train.fit_data import Side, folds_of, opened_bundle, opened_set
from tagstream_train.heads import FOLDS, encoded
from tagstream_train.linear import fit_linear
from tagstream_train.metrics import best_f1, choose, table
from tagstream_train.plan import Plan

Floats = NDArray[np.float32]
Method = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]
"""Features, targets and other features to scores of these, and a threshold for each label."""

HELD_OUT = 0.3
NOISE = 0.2
RARE = 50


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fit")
    parser.add_argument("photos", nargs="?", help="labelled photographs; default: the drawn set")
    parser.add_argument("--from", dest="bundle", default="compact", help="the network, as for `train fit`")
    parser.add_argument("--splits", type=int, default=6)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # scikit-learn's, of its next version and of labels with few images
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as folder:
        features, targets, per_image = _features(options.photos, options.bundle, Path(folder))
    console.print(
        f"{len(features):,} images, {targets.shape[1]} labels, {features.shape[1]} features of {options.bundle}; "
        f"{per_image * 1e3:.0f} ms of processor an image to encode"
    )
    for name, (taught, truth) in _variants(targets).items():
        _print(console, name, features, taught, truth, options.splits, per_image)
    return 0


def _features(photos: str | None, name: str, folder: Path) -> tuple[Floats, Floats, float]:
    """Features, targets and processor seconds an image."""
    given = photos
    if given is None:
        given = str(draw(folder / "drawn", images=400, seed=0, report=lambda *_: None)[TRUTH].folder)
    bundle = opened_bundle(name, folder / "bundle")
    data = opened_set(Request(Path(given)), folder / "data", None, print)
    side = Side(list(data), Images(data.folder), range(len(data.labels)))
    os.environ["XDG_CACHE_HOME"] = str(folder)  # none of an earlier run's features
    began = time.process_time()
    (seen,) = encoded(bundle, [side], Plan(epochs=1, threads=1), threads=1, tell=lambda *_: None)
    took = time.process_time() - began
    targets = np.zeros((len(seen.samples), len(data.labels)), np.float32)
    for row, sample in enumerate(seen.samples):
        targets[row, list(sample.tags)] = 1
    return seen.features.numpy(), targets, took / len(side.samples)


def _variants(targets: Floats) -> Mapping[str, tuple[Floats, Floats]]:
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


def _print(
    console: Console, name: str, features: Floats, taught: Floats, truth: Floats, splits: int, per_image: float
) -> None:
    found: dict[str, list[tuple[float, float, float, float]]] = {each: [] for each in METHODS}
    for split in range(splits):
        usable = np.flatnonzero(~np.isnan(taught).any(axis=1))
        order = np.random.default_rng(split).permutation(usable)
        out, rest = np.split(order, [int(HELD_OUT * len(order))])
        for method, fit in METHODS.items():
            began = time.process_time()
            scores, thresholds = fit(features[rest], taught[rest], features[out])
            took = time.process_time() - began
            at_thresholds = table(scores, truth[out], thresholds)
            single = max(
                np.nanmean(table(scores, truth[out], bar).f1) for bar in np.quantile(scores, np.linspace(0, 1, 41))
            )
            found[method].append((at_thresholds.mean().map, float(np.nanmean(at_thresholds.f1)), float(single), took))
    shown = Table(
        name, "mAP", "macro F1 at its thresholds", "at the best single one", "passes over the images", box=None
    )
    for method, rows in found.items():
        numbers = np.array(rows)
        mean, spread = numbers.mean(0), numbers.std(0)
        passes = mean[3] / (per_image * len(usable) * (1 - HELD_OUT))
        cells = [f"{100 * mean[i]:.1f} ± {100 * spread[i]:.1f}" for i in range(3)]
        shown.add_row(method, *cells, f"{passes:.2f}")
    console.print(shown)
    console.print()


def _ours(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats]:
    given, wanted = torch.from_numpy(features), torch.from_numpy(targets)
    folds = folds_of(wanted, [f"{number:08}" for number in range(len(wanted))], (1 / FOLDS,) * FOLDS)
    fitted = fit_linear(given, wanted, torch.ones_like(wanted), folds)
    chosen = choose(fitted.held_out.sigmoid().numpy(), targets, best_f1, least_positives=3, otherwise=0.5)
    scores = (torch.from_numpy(others) @ fitted.weight.T + fitted.bias).sigmoid().numpy()
    return scores, np.array([each.value for each in chosen], np.float32)


def _scikit_learn(make: Callable[[], LogisticRegression]) -> Method:
    def fit(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats]:
        columns = []
        for label in range(targets.shape[1]):
            has = targets[:, label]
            if has.min() == has.max():
                columns.append(np.full(len(others), has[0]))
                continue
            model = make_pipeline(StandardScaler(), make()).fit(features, has)
            columns.append(model.predict_proba(others)[:, 1])
        return np.stack(columns, axis=1).astype(np.float32), np.full(targets.shape[1], 0.5, np.float32)

    return fit


def _by_cross_validation() -> LogisticRegression:
    return LogisticRegressionCV(Cs=np.logspace(-5, 1, 7), cv=5, scoring="neg_log_loss", max_iter=2000)


def _fewer(method: Method, part: float) -> Method:
    """The method taught with the first of the images alone."""

    def fit(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats]:
        kept = int(part * len(features))
        return method(features[:kept], targets[:kept], others)

    return fit


def _centroids(features: Floats, targets: Floats, others: Floats) -> tuple[Floats, Floats]:
    mean = features.mean(0)

    def units(rows: Floats) -> Floats:
        centred = rows - mean
        scaled: Floats = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-9)
        return scaled

    centres = units(targets.T @ units(features) / targets.sum(0)[:, None].clip(1) + mean)
    scores = ((units(others) @ centres.T + 1) / 2).astype(np.float32)
    return scores, np.full(targets.shape[1], 0.5, np.float32)


METHODS: Mapping[str, Method] = {
    "train fit": _ours,
    "logistic regression": _scikit_learn(lambda: LogisticRegression(max_iter=2000)),
    "the same, of 80 %": _fewer(_scikit_learn(lambda: LogisticRegression(max_iter=2000)), 0.8),
    "its strength by cross-validation": _scikit_learn(_by_cross_validation),
    "nearest centroid": _centroids,
}
