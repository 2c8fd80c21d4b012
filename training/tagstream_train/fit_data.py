"""Inputs of `train fit`: options, bundle, training and replay sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from tagstream_train import checkpoints
from tagstream_train.data.formats import Request, open_source
from tagstream_train.data.images import Images
from tagstream_train.data.importer import import_dataset
from tagstream_train.data.samples import HEADER, SAMPLES, DataSet, Sample, places, split
from tagstream_train.features import Features
from tagstream_train.plan import Exact, Plan
from workers.errors import Misconfigured
from workers.models import timm_network
from workers.models.bundle import MANIFEST, Bundle
from workers.models.files import sha256_of
from workers.models.load import open_bundle
from workers.models.ram.config import RamConfig, RamPlusConfig, from_json
from workers.ports import ObjectStore

TIMM = "timm:"


@dataclass(frozen=True)
class Part:
    """A set, its samples with the label ids of the network.

    Args:
        sha256: of what the set says.
        ids: of the set's labels, ascending.
    """

    name: str
    sha256: str
    train: Sequence[Sample]
    val: Sequence[Sample]
    images: Images
    ids: Sequence[int]


def opened_bundle(given: str, folder: Path) -> Bundle:
    """Open a `FitRun.parent`; a timm network's bundle is made first.

    Raises:
        Misconfigured: there is none.
    """
    if not given.startswith(TIMM):
        return open_bundle(given)
    name, _, weights = given.removeprefix(TIMM).partition("@")
    if not (folder / MANIFEST).is_file():
        try:
            return timm_network.make_bundle(name, folder, Path(weights) if weights else None)
        except Misconfigured:
            if not (folder / MANIFEST).is_file():  # else another process of the run was faster
                raise
    found = Bundle.open(folder)
    if found.name != name:
        raise Misconfigured(f"{folder} holds {found.name}, not {name}; choose another folder with --work.")
    return found


def opened_set(
    given: str,
    folder: Path,
    store: ObjectStore | None,
    *,
    alone: bool,
    say: Callable[[str], None],
    images: str | None = None,
) -> DataSet:
    """Open a training set; other annotations are imported into the folder.

    Args:
        folder: in the run's folder. What a run with a checkpoint imported stays: other annotations are refused.
        alone: whether this process is the run's only one.
        say: told what of the annotations is not taken over.
        images: the folder of the annotations' images.

    Raises:
        Misconfigured: it can't be read.
        Unavailable: the object store does not answer.
    """
    path = Path(given)
    if (path / HEADER).is_file():
        return DataSet(path)
    if not alone:
        raise Misconfigured(f"{path} is no training set: make one with `tagstream train import` before torchrun.")
    source = open_source(Request(path, None if images is None else Path(images)))
    fresh = folder.with_name(f".{folder.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    import_dataset([source], fresh, store=store)
    for note in source.notes:
        say(f"{path}: {note}")
    started = (folder.parent / checkpoints.NAME).exists()
    if started and not ((folder / HEADER).is_file() and sha256_of(folder / SAMPLES) == sha256_of(fresh / SAMPLES)):
        shutil.rmtree(fresh)
        raise Misconfigured(
            f"{path} is not what the run in {folder.parent} was begun with: choose another folder with --work, or "
            f"remove {folder.parent} to begin anew."
        )
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return DataSet(folder)


def part_of(
    data: DataSet, labels: Sequence[str], validation: float, store: ObjectStore | None, kind: type[Sample]
) -> Part:
    """Split a set, with its labels numbered as in `labels`.

    Args:
        kind: of the samples.

    Raises:
        Misconfigured: it has another label, or a part comes out empty.
    """
    samples, ids = _numbered(data, labels, kind)
    parts = split(samples, {"train": 1 - validation, "val": validation})
    return _part(data, parts["train"], parts["val"], ids, store)


def stated_part_of(data: DataSet, labels: Sequence[str], store: ObjectStore | None) -> Part:
    """As `part_of`: only images that their author kept for validation are not taught."""
    samples, ids = _numbered(data, labels, Sample)
    parts = {name: [sample for sample in samples if (sample.part or "train") == name] for name in ("train", "val")}
    if not parts["train"]:
        raise Misconfigured(f"{data.folder} has no image that is to be trained on.")
    return _part(data, parts["train"], parts["val"], ids, store)


def _numbered(data: DataSet, labels: Sequence[str], kind: type[Sample]) -> tuple[list[Sample], list[int]]:
    """Samples with the network's label ids, and the set's labels' ids."""
    place = places(labels)
    unknown = [name for name in data.labels if name not in place]
    if unknown:
        raise Misconfigured(
            f"{data.folder} has the label {unknown[0]!r}, which neither the bundle nor the training set has."
        )
    ids = [place[name] for name in data.labels]
    return [_renumbered(sample, ids, kind) for sample in data], sorted(set(ids))


