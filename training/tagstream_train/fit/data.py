"""Inputs of `train fit`: options, bundle, and the images that teach and that measure."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from schemas.printable import counted
from tagstream_train.data.formats import Found, Request, Source, open_source
from tagstream_train.data.formats.source import SUFFIXES
from tagstream_train.data.images import S3, Images, NamedBuckets
from tagstream_train.data.importer import import_dataset, skipped_line
from tagstream_train.data.loader import multi_hot
from tagstream_train.data.samples import HEADER, SAMPLES, DataSet, Sample, hash_of, places
from tagstream_train.fit.measures import Labels
from tagstream_train.fit.timm_bundle import make_bundle
from tagstream_train.plan import Exact, Plan
from workers.errors import Misconfigured
from workers.models.bundle import MANIFEST, Bundle
from workers.models.files import sha256_of
from workers.models.load import open_bundle
from workers.ports import ObjectStore

TIMM = "timm:"
NONE = "none"
"""A folder or tag of this name: images that were looked through and have none of the labels."""
AUTO = "auto"
_MEASURED = 5
"""With a part or set that only measures, every fifth negative measures too; else all teach."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Side:
    """Images that teach, or images that measure.

    Args:
        samples: with the label ids of the network.
        ids: labels of the set, ascending.
    """

    samples: Sequence[Sample]
    images: Images
    ids: Sequence[int]


@dataclass(frozen=True)
class Data:
    """A training set, divided.

    Args:
        sha256: of the sets' lines.
        val: None: cross-validation on `train`.
    """

    name: str
    sha256: str
    labels: Labels
    train: Side
    val: Side | None
    skipped: Mapping[str, str]


def opened_bundle(given: str, folder: Path) -> Bundle:
    """Open a `FitRun.parent`; a timm network's bundle is made first.

    Raises:
        Misconfigured: there is no such bundle or network.
    """
    if not given.startswith(TIMM):
        return open_bundle(given)
    name, _, weights = given.removeprefix(TIMM).partition("@")
    if not (folder / MANIFEST).is_file():
        try:
            return make_bundle(name, folder, Path(weights) if weights else None)
        except Misconfigured:
            if not (folder / MANIFEST).is_file():  # else another process of the run was faster
                raise
    found = Bundle.open(folder)
    if found.name != name:
        raise Misconfigured(f"{folder} holds {found.name}, not {name}; choose another folder with --work.")
    return found


def opened_set(
    request: Request,
    folder: Path,
    store: NamedBuckets | None,
    say: Say,
    skipped: dict[str, str],
    negatives: Source | None = None,
) -> DataSet:
    """Open a training set; other annotations, and a set with negatives, are imported.

    Args:
        folder: in the run's folder. A hash of the imported set is added to its name, so an earlier run's set stays.
        say: gets a sentence on annotations that are not read.
        negatives: further images, tagged `NONE`.

    Raises:
        Misconfigured: it can't be read.
        Unavailable: the object store does not answer.
    """
    path = request.path
    if (path / HEADER).is_file():
        found = DataSet(path)
        if request.groups is not None and not any(sample.group for sample in found):
            raise Misconfigured(f"{path} names no groups: import it with --groups {request.groups}.")
        if negatives is None:
            return found
        request = replace(request, groups=None)
    source, fresh = open_source(request), folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    imported = import_dataset([source] if negatives is None else [source, negatives], fresh, store=store)
    for note in (*source.notes, *([skipped_line(imported.skipped)] if imported.skipped else ())):
        say(f"{path}: {note}")
    skipped |= imported.skipped
    kept = folder.with_name(f"{folder.name}-{sha256_of(fresh / SAMPLES)[:12]}")
    with suppress(OSError):  # it is there already
        fresh.rename(kept)
    shutil.rmtree(fresh, ignore_errors=True)
    return DataSet(kept)


def _negatives(given: str, store: NamedBuckets | None) -> Source:
    """Images below a folder or `s3://bucket/prefix`, tagged `NONE`; every fifth is to measure, if others do."""
    if given.startswith(S3):
        if store is None:
            raise Misconfigured(f"{given} is in a bucket; set TAGSTREAM_S3_ENDPOINT and credentials to read it.")
        names, root = list(store.names(given)), Path()
    else:
        root = Path(given)
        paths = (path.relative_to(root) for path in root.rglob("*"))
        names = [str(path) for path in paths if not any(part.startswith(".") for part in path.parts)]
    images = [name for name in sorted(names) if name.lower().endswith(SUFFIXES)]
    found = [Found(name, (0,), part="train" if place % _MEASURED else "val") for place, name in enumerate(images)]
    if not found:
        raise Misconfigured(f"{given} has no images (*{', *'.join(SUFFIXES)}).")
    return Source("negatives", root, (NONE,), found)


