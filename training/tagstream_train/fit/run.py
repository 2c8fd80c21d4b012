"""`train fit`: a bundle and tagged images become a better bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from tagstream_train.data.images import NamedBuckets
from tagstream_train.data.samples import hash_of
from tagstream_train.export import Card, export
from tagstream_train.fit.data import NAME, Data, FitRun, divided, opened_bundle
from tagstream_train.fit.drawn import drawn_side
from tagstream_train.fit.encoder import Encoder
from tagstream_train.fit.head import Head, encoded, fitted_head
from tagstream_train.fit.measures import OTHERS, Judged, Row, Rule, Scored, judged
from tagstream_train.fit.network import Network, taught
from tagstream_train.fit.promise import measured_in
from tagstream_train.fit.report import HeldOut, doubtful, page
from tagstream_train.loop import Trained, rank
from tagstream_train.plan import toml_of
from tagstream_train.record import Hook, Tell
from workers.errors import Misconfigured
from workers.models.bundle import VOCABULARY, Bundle
from workers.models.manifest import Thresholds

MOST_LOST = 0.01
"""Mean average precision that the other labels may lose when the network learns."""
REPORT = "report.html"
DOUBTFUL = "doubtful.csv"
"""In the run's folder."""


@dataclass(frozen=True)
class Fitted(Judged):
    """A fit's result, measured on images that did not teach.

    Args:
        ended: how the encoder's training ended; empty without such a training.
    """

    bundle: Bundle
    card: Card
    skipped: Mapping[str, str]
    ended: str


def fit(
    run: FitRun,
    out: Path,
    folder: Path,
    *,
    store: NamedBuckets | None = None,
    drawn: Sequence[str] = (),
    hooks: Sequence[Hook] = (),
    tell: Tell = lambda doing, done, total: None,
    say: Callable[[str], None] = lambda line: None,
    replace_existing: bool = False,
) -> Fitted | None:
    """Fit classifiers, train the encoder if asked, write the bundle.

    Resumes after a stop.

    Args:
        folder: of the run: checkpoint, curves, run.toml.
        drawn: names of unlabelled objects of the stream.
        say: gets the sentences for the user before the training.

    Returns:
        None in every process of a distributed run except the first.

    Raises:
        Misconfigured: bundle, data and options don't fit together, or the memory does not suffice.
        Unavailable: the object store does not answer.
    """
    if run.plan.threads is not None:
        torch.set_num_threads(run.plan.threads)
    first = rank() == 0
    bundle = opened_bundle(run.parent, folder / "parent")
    data = divided(run, bundle, folder, store, say if first else lambda line: None)
    known = frozenset(map(hash_of, (*data.train.samples, *(data.val.samples if data.val else ()))))
    others = [drawn_side(drawn, folder / "drawn", store, known)] if drawn else []
    sides = [*(side for side in (data.train, data.val) if side is not None), *others]
    seen, *rest = encoded(bundle, sides, run.plan, threads=run.workers, tell=tell)
    unseen = rest.pop() if drawn else None
    data = replace(data, train=seen, val=rest[0] if rest else None)
    how = {"negative": run.absent == "negative", "alone": run.what == "head"}
    head = fitted_head(seen, rest[0] if rest else None, data.labels, **how, tell=tell)
    linear, rule = head.linear, Rule(run.share, run.precision_floor)
    if unseen is not None:
        rule = replace(rule, drawn=head.scores_of(unseen, data.labels))
    network = taught(bundle, data.labels.names, data.labels.own, linear, alone=run.drop_labels)
    encoder = None if run.what == "head" else Encoder(run, data, bundle, network, seen, head.measured, tell)
    if encoder is not None:
        estimated = encoder.check(folder)  # before any file of an earlier run is replaced
        if first:
            say(estimated)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(toml_of(run), encoding="utf-8")
    scored, trained = head.scored, Trained(0, len(seen.samples), {})
    before: Scored | None = None
    if encoder is not None:
        before, scored, trained = encoder.train(folder, head.scored, hooks)
        if unseen is not None:
            rule = replace(rule, drawn=encoder.scores_of(unseen, "scoring the drawn images"))
        network = replace(network, weights=encoder.learner.weights())
    if not first:
        return None
    found = judged(data.labels, scored, head.folds, rule, head.against, before)
    if not run.allow_loss:
        _refuse_loss(found.rows)
    card = _card(run, data, bundle, found, trained)
    written = _export(out, bundle, network, run, data, found, card, replace_existing)
    _report(folder, out, data, head.shown(found, data.labels, rule, unseen), head, _facts(run, bundle, head, found))
    skipped = {**data.skipped, **seen.skipped, **head.measured.skipped}
    return Fitted(**vars(found), bundle=written, card=card, skipped=skipped, ended=_ended(trained, run))