def _part(
    data: DataSet, train: Sequence[Sample], val: Sequence[Sample], ids: Sequence[int], store: ObjectStore | None
) -> Part:
    sha256 = sha256_of(data.folder / SAMPLES)
    return Part(data.header.name, sha256, train, val, Images(data.folder, store=store), ids)


def embeddings_of(path: Path | None, bundle: Bundle, labels: Sequence[str]) -> dict[str, Tensor]:
    """New labels' text embeddings from a file, by name.

    Raises:
        Misconfigured: the bundle knows labels otherwise, or the file can't be used.
    """
    if path is None:
        return {}
    if bundle.manifest.kind not in ("ram", "ram_plus"):
        raise Misconfigured(f"{bundle.name} knows no text embeddings; leave --embeddings out.")
    config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
    assert isinstance(config, RamConfig | RamPlusConfig)
    features = Features(path, config.embedding)
    old = set(bundle.labels)
    found = [name for name in labels if name in features and name not in old]
    if not found:
        raise Misconfigured(f"{path} has no embedding of a new label; its keys are their names.")
    descriptions = config.descriptions if isinstance(config, RamPlusConfig) else 1
    rows = features.units(found)
    return {name: row.expand(descriptions, -1) for name, row in zip(found, rows, strict=True)}


def _renumbered(sample: Sample, ids: Sequence[int], kind: type[Sample]) -> Sample:
    """With the network's label ids."""
    return kind(
        image=sample.image,
        tags=tuple(ids[tag] for tag in sample.tags),
        absent=None if sample.absent is None else tuple(ids[tag] for tag in sample.absent),
        sha256=sample.sha256,
        part=sample.part,
    )


NAME = "run.toml"


class FitRun(Exact):
    """Model, data and options of a fit."""

    data: str
    """A training set, or annotations of any format that `train import` reads."""
    parent: str
    """A bundle's folder, "compact", or "timm:NAME" for a network of timm; with "@FILE" behind it, that has weights of
    your own (safetensors)."""
    images: str | None = None
    """The folder of the images, where it does not follow from the annotations."""
    what: Literal["head", "lora", "all"] = "head"
    drop_labels: bool = False
    """Whether a head takes the place of the labels that the bundle had, instead of standing beside them."""
    rank: int = Field(default=8, ge=1, le=1024)
    """The rank of LoRA's matrices."""
    absent: Literal["negative", "unknown"] = "negative"
    """What a label means that an image is not said to have."""
    guard: NonNegativeFloat = 3.0
    """Weight of the old model's answers, for labels that the bundle had; 0: none."""
    replay: str | None = None
    """A training set with old labels, mixed into every batch."""
    embeddings: str | None = None
    """Text embeddings of new labels by name, in a safetensors file; a label without one is learnt."""
    allow_loss: bool = False
    """Whether the bundle's other labels may lose more than a point of mean average precision."""
    gamma: NonNegativeFloat = 2.0
    """How much less a negative counts the better it is known."""
    validation: float = Field(default=0.2, gt=0, lt=1)
    """Part of the images that lora and all don't train on: thresholds are chosen and numbers measured there."""
    precision_floor: float | None = Field(default=None, gt=0, le=1)
    """The least precision of a tag that is shown; None: thresholds with the best F1."""
    least_positives: PositiveInt = 3
    """The least validation images that have a label; one with fewer gets no threshold of its own."""
    workers: int = Field(default=2, ge=0, le=64)
    """Threads that read and decode images."""
    plan: Plan