def divided(run: FitRun, bundle: Bundle, folder: Path, store: NamedBuckets | None, say: Say) -> Data:
    """Open a run's sets, and divide images that teach from others.

    The images of `run.validation_set` measure, else those of the set's own part `val`. Without both, an encoder is
    measured on a stratified fifth of the images, and a head by cross-validation. Negatives teach and measure.

    Raises:
        Misconfigured: a set can't be read, or no image is left to learn from or to measure on.
        Unavailable: the object store does not answer.
    """
    request = Request(Path(run.data), None if run.images is None else Path(run.images), groups=run.groups)
    skipped: dict[str, str] = {}
    none = _negatives(run.negatives, store) if run.negatives and run.negatives != AUTO else None
    data = opened_set(request, folder / "data", store, say, skipped, none)
    old = () if run.drop_labels else bundle.labels
    counts = Counter(tag for sample in data for tag in sample.tags)
    read = spelled(data.labels, [counts[label] for label in range(len(data.labels))], old, say)
    names = (*old, *dict.fromkeys(name for name in read if name not in {*old, NONE}))
    side = _side(data, read, names, store)
    labels = Labels(names, len(old), side.ids, bundle.thresholds)
    sha256 = sha256_of(data.folder / SAMPLES)
    taught, measured = ([s for s in side.samples if (s.part or "train") == part] for part in ("train", "val"))
    if not any(sample.tags for sample in measured):
        taught, measured = [*taught, *measured], []
    val = replace(side, samples=measured) if measured else None
    if run.validation_set is not None:
        request = Request(Path(run.validation_set))
        none = none and replace(none, items=[found for found in none.items if found.part == "val"])
        other = opened_set(request, folder / "validation", store, say, skipped, none)
        val = _measuring(other, labels, store, say)
        taught = _unlike(taught, val.samples, say)
        sha256 = f"{sha256} {sha256_of(other.folder / SAMPLES)}"
    elif val is None and run.what != "head":
        taught, measured = _held_out(taught, side.ids)
        val = replace(side, samples=measured)
    if not taught:
        raise Misconfigured(f"{run.data} has no image that is to be trained on.")
    return Data(Path(run.data).stem, sha256, labels, replace(side, samples=taught), val, skipped)


def spelled(labels: Sequence[str], counts: Sequence[int], known: Sequence[str], say: Say) -> list[str]:
    """Each label's common spelling: `Dog`, `dog ` and `DOG` become one label.

    Labels that differ only in case, spaces, hyphens and underscores become one. Its spelling is the bundle's, else the
    most frequent one. Exact labels of the bundle keep their spelling.
    """
    exact = set(known)
    spelling = {NONE: NONE} | {_key(name): name for name in reversed(known)}
    read = list(labels)
    for number in sorted(range(len(labels)), key=lambda number: -counts[number]):
        if labels[number] not in exact:
            read[number] = spelling.setdefault(_key(labels[number]), labels[number])
    count = dict(zip(labels, counts, strict=True))
    merged = [
        f"{label} ({counted(counts[number], 'image')}) is read as {name} ({count.get(name, 'a label of the bundle')})"
        for number, (label, name) in enumerate(zip(labels, read, strict=True))
        if label != name
    ]
    if merged:
        say("; ".join(merged)[:1000])
    return read


def _key(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label).strip().casefold() or label


def _side(data: DataSet, read: Sequence[str], names: Sequence[str], store: ObjectStore | None) -> Side:
    """A set's images with the network's label ids, without other labels."""
    place = places(names)
    ids = {label: place[name] for label, name in enumerate(read) if name in place}
    none = {label for label, name in enumerate(read) if name == NONE and name not in place}

    def numbered(sample: Sample) -> Sample:
        tags = {ids[tag] for tag in sample.tags if tag in ids}
        absent = None if sample.absent is None else {ids[tag] for tag in sample.absent if tag in ids} - tags
        if not tags and none.intersection(sample.tags):
            absent = set(ids.values())
        return Sample(
            image=sample.image,
            tags=tuple(tags),
            absent=None if absent is None else tuple(sorted(absent)),
            sha256=sample.sha256,
            part=sample.part,
            group=sample.group,
        )

    return Side([numbered(sample) for sample in data], Images(data.folder, store=store), sorted(set(ids.values())))


def _measuring(data: DataSet, labels: Labels, store: ObjectStore | None, say: Say) -> Side:
    """A validation set, reduced to the training set's labels."""
    side = _side(data, spelled(data.labels, [0] * len(data.labels), labels.names, say), labels.names, store)
    ids = [label for label in side.ids if label in set(labels.own)]
    if not ids or not side.samples:
        raise Misconfigured(f"{data.folder} has no label of the training set, so it can't measure.")
    if len(ids) < len(labels.own):
        say(f"{data.header.name} measures {len(ids)} of {counted(len(labels.own), 'label')}: it has no others")
    return replace(side, ids=ids)


