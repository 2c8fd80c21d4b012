"""`train fit`: a bundle and tagged images become a better bundle."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from tagstream_train import checkpoints, memory
from tagstream_train.adapt import Learner, What, learner_of
from tagstream_train.data.augment import Augment
from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batches, multi_hot
from tagstream_train.data.samples import Sample
from tagstream_train.export import Card, export
from tagstream_train.fit_data import (
    NAME,
    FitRun,
    Part,
    embeddings_of,
    opened_bundle,
    opened_set,
    part_of,
    stated_part_of,
)
from tagstream_train.fit_measures import OTHERS, Labels, Row, Scored, metrics_of, rows_of, thresholds_of
from tagstream_train.fit_report import page
from tagstream_train.fitting import Fitting, Replayed, WithReplay
from tagstream_train.heads import Rule, encoded, fitted_head, head_alone, measured_of, with_head
from tagstream_train.loop import TOTAL, Progress, Source, device_of, train
from tagstream_train.metrics import Summary, Threshold
from tagstream_train.plan import Plan, toml_of
from tagstream_train.record import Hook, Tell, numbers
from workers.errors import Misconfigured
from workers.models.bundle import VOCABULARY, Bundle
from workers.models.manifest import Thresholds
from workers.ports import ObjectStore

MOST_LOST = 0.01
"""Mean average precision that the other labels may lose when the network learns."""
REPORT = "report.html"
"""In the run's folder."""
_CROPS = Augment(scale=(0.5, 1.0))
"""Milder than in pre-training: small sets have few images of each tag."""
_DIVERGED = 2.0
"""Times the loss at the beginning; a lower loss at the end is usual."""


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
    if told.what == "head":
        return _head(told, out, folder, store, tell, say, replace_existing)
    run = _Fit(told, folder, store, tell, say)
    run.check(say)  # nothing of an earlier run is written over before
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(toml_of(told), encoding="utf-8")
    return run.to_the_end(out, hooks, replace_existing)


def _head(
    told: FitRun,
    out: Path,
    folder: Path,
    store: ObjectStore | None,
    tell: Tell,
    say: Callable[[str], None],
    replace_existing: bool,
) -> Fitted:
    """Fit classifiers on the features of a network that stays."""
    if told.plan.threads is not None:
        torch.set_num_threads(told.plan.threads)
    bundle = opened_bundle(told.parent, folder / "parent")
    data = opened_set(told.data, folder / "data", store, alone=True, say=say, images=told.images)
    old = () if told.drop_labels else bundle.labels
    names = (*old, *(name for name in data.labels if name not in set(old)))
    part = stated_part_of(data, names, store)
    labels = Labels(names, len(old), part.ids, None, bundle.thresholds)
    parts = [samples for samples in (part.train, part.val) if samples]
    seen, *rest = encoded(bundle, parts, part.images, told.plan, threads=told.workers, tell=tell)
    other = rest[0] if rest else None
    rule = Rule(told.absent == "negative", told.precision_floor, told.least_positives)
    head = fitted_head(seen, other, labels, rule, tell=tell)
    weights, options = head_alone(bundle, head) if told.drop_labels else with_head(bundle, head)
    rows = head.rows(labels)
    card = _card(told, part, bundle, rows, head.summary, head.thresholds, images=len(seen.samples))
    made = _Made(names, len(old), weights, bundle.manifest.architecture, options, bundle.manifest.provenance.random)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(toml_of(told), encoding="utf-8")
    facts = {"images": f"{len(seen.samples):,}", "from": bundle.name, "measured by": head.measured}
    report = page(
        f"{out.name}, of {part.name}", measured_of(head, other or seen, labels), head.gains, part.images.load, facts
    )
    (folder / REPORT).write_text(report, encoding="utf-8")
    written = _export(out, bundle, made, part, labels, head.thresholds, card, replace_existing)
    return Fitted(written, card, head.thresholds, head.summary, rows, seen.skipped)


def _refuse_loss(rows: Sequence[Row]) -> None:
    """Refuse a network that forgot.

    Raises:
        Misconfigured: labels that the set is not about lost more than `MOST_LOST`.
    """
    for row in rows:
        if row.labels == OTHERS and row.before is not None and row.after is not None:
            lost = row.before - row.after
            if lost > MOST_LOST:
                raise Misconfigured(
                    f"The {row.count} other old labels lost {100 * lost:.1f} points of mean average precision "
                    f"({row.before:.1%} to {row.after:.1%}, against {row.truth}), and no bundle was written: raise "
                    "--guard, give --replay, or train less. --what head loses nothing. The same command with "
                    "--allow-loss writes the bundle without training again."
                )


