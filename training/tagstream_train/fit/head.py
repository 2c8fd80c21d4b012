"""`train fit` of a head: classifiers of the set's labels on the features of a bundle's unchanged network.

An image is decoded and encoded once; later runs find its features by the hash of its bytes. Without validation images,
thresholds and numbers come from 5-fold cross-validation. A number's threshold is always chosen on other images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tagstream_train import memory
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.importer import no_image
from tagstream_train.data.loader import multi_hot
from tagstream_train.data.samples import Sample, hash_of
from tagstream_train.evaluate import decoded, pieces
from tagstream_train.features import keep, kept
from tagstream_train.fit.data import Side, folds_of, key_of
from tagstream_train.fit.linear import Linear, fit_best, fit_linear
from tagstream_train.fit.measures import Judged, Labels, Rule, Scored
from tagstream_train.fit.report import HeldOut, Unlabelled, learning_curve
from tagstream_train.plan import Plan
from tagstream_train.record import Tell
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, cache_folder
from workers.models.load import load_tagger
from workers.models.tagger import TorchTagger

_Name: TypeAlias = tuple[str, str]
"""An image's name and sha256, as in the set."""
FOLDS = 5
_AT_ONCE = 16
_EDITION = 2
"""Version of the kept features. The first version trusted the sets' hashes."""
_COPIES = 4
"""Copies of the features in double precision during the fit."""


@dataclass(frozen=True)
class Encoded(Side):
    """Usable images with their features.

    Args:
        features: (images, width) float32.
    """

    features: Tensor
    skipped: Mapping[str, str]


def encoded(bundle: Bundle, sides: Sequence[Side], plan: Plan, *, threads: int, tell: Tell) -> list[Encoded]:
    """Features of all images; computes those that no earlier run kept.

    Raises:
        Misconfigured: a side has no usable image, the network gives no features, or the memory does not suffice.
    """
    file = cache_folder() / "features" / f"{bundle.digest}-{plan.precision}-{_EDITION}.safetensors"
    rows = kept(file)
    skipped = [dict[str, str]() for _ in sides]
    usable = [
        _alike([sample for sample in side.samples if hash_of(sample) in rows], side.images, threads, bad)
        for side, bad in zip(sides, skipped, strict=True)
    ]
    new = [[sample for sample in side.samples if hash_of(sample) not in rows] for side in sides]
    total = sum(len(side.samples) for side in sides)
    if any(new):
        tagger = load_tagger(bundle.folder, device=plan.device, precision=plan.precision, threads=plan.threads)
        assert isinstance(tagger, TorchTagger)
        done = total - sum(map(len, new))
        for side, samples, bad, used in zip(sides, new, skipped, usable, strict=True):
            found = decoded(samples, side.images, tagger.transform, threads=threads, skipped=bad)
            for piece in pieces(found, _AT_ONCE):
                features = tagger.features([pixels for _, pixels in piece])
                rows |= {hash_of(s): torch.from_numpy(row) for (s, _), row in zip(piece, features, strict=True)}
                used |= {_name(sample) for sample, _ in piece}
                done += len(piece)
                tell("encoding", done, total)
        keep(file, rows)
    for side in sides:
        side.images.hashes.keep()
    return [_encoded(*each, plan) for each in zip(sides, [rows] * len(sides), usable, skipped, strict=True)]


def _alike(samples: Sequence[Sample], images: Images, threads: int, skipped: dict[str, str]) -> set[_Name]:
    """Images with the hash that the set gives; others go into `skipped`."""

    def fault(sample: Sample) -> BadImage | None:
        try:
            images.require_alike(sample.image, hash_of(sample))
        except BadImage as bad:
            return bad
        return None

    with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="images") as pool:
        faults = list(pool.map(fault, samples))
    skipped |= {bad.image: bad.reason for bad in faults if bad is not None}
    return {_name(sample) for sample, bad in zip(samples, faults, strict=True) if bad is None}


def _name(sample: Sample) -> _Name:
    return sample.image, hash_of(sample)


def _encoded(
    side: Side, rows: Mapping[str, Tensor], usable: Set[_Name], skipped: Mapping[str, str], plan: Plan
) -> Encoded:
    used = [sample for sample in side.samples if _name(sample) in usable]
    if not used:
        raise no_image(skipped)
    wanted = len(used) * len(rows[hash_of(used[0])]) * 8 * _COPIES
    memory.check_room(wanted, plan, f"The features of {len(used):,} images take {{}} to fit", "take fewer images")
    return Encoded(used, side.images, side.ids, torch.stack([rows[hash_of(sample)] for sample in used]), skipped)


