"""`train fit` of a head: classifiers of the set's labels on the features of a bundle's network, which stays.

Each image is decoded and encoded once, ever: its features are kept by the content of its bytes. All images teach, and
all measure: thresholds and numbers come from classifiers that did not see the image (5-fold cross-validation), and the
threshold that a number is measured at was not chosen on it either.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.torch import save_file
from torch import Tensor

from tagstream_train import memory
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.loader import multi_hot
from tagstream_train.data.samples import Sample, hash_of
from tagstream_train.features import Features
from tagstream_train.fit_measures import OTHERS, Labels, Row, Scored, thresholds_of
from tagstream_train.fit_report import Measured, learning_curve
from tagstream_train.linear import Linear, fit_linear
from tagstream_train.metrics import Summary, Threshold
from tagstream_train.plan import Plan
from tagstream_train.record import Tell
from workers.errors import Misconfigured
from workers.intake.transform import apply
from workers.models import compact, timm_network
from workers.models.added import BIAS, WEIGHT, columns_of, parted
from workers.models.bundle import Bundle, cache_folder
from workers.models.load import load_tagger
from workers.models.tagger import TorchTagger
from workers.types import Pixels

FOLDS = 5
_AT_ONCE = 16
_MOST_KEPT = 100_000
"""Images whose features are kept: a name each in the head of the file."""
_COPIES = 4
"""Of the features in double precision, while they are fitted."""


@dataclass(frozen=True)
class Encoded:
    """A set's usable images, as a network sees them.

    Args:
        features: (images, width) float32.
        skipped: images that could not be used, with the reason.
    """

    samples: Sequence[Sample]
    features: Tensor
    skipped: dict[str, str]


def encoded(
    bundle: Bundle, parts: Sequence[Sequence[Sample]], images: Images, plan: Plan, *, threads: int, tell: Tell
) -> list[Encoded]:
    """Encode a set's parts: images whose features are not kept yet.

    Args:
        threads: that read and decode.

    Raises:
        Misconfigured: no image of a part can be used, the network gives no features, or the memory does not suffice.
    """
    samples = [sample for part in parts for sample in part]
    file = cache_folder() / "features" / f"{bundle.digest}-{plan.precision}.safetensors"
    rows = _kept(file)
    new = [sample for sample in samples if hash_of(sample) not in rows]
    skipped, done = dict[str, str](), len(samples) - len(new)
    for pieces in _computed(bundle, new, images, plan, threads):
        for sample, found in pieces:
            if isinstance(found, BadImage):
                skipped[sample.image] = found.reason
            else:
                rows[hash_of(sample)] = found
        done += len(pieces)
        tell("encoding", done, len(samples))
    if new and rows:
        keep(file, rows)
    return [_encoded(part, rows, skipped, plan) for part in parts]


def _encoded(part: Sequence[Sample], rows: Mapping[str, Tensor], skipped: Mapping[str, str], plan: Plan) -> Encoded:
    used = [sample for sample in part if hash_of(sample) in rows]
    bad = {sample.image: skipped[sample.image] for sample in part if sample.image in skipped}
    if not used:
        raise Misconfigured(f"None of {len(part):,} images can be used: {next(iter(bad.values()), 'none given')}.")
    _check_memory(len(used), len(rows[hash_of(used[0])]), plan)
    return Encoded(used, torch.stack([rows[hash_of(sample)] for sample in used]), bad)


def _computed(
    bundle: Bundle, samples: Sequence[Sample], images: Images, plan: Plan, threads: int
) -> Iterator[list[tuple[Sample, Tensor | BadImage]]]:
    """Features in pieces; no network is loaded for no image."""
    if not samples:
        return
    tagger = load_tagger(bundle.folder, device=plan.device, precision=plan.precision, threads=plan.threads)
    assert isinstance(tagger, TorchTagger)
    for pieces in _decoded(tagger, samples, images, threads):
        rows = iter(tagger.features([pixels for _, pixels in pieces if not isinstance(pixels, BadImage)]))
        yield [
            (sample, found if isinstance(found, BadImage) else torch.from_numpy(next(rows))) for sample, found in pieces
        ]


def _decoded(
    tagger: TorchTagger, samples: Sequence[Sample], images: Images, threads: int
) -> Iterator[list[tuple[Sample, Pixels | BadImage]]]:
    """Decoded images in pieces, the next made while one is used."""

    def decode(sample: Sample) -> tuple[Sample, Pixels | BadImage]:
        transform = tagger.transform
        try:
            return sample, apply(transform, images.load(sample.image, exif_transpose=transform.exif_transpose))
        except BadImage as error:
            return sample, error

    with ThreadPoolExecutor(max(threads, 1)) as pool:
        following = [pool.submit(decode, sample) for sample in samples[:_AT_ONCE]]
        for start in range(0, len(samples), _AT_ONCE):
            piece, end = following, start + _AT_ONCE
            following = [pool.submit(decode, sample) for sample in samples[end : end + _AT_ONCE]]
            yield [future.result() for future in piece]


def _kept(file: Path) -> dict[str, Tensor]:
    """Features by sha256, {} if the file is missing or damaged."""
    with suppress(Misconfigured):
        found = Features(file)
        return dict(zip(found.keys(), found.rows(found.keys()), strict=True)) if len(found) else {}
    return {}


def keep(file: Path, rows: dict[str, Tensor]) -> None:
    """For the next run; one that can't write only takes longer."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}")
        save_file(dict(list(rows.items())[-_MOST_KEPT:]), scratch)
        scratch.replace(file)