def _facts(run: FitRun, bundle: Bundle, head: Head, found: Judged) -> Mapping[str, str]:
    """The report's first lines."""
    return {
        "images": f"{len(head.measured.samples):,}",
        "from": bundle.name,
        "measured by": head.against,
        "where": measured_in(found.closed, run.share),
        "features": "square roots, at length 1" if head.linear.rooted else "as they are",
    }


def _report(folder: Path, out: Path, data: Data, shown: HeldOut, head: Head, facts: Mapping[str, str]) -> None:
    """Write the report; the bundle is written already.

    Raises:
        Misconfigured: it can't be written.
    """
    report = page(f"{out.name}, of {data.name}", shown, head.gains, head.measured.images.load, facts)
    for name, text in ((REPORT, report), (DOUBTFUL, doubtful(shown))):
        try:
            (folder / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise Misconfigured(f"{folder / name} can't be written: {error.strerror}. {out} has the bundle.") from None


def _refuse_loss(rows: Sequence[Row]) -> None:
    """Refuse a network that forgot.

    Raises:
        Misconfigured: labels outside the set lost more than `MOST_LOST`.
    """
    for row in rows:
        if row.labels != OTHERS or row.before is None or row.after is None or row.before - row.after <= MOST_LOST:
            continue
        raise Misconfigured(
            f"The {row.count} other old labels lost {100 * (row.before - row.after):.1f} points of mean average "
            f"precision ({row.before:.1%} to {row.after:.1%}, against {row.truth}), and no bundle was written: raise "
            "--guard, or train less. --what head loses nothing. The same command with --allow-loss writes the bundle "
            "without training again."
        )


def _ended(trained: Trained, run: FitRun) -> str:
    """Which epoch's weights the bundle has."""
    planned = run.plan.epochs or trained.epochs
    if trained.best is None:
        return ""
    if trained.best == 0:
        return f"no epoch of {trained.epochs} was better than the classifiers alone, which the bundle has"
    early = f"; ended after epoch {trained.epochs}, as later ones brought nothing" if trained.epochs < planned else ""
    return f"best after epoch {trained.best} of {planned}{early}"


def _card(run: FitRun, data: Data, parent: Bundle, found: Judged, trained: Trained) -> Card:
    wanted = run.precision_floor
    metrics: dict[str, float | None] = {}
    for row in found.rows:
        metrics |= {f"map, {row.labels}, before": row.before, f"map, {row.labels}": row.after}
    kept = [each for each in found.promises.values() if not math.isnan(each.precision)]
    for name in ("precision", "recall"):
        metrics[name] = fmean(getattr(each, name) for each in kept) if kept else None
    return Card(
        command="train fit",
        data={
            "name": data.name,
            "sha256": data.sha256,
            "train": len(data.train.samples),
            "validation": 0 if data.val is None else len(data.val.samples),
            "labels": len(data.labels.own),
            "absent": run.absent,
        },
        plan=run.model_dump(mode="json", exclude={"data", "images", "validation_set", "parent"}),
        steps=trained.steps,
        images=trained.images,
        metrics=metrics,
        thresholds={
            "rule": "best F1" if wanted is None else f"precision of {wanted:g} or more",
            "share": None if found.closed else run.share,
            "not_chosen": [name for name, each in found.thresholds.items() if each.why],
        },
        parents={parent.name: parent.digest},
    )


def _export(
    out: Path,
    parent: Bundle,
    network: Network,
    run: FitRun,
    data: Data,
    found: Judged,
    card: Card,
    replace_existing: bool,
) -> Bundle:
    """Write the bundle; labels of the set get their new thresholds, others keep theirs."""
    labels, given = data.labels, parent.manifest
    own, new = set(labels.own), labels.names[labels.kept :]
    values = tuple(
        found.thresholds[name].value if i in own else labels.default_threshold(i) for i, name in enumerate(labels.names)
    )
    profiles: dict[str, Thresholds] = {
        profile: (*old, *values[labels.kept :]) if isinstance(old, tuple) else old
        for profile, old in given.profiles.items()
        if labels.kept
    }
    update = {
        "source": f"{given.provenance.source}, trained further on {data.name}",
        "sha256": None,
        "random": given.provenance.random and run.what != "all",  # else its encoder learnt
    }
    manifest = given.model_copy(
        update={
            "name": out.name,
            "provenance": given.provenance.model_copy(update=update),
            "thresholds": values,
            "profiles": profiles,
            "floor": min(given.floor, *values),
            "options": dict(network.options),
        }
    )
    return export(
        out,
        manifest,
        weights=network.weights,
        labels=labels.names,
        card=card,
        translations={lang: (*names, *new) for lang, names in parent.translations.items() if labels.kept},
        beside=parent,
        vocabulary=parent.vocabulary.read_bytes() if VOCABULARY in given.files else None,
        parents=(*parent.parents, *([()] * len(new))) if parent.parents and labels.kept else (),
        replace_existing=replace_existing,
    )