class _Fit:
    """One run, up to its bundle."""

    def __init__(
        self, told: FitRun, folder: Path, store: ObjectStore | None, tell: Tell, say: Callable[[str], None]
    ) -> None:
        self._told = told
        what: What = "lora" if told.what == "lora" else "all"
        self._plan = told.plan
        self._folder = folder
        self._store = store
        self._tell = tell
        self._rank, self._world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self._bundle = bundle = opened_bundle(told.parent, folder / "parent")
        data = opened_set(told.data, folder / "data", store, alone=self._world == 1, say=say, images=told.images)
        embeddings = embeddings_of(None if told.embeddings is None else Path(told.embeddings), bundle, data.labels)
        self._learner = _seeded(
            self._plan,
            lambda: learner_of(
                bundle, data.labels, what, rank=told.rank, embeddings=embeddings, drop_labels=told.drop_labels
            ),
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
        checkpoints.load(self._folder, self._plan, self._identity(), mapped=True)
        self._check_labels()
        first = next(iter(self._plain(self._data.train[:8], self._data.images)), None)
        if first is None:
            raise Misconfigured(f"None of the first images of {self._data.name} can be used.")
        estimated = memory.estimate(
            self._objective,
            first,
            self._plan,
            teachers=[self._objective.teacher] if self._objective.teacher is not None else [],
            images=self._plan.batch + (_replay_batch(self._plan) if self._replay else 0),
            measure=self._learner,
        )
        if not self._rank:
            say(f"memory: {estimated}")
        smaller = {"all": "; --what lora or head takes less", "lora": "; --what head takes less"}
        memory.check(estimated, smaller.get(self._told.what, ""))

    def to_the_end(self, out: Path, hooks: Sequence[Hook], replace_existing: bool) -> Fitted | None:
        self._learner.to(device_of(self._plan))
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
        self._check_loss()
        thresholds = thresholds_of(self._labels, after, self._told.precision_floor, self._told.least_positives)
        rows = rows_of(self._labels, before, after, old_before, old_after)
        if not self._told.allow_loss:
            _refuse_loss(rows)
        summary = after.summary(self._data.ids, [thresholds[self._labels.names[i]].value for i in self._data.ids])
        card = _card(
            self._told, self._data, self._bundle, rows, summary, thresholds, steps=trained.steps, images=trained.images
        )
        learner, self._objective.teacher = self._learner, None  # a second network is loaded to check the bundle
        options = {**self._bundle.manifest.options, **learner.options()}
        architecture = learner.architecture() or self._bundle.manifest.architecture
        random = self._told.what == "lora" and self._bundle.manifest.provenance.random
        made = _Made(learner.labels, learner.kept, learner.weights(), architecture, options, random)
        bundle = _export(out, self._bundle, made, self._data, self._labels, thresholds, card, replace_existing)
        skipped = {name: reason for each in self._batches for name, reason in each.skipped.items()}
        return Fitted(bundle, card, thresholds, summary, rows, skipped)

    # Data.

    def _source(self) -> Source:
        batches = self._training(self._data, self._plan.batch)
        if self._replay is None:
            return batches
        return WithReplay(batches, self._training(self._replay, _replay_batch(self._plan)))

    def _training(self, part: Part, batch: int) -> Batches:
        """Batches without end, of changed images."""
        return self._made(
            part.train,
            part.images,
            batch=batch,
            seed=self._plan.seed,
            augment=_CROPS,
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

    def _check_labels(self) -> None:
        """Labels must be on some images, and not on others."""
        data, train = self._data.name, self._data.train
        has = Counter(tag for sample in train for tag in sample.tags)
        if not has:
            raise Misconfigured(f"{data} names no tag of any image to train on, so there is nothing to learn.")
        lacks = Counter(tag for sample in train for tag in sample.absent or ())
        if self._told.absent == "unknown" and not lacks:
            raise Misconfigured(
                f"{data} names no absent tag of any image, so nothing can be learnt: if it names all tags of an "
                "image, give --absent negative."
            )
        if all(count == len(train) if self._told.absent == "negative" else not lacks[i] for i, count in has.items()):
            raise Misconfigured(
                f"No image of {data} to train on lacks any of its tags ({len(has)}), so they can't be learnt: add "
                "images without them."
            )

    def _check_loss(self) -> None:
        """A bundle of weights that were spoilt would look like any other."""
        lines = numbers(self._folder)  # the guard's loss begins at 0
        losses = [line.get("tagging", line[TOTAL]) for line in lines if TOTAL in line]
        last = losses[-max(1, len(losses) // 3) :]
        begun, ended = losses[0], sum(last) / len(last)
        if ended > _DIVERGED * begun:
            raise Misconfigured(
                f"The loss of tags rose from {begun:.3g} to {ended:.3g}, so no bundle is written: train with a lower "
                f"--lr than {self._plan.lr:g}, into another folder."
            )

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
                rows.append(self._learner(batch.images.to(device)).sigmoid().cpu())
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
        told = self._told.model_dump(
            mode="json",
            exclude={"plan", "data", "images", "parent", "workers", "allow_loss"},
            exclude_none=True,
        )
        sets = {"data": self._data.sha256} | ({"replay set": self._replay.sha256} if self._replay else {})
        return {"bundle": self._bundle.digest, **sets, **{name: str(value) for name, value in told.items()}}

    def _report(self, progress: Progress) -> None:
        self._tell("training, steps", progress.step, progress.steps)


@dataclass(frozen=True)
class _Made:
    """A network that learnt, for a bundle.

    Args:
        kept: how many of the first labels are the parent's.
        random: whether its encoder is as it was drawn.
    """

    labels: Sequence[str]
    kept: int
    weights: Mapping[str, Tensor]
    architecture: Mapping[str, JsonValue]
    options: Mapping[str, JsonValue]
    random: bool


def _card(
    told: FitRun,
    part: Part,
    parent: Bundle,
    rows: Sequence[Row],
    summary: Summary,
    thresholds: Mapping[str, Threshold],
    *,
    steps: int = 0,
    images: int,
) -> Card:
    rule = told.precision_floor
    return Card(
        command="train fit",
        data={
            "name": part.name,
            "sha256": part.sha256,
            "train": len(part.train),
            "validation": len(part.val),
            "labels": len(part.ids),
            "absent": told.absent,
        },
        plan=told.model_dump(mode="json", exclude={"data", "images", "parent", "replay", "embeddings"}),
        steps=steps,
        images=images,
        metrics=dict(metrics_of(rows, summary)),
        thresholds={
            "rule": "best F1" if rule is None else f"precision of {rule:g} or more",
            "not_chosen": [name for name, each in thresholds.items() if each.why],
        },
        parents={parent.name: parent.digest},
    )


def _export(
    out: Path,
    parent: Bundle,
    made: _Made,
    part: Part,
    labels: Labels,
    thresholds: Mapping[str, Threshold],
    card: Card,
    replace_existing: bool,
) -> Bundle:
    """Write the bundle; labels of the set get their new thresholds, others keep theirs."""
    own, new, given = set(part.ids), made.labels[made.kept :], parent.manifest
    values = tuple(
        thresholds[name].value if i in own else labels.default_threshold(i) for i, name in enumerate(made.labels)
    )
    profiles: dict[str, Thresholds] = {
        profile: (*old, *values[made.kept :]) if isinstance(old, tuple) else old
        for profile, old in given.profiles.items()
        if made.kept
    }
    source = f"{given.provenance.source}, trained further on {part.name}"
    update = {"source": source, "sha256": None, "random": made.random}
    manifest = given.model_copy(
        update={
            "name": out.name,
            "provenance": given.provenance.model_copy(update=update),
            "thresholds": values,
            "profiles": profiles,
            "floor": min(given.floor, *values),
            "architecture": dict(made.architecture),
            "options": dict(made.options),
        }
    )
    return export(
        out,
        manifest,
        weights=made.weights,
        labels=made.labels,
        card=card,
        translations={language: (*names, *new) for language, names in parent.translations.items() if made.kept},
        beside=parent,
        vocabulary=parent.vocabulary.read_bytes() if VOCABULARY in given.files else None,
        parents=(*parent.parents, *([()] * len(new))) if parent.parents and made.kept else (),
        replace_existing=replace_existing,
    )


def _seeded(plan: Plan, make: Callable[[], Learner]) -> Learner:
    """LoRA and classifiers begin with drawn numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        return make()


def _replay_batch(plan: Plan) -> int:
    return max(1, plan.batch // 2)