def _check_memory(images: int, width: int, plan: Plan) -> None:
    wanted, free = images * width * 8 * _COPIES, memory.available(plan)
    if free is not None and wanted > free:
        raise Misconfigured(
            f"The features of {images:,} images take {wanted / 1e9:.1f} GB to fit, and {free / 1e9:.1f} GB are free: "
            "take fewer images, or --what lora."
        )


@dataclass(frozen=True)
class Rule:
    """How images are read and thresholds chosen.

    Args:
        negative: whether a label that an image is not said to have is absent; else it is not known.
        floor, least_positives: as `thresholds_of` takes them.
    """

    negative: bool
    floor: float | None
    least_positives: int

    def thresholds(self, labels: Labels, scored: Scored) -> dict[str, Threshold]:
        return thresholds_of(labels, scored, self.floor, self.least_positives)


@dataclass(frozen=True)
class Head:
    """Classifiers of labels, measured on images that did not teach them.

    Args:
        ids: of the labels, ascending.
        scored: all labels' places of the measured images; those of `ids` are filled.
        summary: at thresholds that were chosen on other images.
        measured: which images these are.
        gains: by label, see `learning_curve`.
    """

    ids: Sequence[int]
    linear: Linear
    scored: Scored
    thresholds: dict[str, Threshold]
    summary: Summary
    measured: str
    gains: Sequence[float]

    def rows(self, labels: Labels) -> list[Row]:
        rows = []
        for name, ids in (("new labels", labels.new), ("labels fitted anew", labels.further)):
            if ids:
                rows.append(Row(name, len(ids), None, self.scored.map(ids), self.measured))
        if others := labels.kept - len(labels.further):
            rows.append(Row(OTHERS, others, None, None, "unchanged to the bit"))
        return rows


def fitted_head(seen: Encoded, other: Encoded | None, labels: Labels, rule: Rule, *, tell: Tell) -> Head:
    """Fit classifiers of `labels.own`.

    Args:
        other: images to measure on; None: each image is measured by classifiers that did not see it.

    Raises:
        Misconfigured: too few images, or no label that some have and others have not.
    """
    ids, count = list(labels.own), len(labels.names)
    targets, known = _wanted(seen, ids, count, rule)
    _check_told_apart([labels.names[i] for i in ids], targets, known)
    folds = folds_of(targets, [hash_of(sample) for sample in seen.samples])
    linear = fit_linear(
        seen.features, targets, known, folds, tell=lambda done, all_: tell("fitting labels", done, all_)
    )
    scored = _scored(linear.held_out, targets, known, ids, count)
    thresholds = rule.thresholds(labels, scored)
    gains = learning_curve(seen.features, targets, known, folds, linear)
    if other is None:
        summary = _honest(scored, folds.numpy(), labels, rule)
        return Head(ids, linear, scored, thresholds, summary, f"{FOLDS}-fold cross-validation", gains)
    logits = other.features @ linear.weight.T + linear.bias
    measured = _scored(logits, *_wanted(other, ids, count, rule), ids, count)
    summary = measured.summary(ids, [thresholds[labels.names[i]].value for i in ids])
    return Head(
        ids, linear, measured, thresholds, summary, f"{len(other.samples):,} images of the validation part", gains
    )


def measured_of(head: Head, images: Encoded, labels: Labels) -> Measured:
    """What a report shows, of the head's labels."""
    ids = list(head.ids)
    scored = head.scored
    return Measured(
        [labels.names[i] for i in ids],
        images.samples,
        scored.scores[:, ids],
        scored.targets[:, ids],
        scored.known[:, ids],
        images.features,
        [head.thresholds[labels.names[i]] for i in ids],
    )