def _unlike(taught: Sequence[Sample], measured: Sequence[Sample], say: Say) -> list[Sample]:
    """Images that are not in the validation set."""
    known = {hash_of(sample) for sample in measured}
    kept = [sample for sample in taught if hash_of(sample) not in known]
    if len(kept) < len(taught):
        say(f"{counted(len(taught) - len(kept), 'image')} of the validation set too: left out of training")
    return kept


def _held_out(samples: Sequence[Sample], ids: Sequence[int]) -> tuple[list[Sample], list[Sample]]:
    """Images to teach, and a stratified fifth to measure."""
    targets, _ = multi_hot(samples, max(ids, default=-1) + 1, absent="negative")
    folds = folds_of(targets[:, list(ids)], [key_of(sample) for sample in samples], (0.8, 0.2)).tolist()
    taught, measured = ([s for s, fold in zip(samples, folds, strict=True) if fold == side] for side in (0, 1))
    if not measured:
        raise Misconfigured(f"{counted(len(samples), 'image')} can't be divided: give more, or --validation-set.")
    return taught, measured


def key_of(sample: Sample) -> str:
    """The image's group, or the hash of its bytes. No split divides images of one key.

    Raises:
        Misconfigured: the sample has no sha256.
    """
    return sample.group or hash_of(sample)


def folds_of(targets: Tensor, keys: Sequence[str], shares: Sequence[float]) -> Tensor:
    """Divide images into stratified folds.

    Images of one key stay together. Images of rare labels are dealt first, and images with the same labels in a row.

    Args:
        targets: (images, labels), 0 or 1.
        keys: of each image. They decide the order, so a set always gets the same folds.
        shares: size of each fold; their sum is 1.

    Returns:
        (images,) int64, from 0.
    """
    counts = targets.sum(0)
    rarity = torch.where(targets > 0, counts, torch.inf)
    least, rarest = rarity.min(1) if targets.shape[1] else (torch.zeros(len(keys)), torch.zeros(len(keys)))
    order = [
        (rare, label, row.nonzero()[:, 0].tolist(), keys[place], place)
        for place, (rare, label, row) in enumerate(zip(least.tolist(), rarest.int().tolist(), targets, strict=True))
    ]
    groups: dict[str, list[int]] = {}
    for *_, key, place in sorted(order):
        groups.setdefault(key, []).append(place)
    folds = torch.zeros(len(keys), dtype=torch.int64)
    dealt = torch.zeros(targets.shape[1] + 1, len(shares))  # the last row: images
    for places_ in groups.values():
        rows = targets[places_].sum(0)
        row = int(rarest[places_[0]]) if bool(rows.any()) else -1
        filled = (dealt[[row, -1]] / torch.tensor(shares)).T.tolist()
        fold = filled.index(min(filled))
        folds[places_] = fold
        dealt[:-1, fold] += rows
        dealt[-1, fold] += len(places_)
    return folds


NAME = "run.toml"


class FitRun(Exact):
    """Model, data and options of a fit."""

    data: str
    """A training set, or annotations of any format that `train import` reads."""
    parent: str
    """A bundle's folder, "compact", "timm:NAME", or "timm:NAME@FILE" with weights of your own (safetensors)."""
    images: str | None = None
    """The folder of the images, if it does not follow from the annotations."""
    validation_set: str | None = None
    """As `data`: images that measure and do not teach."""
    groups: str | None = None
    """The CSV's column of bursts or videos. No split divides them."""
    what: Literal["head", "lora", "all"] = "head"
    drop_labels: bool = False
    """Whether the set's labels replace the bundle's, instead of following them."""
    rank: int = Field(default=8, ge=1, le=1024)
    """The rank of LoRA's matrices."""
    absent: Literal["negative", "unknown"] = "negative"
    """Meaning of a label without a statement for an image."""
    guard: NonNegativeFloat = 3.0
    """Weight of the old model's answers for the bundle's labels; 0: off."""
    allow_loss: bool = False
    """Whether other labels may lose more than a point of mean average precision."""
    negatives: str | None = None
    """A folder or `s3://bucket/prefix` of images that have none of the labels, or `AUTO`: drawn ones, unlabelled."""
    share: float = Field(default=0.01, gt=0, lt=1)
    """The share of images on the stream that has a label, assumed of each."""
    precision_floor: float | None = Field(default=None, gt=0, le=1)
    """The least precision of shown tags; None: thresholds with the best F1."""
    workers: int = Field(default=2, ge=0, le=64)
    """Threads that read and decode images."""
    plan: Plan
