"""`train fit`: a bundle and tagged images become a better bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tagstream_train import memory
from tagstream_train.adapt import Learner, learner_of
from tagstream_train.data.augment import Augment
from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batches, multi_hot
from tagstream_train.data.samples import Sample
from tagstream_train.export import Card, export
from tagstream_train.fit_data import NAME, FitRun, Part, embeddings_of, opened_bundle, opened_set, part_of
from tagstream_train.fit_measures import Labels, Row, Scored, metrics_of, rows_of, thresholds_of
from tagstream_train.fitting import Fitting, Replayed, WithReplay
from tagstream_train.loop import Progress, Source, Trained, device_of, train
from tagstream_train.metrics import Summary, Threshold
from tagstream_train.plan import Plan, toml_of
from tagstream_train.record import Hook, Tell
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.manifest import Manifest, Thresholds
from workers.ports import ObjectStore

_CROPS = Augment(scale=(0.5, 1.0))
"""Milder than in pre-training: small sets have few images of each tag."""
_FEATURES_SHARE = 0.5
"""The part of the free memory that features of images may take."""


@dataclass(frozen=True)
class Fitted:
    """A fit's result, measured on validation images.

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
    """Train and write the bundle; resumes after a stop.

    Args:
        folder: of the run: checkpoint, curves, run.toml.
        store: where objects that the set names are.
        say: told what a person should know before it begins.

    Returns:
        None in all processes of a distributed run but the first.

    Raises:
        Misconfigured: bundle, data and options don't fit together, or the memory does not suffice.
        Unavailable: the object store does not answer.
    """
    run = _Fit(told, folder, store, tell, say)
    run.check(say)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(toml_of(told), encoding="utf-8")
    return run.to_the_end(out, hooks, replace_existing)