@dataclass(frozen=True)
class Head:
    """Classifiers of labels, and their held-out scores.

    Args:
        measured: the scored images; `against` describes them.
        scored: (images, all labels), filled for `labels.own`.
        folds: (images,) fold numbers.
        gains: by label, see `learning_curve`.
    """

    linear: Linear
    measured: Encoded
    against: str
    scored: Scored
    folds: NDArray[np.int64]
    gains: Sequence[float]

    def scores_of(self, images: Encoded, labels: Labels) -> NDArray[np.float32]:
        """(images, all labels), filled for `labels.own`."""
        scores = np.zeros((len(images.samples), len(labels.names)), np.float32)
        scores[:, list(labels.own)] = self.linear.logits(images.features).sigmoid().numpy()
        return scores

    def shown(self, judged: Judged, labels: Labels, rule: Rule, unseen: Encoded | None) -> HeldOut:
        """The report's input."""
        ids, scored = list(labels.own), judged.scored
        parts = (scored.scores[:, ids], scored.targets[:, ids], scored.known[:, ids])
        names = [labels.names[i] for i in ids]
        bars = np.array([judged.thresholds[name].value for name in names], np.float32)
        kept = [judged.promises[name] for name in names]
        drawn = None
        if unseen is not None and rule.drawn is not None:
            drawn = Unlabelled(unseen.samples, rule.drawn[:, ids], unseen.images.load)
        return HeldOut(names, self.measured.samples, *parts, bars, kept, rule.share, rule.wanted, drawn)


def fitted_head(
    seen: Encoded, other: Encoded | None, labels: Labels, *, negative: bool, alone: bool, tell: Tell
) -> Head:
    """Fit classifiers of `labels.own`.

    Args:
        other: images to measure on; None: cross-validation on `seen`.
        negative: whether a label without a statement for an image is absent; else it is unknown.
        alone: whether no encoder learns with the classifiers, so that they may read `rooted` features.

    Raises:
        Misconfigured: too few images, or no label divides them.
    """
    ids, count = list(labels.own), len(labels.names)
    targets, known = _wanted(seen, count, ids, negative)
    folds = _folds(seen, targets)
    _check_divided([labels.names[i] for i in ids], targets, known, folds, negative)
    fit = fit_best if alone else fit_linear
    linear = fit(seen.features, targets, known, folds, tell=lambda done, all_: tell("fitting labels", done, all_))
    gains = learning_curve(seen.features, targets, known, folds, linear)
    logits, measured, against = linear.held_out, seen, f"{FOLDS}-fold cross-validation"
    if other is not None:
        logits, measured = linear.logits(other.features), other
        against = f"{len(other.samples):,} images that only measure"
        targets, known = _wanted(other, count, ids, negative)
        folds = _folds(other, targets)
    scores, wanted, weights = (np.zeros((len(logits), count), np.float32) for _ in range(3))
    for out, values in ((scores, logits.sigmoid()), (wanted, targets), (weights, known)):
        out[:, ids] = values.numpy()
    return Head(linear, measured, against, Scored(scores, wanted, weights), folds.numpy(), gains)


def _wanted(images: Encoded, count: int, ids: Sequence[int], negative: bool) -> tuple[Tensor, Tensor]:
    """Targets and weights of these labels."""
    targets, known = multi_hot(images.samples, count, absent="negative" if negative else "unknown")
    said = torch.zeros(count)
    said[list(images.ids)] = 1
    return targets[:, list(ids)], (known * said)[:, list(ids)]


def _folds(images: Encoded, targets: Tensor) -> Tensor:
    return folds_of(targets, [key_of(sample) for sample in images.samples], (1 / FOLDS,) * FOLDS)


def _check_divided(names: Sequence[str], targets: Tensor, known: Tensor, folds: Tensor, negative: bool) -> None:
    other = "" if negative else ", or give --absent negative"
    has, lacks = ((each * known).sum(0) for each in (targets, 1 - targets))
    if not len(names) or not bool(((has > 0) & (lacks > 0)).any()):
        raise Misconfigured(
            f"No label of {', '.join(names[:3]) or 'the set'} divides the images: there must be some with it and "
            f"some known to be without it. Add images of something else, in a folder none or with --negatives{other}."
        )
    if len(targets) < 2 * FOLDS:
        raise Misconfigured(f"{len(targets)} images are too few: at least {2 * FOLDS} are needed, better 50 a label.")
    if (found := len(set(folds.tolist()))) < FOLDS:
        raise Misconfigured(f"The images to learn from are of {found} groups: at least {FOLDS} are needed.")
