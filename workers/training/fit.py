"""`train fit`: from a bundle and a person's images with tags to a bundle that knows these tags, with thresholds."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.errors import Misconfigured
from workers.models import timm_network
from workers.models.bundle import MANIFEST, Bundle, Manifest, Thresholds
from workers.models.load import open_bundle
from workers.models.ram.config import RamConfig, RamPlusConfig, from_json
from workers.ports import ObjectStore
from workers.training import memory
from workers.training.adapt import learner_of
from workers.training.card import Card
from workers.training.data.augment import Augment
from workers.training.data.formats import Request, open_source
from workers.training.data.images import Images
from workers.training.data.importer import import_dataset
from workers.training.data.loader import Batches, multi_hot
from workers.training.data.samples import HEADER, SAMPLES, DataSet, Sample
from workers.training.data.splits import split
from workers.training.export import export
from workers.training.features import Features
from workers.training.fit_run import NAME, FitRun
from workers.training.fitting import Fitting, Replayed, WithReplay
from workers.training.loop import Progress, Source, Trained, device_of, train
from workers.training.metrics import Summary, table
from workers.training.plan import Plan
from workers.training.record import Hook
from workers.training.thresholds import Threshold, best_f1, choose, precision_floor
from workers.training.toml import toml_of

Tell: TypeAlias = Callable[[str, int, int | None], None]
"""Told what is being done, how much of it is done, and how much there is if that is known."""

TIMM = "timm:"

UNKNOWN_THRESHOLD = 0.5
"""Of a new label for which none could be chosen."""
_CROPS = Augment(scale=(0.5, 1.0))
"""Milder than in pre-training: small sets have few images of each tag."""
_FEATURES_SHARE = 0.5
"""Of the free memory, that features of images may take."""


@dataclass(frozen=True)
class Row:
    """Mean average precision of some labels, before and after; None: it can't be measured.

    Args:
        truth: what was taken for right.
    """

    labels: str
    count: int
    before: float | None
    after: float | None
    truth: str


@dataclass(frozen=True)
class Fitted:
    """What came of it, on images that were not trained on.

    Args:
        thresholds: of the training set's labels.
        summary: means over these labels, at their thresholds, which were chosen on the same images.
        rows: labels that were new, that were trained further, and that were not trained.
        skipped: images that could not be used, with the reason.
    """

    bundle: Bundle
    card: Card
    trained: Trained
    thresholds: Mapping[str, Threshold]
    summary: Summary
    rows: Sequence[Row]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class _Part:
    """A set, its samples with the label ids of the network.

    Args:
        ids: of the set's labels, ascending.
    """

    name: str
    train: Sequence[Sample]
    val: Sequence[Sample]
    images: Images
    ids: Sequence[int]


@dataclass(frozen=True)
class _Scored:
    """Validation images: (n, labels) scores, what they have (1, 0), and where that is known."""

    scores: NDArray[np.float32]
    targets: NDArray[np.float32]
    known: NDArray[np.float32]

    def map(self, ids: Sequence[int], targets: NDArray[np.float32] | None = None) -> float | None:
        """Of these labels; `targets` in the place of the set's, all of them known."""
        if not len(ids):
            return None
        columns = list(ids)
        wanted = (self.targets, self.known) if targets is None else (targets, np.ones_like(targets))
        found = table(self.scores[:, columns], wanted[0][:, columns], 0.5, wanted[1][:, columns]).mean().map
        return None if math.isnan(found) else found


def fit(
    told: FitRun,
    out: Path,
    folder: Path,
    *,
    store: ObjectStore | None = None,
    hooks: Sequence[Hook] = (),
    tell: Tell = lambda doing, done, total: None,
    say: Callable[[str], None] = lambda line: None,
    replace_existing: bool = False,
) -> Fitted | None:
    """Train, and write the bundle. Called again after it was stopped, it goes on where it was.

    Args:
        folder: of the run: checkpoint, curves, the told.
        store: where objects that the set names are.
        say: told what a person should know before it begins.

    Returns:
        None in all processes of a distributed run but the first.

    Raises:
        Misconfigured: bundle, data and options do not go together, or the memory does not suffice.
        Unavailable: the object store does not answer.
    """
    torch.manual_seed(told.plan.seed)  # LoRA and classifiers begin with drawn numbers
    run = _Fit(told, folder, store, tell)
    run.check(say)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(toml_of(told), encoding="utf-8")
    return run.to_the_end(out, hooks, replace_existing)