class _Fit:
    """One run, up to its bundle."""

    def __init__(
        self, told: FitRun, folder: Path, store: ObjectStore | None, tell: Tell, say: Callable[[str], None]
    ) -> None:
        self._told = told
        self._plan = told.plan
        self._folder = folder
        self._store = store
        self._tell = tell
        self._rank, self._world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._bundle = bundle = opened_bundle(told.parent, folder / "parent")
        data = opened_set(told.data, folder / "data", store, alone=self._world == 1, say=say)
        embeddings = embeddings_of(None if told.embeddings is None else Path(told.embeddings), bundle, data.labels)
        self._learner = _seeded(
            self._plan, lambda: learner_of(bundle, data.labels, told.what, rank=told.rank, embeddings=embeddings)
        )
        self._data = part_of(data, self._learner.labels, told.validation, store, Sample)
        self._replay: Part | None = None
        if told.replay is not None:
            replay = opened_set(told.replay, folder / "replay", store, alone=self._world == 1, say=say)
            self._replay = part_of(replay, self._learner.labels, told.validation, store, Replayed)
        self._labels = Labels(
            self._learner.labels,
            self._learner.kept,
            self._data.ids,
            None if self._replay is None else self._replay.ids,
            bundle.thresholds,
        )
        self._keep = self._learner.encoder_stays and self._features_fit()
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
            raise Misconfigured(f"None of the first images of {self._data.name} can be used.")
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
        thresholds = thresholds_of(self._labels, after, self._told.precision_floor, self._told.least_positives)
        rows = rows_of(self._labels, before, after, old_before, old_after)
        summary = after.summary(self._data.ids, [thresholds[self._labels.names[i]].value for i in self._data.ids])
        card = self._card(trained, rows, summary, thresholds)
        bundle = self._export(out, thresholds, card, replace_existing)
        skipped = {name: reason for each in self._batches for name, reason in each.skipped.items()}
        return Fitted(bundle, card, trained, thresholds, summary, rows, skipped)

    # Data.

    def _source(self) -> Source:
        batches = self._training(self._data, self._plan.batch)
        if self._replay is None:
            return batches
        return WithReplay(batches, self._training(self._replay, _replay_batch(self._plan)))

    def _training(self, part: Part, batch: int) -> Batches:
        """Batches without end, that change images unless the encoder stays."""
        return self._made(
            part.train,
            part.images,
            batch=batch,
            seed=self._plan.seed,
            augment=None if self._learner.encoder_stays else _CROPS,
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

    def _check_negatives(self) -> None:
        if self._told.absent == "negative" or any(sample.absent for sample in self._data.train):
            return
        raise Misconfigured(
            f"{self._data.name} names no absent tag of any image, so nothing can be learnt: if it "
            "names all tags of an image, give --absent negative."
        )

    # Memory.

    def _feature_bytes(self) -> int:
        manifest = self._bundle.manifest
        with torch.no_grad():
            one = self._learner.encode(torch.zeros(1, 3, manifest.transform.size, manifest.transform.size))
        return one.numel() * one.element_size() * sum(len(part.train) + len(part.val) for part in self._parts)

    @property
    def _parts(self) -> list[Part]:
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

    def _scored(self, part: Part, doing: str) -> Scored:
        """The part's validation images by the network as it is now."""
        rows: list[Tensor] = []
        seen: list[Sample] = []
        device = next(self._learner.parameters()).device
        self._learner.eval()
        with torch.no_grad():
            for batch in self._plain(part.val, part.images):
                self._tell(doing, len(seen), len(part.val))
                features = self._objective.features(replace(batch, images=batch.images.to(device)))
                rows.append(self._learner.score(features).sigmoid().cpu())
                seen += batch.samples
        if not seen:
            raise Misconfigured(f"No validation image of {part.name} can be used.")
        targets, weights = multi_hot(seen, len(self._learner.labels), absent=self._told.absent)
        own = torch.zeros(len(self._learner.labels))
        own[list(part.ids)] = 1
        return Scored(torch.cat(rows).numpy(), targets.numpy(), (weights * own).numpy())

    def _validate(self) -> dict[str, float]:
        found = self._scored(self._data, "validating").map(self._data.ids)
        return {} if found is None else {"validation_map": found}

    # What comes out.

    def _identity(self) -> dict[str, str]:
        told = self._told.model_dump(mode="json", exclude={"plan", "data", "parent", "workers"}, exclude_none=True)
        sets = {"data": self._data.sha256} | ({"replay set": self._replay.sha256} if self._replay else {})
        return {"bundle": self._bundle.digest, **sets, **{name: str(value) for name, value in told.items()}}

    def _card(
        self, trained: Trained, rows: Sequence[Row], summary: Summary, thresholds: Mapping[str, Threshold]
    ) -> Card:
        rule = self._told.precision_floor
        return Card(
            command="train fit",
            data={
                "name": self._data.name,
                "sha256": self._data.sha256,
                "train": len(self._data.train),
                "validation": len(self._data.val),
                "labels": len(self._data.ids),
                "absent": self._told.absent,
            },
            plan=self._told.model_dump(mode="json", exclude={"data", "parent", "replay", "embeddings"}),
            steps=trained.steps,
            images=trained.images,
            metrics=dict(metrics_of(rows, summary)),
            thresholds={
                "rule": "best F1" if rule is None else f"precision of {rule:g} or more",
                "not_chosen": [name for name, each in thresholds.items() if each.why],
            },
            parents={self._bundle.name: self._bundle.digest},
        )

    def _export(self, out: Path, thresholds: Mapping[str, Threshold], card: Card, replace_existing: bool) -> Bundle:
        learner, parent, own = self._learner, self._bundle, set(self._data.ids)
        values = tuple(
            thresholds[name].value if i in own else self._labels.default_threshold(i)
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


def _seeded(plan: Plan, make: Callable[[], Learner]) -> Learner:
    """LoRA and classifiers begin with drawn numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        return make()


def _replay_batch(plan: Plan) -> int:
    return max(1, plan.batch // 2)