def _wanted(seen: Encoded, ids: Sequence[int], count: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Targets and weights of these labels."""
    targets, known = multi_hot(seen.samples, count, absent="negative" if rule.negative else "unknown")
    return targets[:, list(ids)], known[:, list(ids)]


def _scored(logits: Tensor, targets: Tensor, known: Tensor, ids: Sequence[int], count: int) -> Scored:
    scores, wanted, weights = (np.zeros((len(logits), count), np.float32) for _ in range(3))
    for out, values in ((scores, logits.sigmoid()), (wanted, targets), (weights, known)):
        out[:, list(ids)] = values.numpy()
    return Scored(scores, wanted, weights)


def _honest(scored: Scored, folds: NDArray[np.int64], labels: Labels, rule: Rule) -> Summary:
    """Means at thresholds from the other folds."""
    ids, moved = list(labels.own), scored.scores.copy()
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        others = rule.thresholds(labels, Scored(scored.scores[~out], scored.targets[~out], scored.known[~out]))
        bars = np.array([others[labels.names[i]].value for i in ids], np.float32)
        moved[np.ix_(out, ids)] += 1 - bars  # so that every fold's thresholds lie at 1
    found = Scored(moved, scored.targets, scored.known).summary(ids, [1.0] * len(ids))
    return replace(found, map=scored.map(ids) or math.nan)


def _check_told_apart(names: Sequence[str], targets: Tensor, known: Tensor) -> None:
    has, lacks = ((each * known).sum(0) for each in (targets, 1 - targets))
    if not len(names) or not bool(((has > 0) & (lacks > 0)).any()):
        raise Misconfigured(
            f"No label of {', '.join(names[:3]) or 'the set'} divides the images: there must be some with it and "
            "some known to be without it. Add images of something else, or give --absent negative."
        )
    if len(targets) < 2 * FOLDS:
        raise Misconfigured(f"{len(targets)} images are too few: at least {2 * FOLDS} are needed, better 50 a label.")


def folds_of(targets: Tensor, keys: Sequence[str]) -> Tensor:
    """Divide images into `FOLDS` folds, each with its share of every label's.

    Images of one key stay together. Rare labels are dealt first.

    Args:
        targets: (images, labels), 0 or 1.
        keys: of each image; they decide the order, so that a set's folds are always the same.

    Returns:
        (images,) int64, from 0.
    """
    counts = targets.sum(0)
    rarity = torch.where(targets > 0, counts, torch.inf)
    least, rarest = rarity.min(1) if targets.shape[1] else (torch.zeros(len(keys)), torch.zeros(len(keys)))
    groups: dict[str, list[int]] = {}
    for place in sorted(range(len(keys)), key=lambda place: (float(least[place]), int(rarest[place]), keys[place])):
        groups.setdefault(keys[place], []).append(place)
    folds = torch.zeros(len(keys), dtype=torch.int64)
    dealt = torch.zeros(targets.shape[1] + 1, FOLDS)  # the last row: images
    for places in groups.values():
        rows = targets[places].sum(0)
        row = int(rarest[places[0]]) if bool(rows.any()) else -1
        fold = min(range(FOLDS), key=lambda each: (float(dealt[row, each]), float(dealt[-1, each])))
        folds[places] = fold
        dealt[:-1, fold] += rows
        dealt[-1, fold] += len(places)
    return folds


def with_head(bundle: Bundle, head: Head) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """A bundle's weights and options with these classifiers, old ones replaced."""
    weights, options = bundle.weights(), dict(bundle.manifest.options)
    columns = columns_of(bundle)
    rows = {label: (weights[WEIGHT][row], weights[BIAS][row]) for row, label in enumerate(columns.added)}
    rows |= {label: (head.linear.weight[row], head.linear.bias[row]) for row, label in enumerate(head.ids)}
    ids = sorted(rows)
    weights[WEIGHT], weights[BIAS] = (torch.stack([rows[label][part] for label in ids]) for part in (0, 1))
    return weights, {**options, "added": list[JsonValue](ids), "own": columns.own}


def head_alone(bundle: Bundle, head: Head) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """A bundle's weights and options with these classifiers alone.

    Raises:
        Misconfigured: its network has no linear classifier.
    """
    own, kind = parted(bundle.weights(), columns_of(bundle))[0], bundle.manifest.kind
    if kind == timm_network.KIND:
        name = timm_network.classifier_name(bundle)
    elif kind == compact.KIND:
        name = "classifier"
    else:
        raise Misconfigured(f"{bundle.name} has no classifier of its own to replace: leave --drop-labels out.")
    options = {key: each for key, each in bundle.manifest.options.items() if key not in ("added", "own")}
    classifier = {f"{name}.weight": head.linear.weight, f"{name}.bias": head.linear.bias}
    return own | classifier, {**options, "exclusive": False}