class _Fit:
    """One run, up to its bundle."""

    def __init__(self, told: FitRun, folder: Path, store: ObjectStore | None, tell: Tell) -> None:
        self._told = told
        self._plan = told.plan
        self._folder = folder
        self._store = store
        self._tell = tell
        self._rank, self._world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._bundle = self._opened_parent(told.parent)
        data = self._opened(told.data, "data")
        self._learner = learner_of(
            self._bundle, data.labels, told.what, rank=told.rank, embeddings=self._embeddings(data.labels)
        )
        self._data = self._part(data, Sample)
        self._replay = None if told.replay is None else self._part(self._opened(told.replay, "replay"), Replayed)
        self._keep = told.what == "head" and self._features_fit()
        self._objective = Fitting(
            self._learner,
            own=self._data.ids,
            replayed=() if self._replay is None else self._replay.ids,
            negative=told.absent == "negative",
            guard=told.guard,
            gamma=told.gamma,
        )
        self._batches: list[Batches] = []

    def check(self, say: Callable[[str], None]) -> None:
        """Before anything is written: can it work?"""
        self._check_negatives()
        first = next(iter(self._plain(self._data.train[:8], self._data.images)), None)
        if first is None:
            raise Misconfigured(f"Not one of the first images of {self._data.name} can be used.")
        estimated = memory.estimate(
            self._objective,
            first,
            self._plan,
            teachers=[self._objective.teacher] if self._objective.teacher is not None else [],
            extra=self._feature_bytes() if self._keep else 0,
            images=self._plan.batch + (_replay_batch(self._plan) if self._replay else 0),
        )
        if not self._rank:
            say(f"memory: {estimated}")
        smaller = {"all": "; --what lora or head takes less", "lora": "; --what head takes less"}
        memory.check(estimated, smaller.get(self._told.what, ""))

    def to_the_end(self, out: Path, hooks: Sequence[Hook], replace_existing: bool) -> Fitted | None:
        self._learner.to(device_of(self._plan))
        if self._keep:
            self._keep_features()
        before = self._scored(self._data, "measuring the bundle")
        old_before = self._scored(self._replay, "measuring old labels") if self._replay else before
        trained = train(
            self._objective,
            self._source(),
            self._plan,
            self._folder,
            report=self._report,
            validate=self._validate,
            identity=self._identity(),
            hooks=hooks,
        )
        if self._rank:
            return None
        self._learner.to(device_of(self._plan))
        after = self._scored(self._data, "measuring the result")
        old_after = self._scored(self._replay, "measuring old labels again") if self._replay else after
        thresholds = self._thresholds(after)
        rows = self._rows(before, after, old_before, old_after)
        summary = self._summary(after, thresholds)
        card = self._card(trained, rows, summary, thresholds)
        bundle = self._export(out, thresholds, card, replace_existing)
        skipped = {name: reason for each in self._batches for name, reason in each.skipped.items()}
        return Fitted(bundle, card, trained, thresholds, summary, rows, skipped)

    # Data.

    def _opened_parent(self, given: str) -> Bundle:
        if not given.startswith(TIMM):
            return open_bundle(given)
        name, _, weights = given.removeprefix(TIMM).partition("@")
        folder = self._folder / "parent"
        if (folder / MANIFEST).is_file():
            found = Bundle.open(folder)
            if found.name == name:
                return found
            raise Misconfigured(f"{folder} is {found.name}, where {name} is wanted; choose another folder with --work.")
        return timm_network.make_bundle(name, folder, Path(weights) if weights else None)

    def _opened(self, given: str, name: str) -> DataSet:
        """A training set, made first of annotations in another format."""
        path, made = Path(given), self._folder / name
        if (path / HEADER).is_file():
            return DataSet(path)
        if self._world > 1:
            raise Misconfigured(f"{path} is no training set: make one with `tagstream train import` before torchrun.")
        source = open_source(Request(path))
        if (made / HEADER).is_file():
            shutil.rmtree(made)  # an earlier run's: the annotations may have changed
        return import_dataset([source], made, store=self._store).dataset

    def _part(self, data: DataSet, kind: type[Sample]) -> _Part:
        place = {name: number for number, name in reversed(list(enumerate(self._learner.labels)))}
        unknown = [name for name in data.labels if name not in place]
        if unknown:
            raise Misconfigured(
                f"{data.folder} has the label {unknown[0]!r}, which neither the bundle nor the training set has."
            )
        ids = [place[name] for name in data.labels]
        fractions = {"train": 1 - self._told.validation, "val": self._told.validation}
        parts = split((_renumbered(sample, ids, kind) for sample in data), fractions)
        images = Images(data.folder, store=self._store)
        return _Part(data.header.name, parts["train"], parts["val"], images, sorted(set(ids)))

    def _source(self) -> Source:
        batches = self._training(self._data, self._plan.batch)
        if self._replay is None:
            return batches
        return WithReplay(batches, self._training(self._replay, _replay_batch(self._plan)))

    def _training(self, part: _Part, batch: int) -> Batches:
        """Batches without end, that change images unless only a head learns."""
        return self._made(
            part.train,
            part.images,
            batch=batch,
            seed=self._plan.seed,
            augment=None if self._told.what == "head" else _CROPS,
            shuffle=True,
            rank=self._rank,
            world=self._world,
            epochs=None,
        )

    def _plain(self, samples: Sequence[Sample], images: Images) -> Batches:
        return self._made(samples, images, batch=min(self._plan.batch, 32), shuffle=False)

    def _made(self, samples: Sequence[Sample], images: Images, **options: Any) -> Batches:
        manifest = self._bundle.manifest
        made = Batches(
            samples,
            images=images,
            side=manifest.transform.size,
            mean=manifest.mean,
            std=manifest.std,
            transform=manifest.transform,
            workers=self._told.workers,
            **options,
        )
        self._batches.append(made)
        return made

    def _embeddings(self, labels: Sequence[str]) -> dict[str, Tensor]:
        """Of new labels that the file has, (descriptions, embedding) each."""
        if self._told.embeddings is None:
            return {}
        manifest = self._bundle.manifest
        if manifest.kind not in ("ram", "ram_plus"):
            raise Misconfigured(f"{self._bundle.name} knows no text embeddings; leave --embeddings out.")
        config = from_json(manifest.kind, manifest.architecture)
        assert isinstance(config, RamConfig | RamPlusConfig)
        features = Features(Path(self._told.embeddings), config.embedding)
        found = [name for name in labels if name in features and name not in set(self._bundle.labels)]
        if not found:
            raise Misconfigured(f"{self._told.embeddings} has no embedding of a new label; its keys are their names.")
        descriptions = config.descriptions if isinstance(config, RamPlusConfig) else 1
        rows = features.units(found)
        return {name: row.expand(descriptions, -1) for name, row in zip(found, rows, strict=True)}

    def _check_negatives(self) -> None:
        if self._told.absent == "negative" or any(sample.absent for sample in self._data.train):
            return
        raise Misconfigured(
            f"{self._data.name} does not say of any image what it has not, so that nothing could be learnt: if it "
            "names all tags of an image, give --absent negative."
        )

    # Memory.

    def _feature_bytes(self) -> int:
        manifest = self._bundle.manifest
        with torch.no_grad():
            one = self._learner.encode(torch.zeros(1, 3, manifest.transform.size, manifest.transform.size))
        return one.numel() * one.element_size() * sum(len(part.train) + len(part.val) for part in self._parts)

    @property
    def _parts(self) -> list[_Part]:
        return [part for part in (self._data, self._replay) if part is not None]

    def _keep_features(self) -> None:
        """An encoder that does not learn sees each image once."""
        device, total, done = device_of(self._plan), sum(len(p.train) + len(p.val) for p in self._parts), 0
        self._learner.eval()
        for part in self._parts:
            for batch in self._plain([*part.train, *part.val], part.images):
                self._objective.keep(replace(batch, images=batch.images.to(device)))
                done += len(batch.samples)
                self._tell("computing features", done, total)

    def _features_fit(self) -> bool:
        free = memory.available(self._plan)
        return free is None or self._feature_bytes() <= free * _FEATURES_SHARE

    # Measuring.

    def _scored(self, part: _Part, doing: str, ids: Tensor | None = None) -> _Scored:
        """The part's validation images by the network as it is now."""
        rows: list[Tensor] = []
        seen: list[Sample] = []
        device = next(self._learner.parameters()).device
        self._learner.eval()
        with torch.no_grad():
            for batch in self._plain(part.val, part.images):
                self._tell(doing, len(seen), len(part.val))
                features = self._objective.features(replace(batch, images=batch.images.to(device)))
                rows.append(self._learner.score(features, ids).sigmoid().cpu())
                seen += batch.samples
        if not seen:
            raise Misconfigured(f"Not one validation image of {part.name} can be used.")
        targets, weights = multi_hot(seen, len(self._learner.labels), absent=self._told.absent)
        own = torch.zeros(len(self._learner.labels))
        own[list(part.ids)] = 1
        return _Scored(torch.cat(rows).numpy(), targets.numpy(), (weights * own).numpy())

    def _validate(self) -> dict[str, float]:
        found = self._scored(self._data, "validating").map(self._data.ids)
        return {} if found is None else {"validation_map": found}

    def _rows(self, before: _Scored, after: _Scored, old_before: _Scored, old_after: _Scored) -> list[Row]:
        kept = self._learner.kept
        new = [i for i in self._data.ids if i >= kept]
        further = [i for i in self._data.ids if i < kept]
        own = set(self._data.ids)
        others = [i for i in (self._replay.ids if self._replay else range(kept)) if i < kept and i not in own]
        rows = [Row("new labels", len(new), None, after.map(new), "the set's tags")]
        if further:
            rows.append(
                Row("labels trained further", len(further), before.map(further), after.map(further), "the set's tags")
            )
        if others and self._replay:
            found = old_before.map(others), old_after.map(others)
            rows.append(Row("other old labels", len(others), *found, "the replay set's tags"))
        elif others:
            shown = (before.scores[:, :kept] > np.asarray(self._bundle.thresholds)).astype(np.float32)
            truth = np.concatenate((shown, np.zeros_like(before.scores[:, kept:])), axis=1)
            found = before.map(others, truth), after.map(others, truth)
            rows.append(Row("other old labels", len(others), *found, "what the bundle said before"))
        return rows

    def _thresholds(self, after: _Scored) -> dict[str, Threshold]:
        ids = list(self._data.ids)
        rule = best_f1 if self._told.precision_floor is None else precision_floor(self._told.precision_floor)
        least = self._told.least_positives
        chosen = choose(
            after.scores[:, ids], after.targets[:, ids], rule, weights=after.known[:, ids], least_positives=least
        )
        return {
            self._learner.labels[i]: replace(each, value=self._default(i)) if each.positives < least else each
            for i, each in zip(ids, chosen, strict=True)
        }

    def _default(self, label: int) -> float:
        """The threshold of a label with too few images to choose one."""
        return self._bundle.thresholds[label] if label < self._learner.kept else UNKNOWN_THRESHOLD

    def _summary(self, after: _Scored, thresholds: Mapping[str, Threshold]) -> Summary:
        ids = list(self._data.ids)
        values = np.array([thresholds[self._learner.labels[i]].value for i in ids])
        return table(after.scores[:, ids], after.targets[:, ids], values, after.known[:, ids]).mean()

    # What comes out.

    def _identity(self) -> dict[str, str]:
        told = self._told.model_dump(mode="json", exclude={"plan", "data", "parent", "workers"}, exclude_none=True)
        sets = {name: _digest(Path(path)) for name, path in self._sets().items()}
        return {"bundle": self._bundle.digest, **sets, **{name: str(value) for name, value in told.items()}}

    def _sets(self) -> dict[str, Path]:
        given = {"data": self._told.data, "replay": self._told.replay}
        folders = {name: Path(path) for name, path in given.items() if path is not None}
        return {
            name: path / SAMPLES if (path / HEADER).is_file() else self._folder / name / SAMPLES
            for name, path in folders.items()
        }

    def _card(
        self, trained: Trained, rows: Sequence[Row], summary: Summary, thresholds: Mapping[str, Threshold]
    ) -> Card:
        metrics: dict[str, float | None] = {}
        for row in rows:
            metrics |= {f"map, {row.labels}, before": row.before, f"map, {row.labels}": row.after}
        metrics |= {"precision": _number(summary.precision), "recall": _number(summary.recall)}
        rule = self._told.precision_floor
        return Card(
            command="train fit",
            data={
                "name": self._data.name,
                "sha256": self._identity()["data"],
                "train": len(self._data.train),
                "validation": len(self._data.val),
                "labels": len(self._data.ids),
                "absent": self._told.absent,
            },
            plan=self._told.model_dump(mode="json", exclude={"data", "parent", "replay", "embeddings"}),
            steps=trained.steps,
            images=trained.images,
            metrics=metrics,
            thresholds={
                "rule": "best F1" if rule is None else f"precision of {rule:g} or more",
                "not_chosen": [name for name, each in thresholds.items() if each.why],
            },
            parents={self._bundle.name: self._bundle.digest},
        )

    def _export(self, out: Path, thresholds: Mapping[str, Threshold], card: Card, replace_existing: bool) -> Bundle:
        learner, parent = self._learner, self._bundle
        values = tuple(
            thresholds[name].value if i in set(self._data.ids) else self._default(i)
            for i, name in enumerate(learner.labels)
        )
        return export(
            out,
            self._manifest(out.name, values),
            weights=learner.weights(),
            labels=learner.labels,
            card=card,
            translations={
                language: (*names, *learner.labels[learner.kept :])
                for language, names in parent.translations.items()
                if learner.kept
            },
            replace_existing=replace_existing,
        )

    def _manifest(self, name: str, thresholds: tuple[float, ...]) -> Manifest:
        parent = self._bundle.manifest
        source = f"{parent.provenance.source}, trained further on {self._data.name}"
        provenance = parent.provenance.model_copy(update={"source": source, "sha256": None, "random": False})
        kept = self._learner.kept
        profiles: dict[str, Thresholds] = {
            profile: (*given, *thresholds[kept:]) if isinstance(given, tuple) else given
            for profile, given in parent.profiles.items()
            if kept
        }
        return parent.model_copy(
            update={
                "name": name,
                "provenance": provenance,
                "thresholds": thresholds,
                "profiles": profiles,
                "floor": min(parent.floor, *thresholds),
                "architecture": self._learner.architecture(),
                "options": {**parent.options, **self._learner.options()},
            }
        )

    def _report(self, progress: Progress) -> None:
        self._tell("training, steps", progress.step, progress.steps)


def _renumbered(sample: Sample, ids: Sequence[int], kind: type[Sample]) -> Sample:
    """With the network's label ids."""
    return kind(
        image=sample.image,
        tags=tuple(ids[tag] for tag in sample.tags),
        absent=None if sample.absent is None else tuple(ids[tag] for tag in sample.absent),
        sha256=sample.sha256,
    )


def _replay_batch(plan: Plan) -> int:
    return max(1, plan.batch // 2)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
