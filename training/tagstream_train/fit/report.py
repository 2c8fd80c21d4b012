"""A fit's report: one HTML page that needs no network and no other file.

It shows doubtful annotations, wrong and missing tags, confused labels, and the labels that need more images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tagstream_train.data.images import BadImage
from tagstream_train.data.samples import Sample
from tagstream_train.fit.linear import Linear, fit_linear
from tagstream_train.fit.promise import Promise
from tagstream_train.metrics import Table, table
from workers.page.html import Card, Mark, closing, encoded, escape, facts_list, opening, render

MISTAKES = 24
"""Images of a section; doubtful annotations are shown all."""
DOUBTFUL = 0.9
"""Least distance of a contradicting score from the annotation."""
HIGHEST = 20
"""Drawn images of each label."""
CONFUSED = 15
_WORTH = 0.01
"""Least gain in average precision by the second half of the images, for advice to add more."""

Read = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Unlabelled:
    """Unlabelled images with their scores, (images, labels)."""

    samples: Sequence[Sample]
    scores: NDArray[np.float32]
    read: Read


@dataclass(frozen=True)
class HeldOut:
    """Images with scores of classifiers that did not see them.

    Args:
        scores, targets, known: (images, labels).
        bars: (labels,), the thresholds.
        promises: of each label, at `share`.
        wanted: the precision to show.
    """

    names: Sequence[str]
    samples: Sequence[Sample]
    scores: NDArray[np.float32]
    targets: NDArray[np.float32]
    known: NDArray[np.float32]
    bars: NDArray[np.float32]
    promises: Sequence[Promise]
    share: float
    wanted: float
    drawn: Unlabelled | None = None


def learning_curve(features: Tensor, targets: Tensor, known: Tensor, folds: Tensor, whole: Linear) -> list[float]:
    """Each label's gain, in average precision, by the second half of images."""
    half = torch.arange(len(features)) % 2 == 0
    strengths = sorted({float(each) for each in whole.strengths}, reverse=True)
    part = fit_linear(whole.read(features[half]), targets[half], known[half], folds[half], strengths=strengths)
    truth = targets[half].numpy(), 0.0, known[half].numpy()
    after, before = (table(held.numpy(), *truth).ap for held in (whole.held_out[half], part.held_out))
    gains: list[float] = (after - before).tolist()
    return gains


def page(title: str, measured: HeldOut, gains: Sequence[float], read: Read, facts: Mapping[str, str]) -> str:
    """The report as one HTML document.

    Args:
        gains: of each label, from `learning_curve`.
        read: an image by name; unreadable images are shown without picture.
    """
    found = table(measured.scores, measured.targets, measured.bars, measured.known)
    parts = (
        opening(title, title, f"{len(measured.samples):,} images, each scored by what did not learn from it.", _STYLE),
        facts_list(facts),
        _labels(measured, found, gains),
        *(
            _cards(heading, note, (_mistake(measured, read, *place) for place in places))
            for (heading, note), places in zip(_MISTAKES.items(), _mistakes(measured), strict=True)
        ),
        *(_highest(measured, measured.drawn) if measured.drawn is not None else ()),
        _confusions(measured),
        closing("Thresholds and numbers are of images that the classifiers did not see."),
    )
    return "\n".join(parts)


_MISTAKES = {
    "Doubtful annotations": "Scores contradict them strongly, the surest first. Put them right, or find out why.",
    "Wrong tags": "Over the threshold, but not tagged.",
    "Missing tags": "Tagged, but not over the threshold.",
}
_STYLE = "table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left }"


def _table(heading: str, note: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return _section(heading, note, body and f"<table><tr>{head}</tr>{body}</table>")


def _cards(heading: str, note: str, cards: Iterable[Card]) -> str:
    shown = "".join(map(render, cards))
    return _section(heading, note, shown and f'<div class="cards">{shown}</div>')


def _section(heading: str, note: str, body: str) -> str:
    return f"<h2>{escape(heading)}</h2><p>{escape(note) if body else 'None.'}</p>{body}"


def _labels(measured: HeldOut, found: Table, gains: Sequence[float]) -> str:
    rows = []
    for label in np.argsort(found.ap, kind="stable"):  # the worst first
        gain, kept = gains[label], measured.promises[label]
        numbers = (found.ap[label], kept.precision, kept.low, kept.high, kept.recall, gain)
        ap, precision, low, high, *others = ("-" if value != value else f"{value:.1%}" for value in numbers)
        images, bar = f"{found.positives[label]:,}", f"{measured.bars[label]:.2f}"
        shown = (measured.names[label], images, ap, bar, precision, f"{low} to {high}", *others)
        rows.append((*shown, _advice(gain, kept, measured)))
    columns = (
        "label",
        "images",
        "average precision",
        "threshold",
        f"precision at a share of {measured.share:.3g}",
        "95 % interval",
        "recall",
        "gain by the second half",
        "",
    )
    note = "The gain is what the second half of the images brought: where it is small, more of the same bring little."
    return _table("Labels", note, columns, rows)


def _advice(gain: float, kept: Promise, measured: HeldOut) -> str:
    if gain != gain:
        return "no image to measure on"
    if gain > _WORTH:
        return "more images help"
    if kept.low >= measured.wanted or not kept.negatives:
        return "enough images"
    return f"{kept.negatives:,} images of none, not one of them tagged, would show a precision of {measured.wanted:.0%}"


def _mistakes(measured: HeldOut) -> Iterator[list[tuple[int, int]]]:
    """(image, label) of each section: an image's surest mistake of the kind, the surest first."""
    off = np.abs(measured.scores - measured.targets) * (measured.known > 0)
    over, has = measured.scores > measured.bars, measured.targets > 0
    doubtful = off > DOUBTFUL
    for kind, most in ((doubtful, None), (over & ~has & ~doubtful, MISTAKES), (~over & has & ~doubtful, MISTAKES)):
        sure = off * kind
        order = np.argsort(-(sure.max(axis=1) if most else doubts(measured.scores, measured.targets)), kind="stable")
        yield [(int(image), int(sure[image].argmax())) for image in order if sure[image].any()][:most]


def doubts(scores: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """How strongly scores contradict the tags, (images,), from -1 to 1.

    Of an image's scores, divided by their sum: the highest one of a label that it lacks, less the lowest of its labels.
    """
    shares, has = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12), targets > 0
    lowest: NDArray[np.float32] = np.where(has, shares, np.inf).min(axis=1)
    highest: NDArray[np.float32] = np.where(has, 0, shares).max(axis=1)
    return highest - np.where(has.any(axis=1), lowest, 0)


def doubtful(measured: HeldOut) -> str:
    """A CSV of the doubtful annotations, the surest first: image, label, 1 if it is tagged, score."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(("image", "label", "tagged", "score"))
    for image, label in next(_mistakes(measured)):
        tagged, score = int(measured.targets[image, label]), f"{measured.scores[image, label]:.3f}"
        rows.writerow((measured.samples[image].image, measured.names[label], tagged, score))
    return written.getvalue()


def _mistake(measured: HeldOut, read: Read, image: int, label: int) -> Card:
    has = measured.targets[image, label] > 0
    score = float(measured.scores[image, label])
    word = f"{measured.names[label]}: {'tagged' if has else 'not tagged'}"
    facts = {"score": f"{score:.2f}", "tags": _tags(measured, image)}
    level = "bad" if abs(score - has) > DOUBTFUL else "warn"
    return _card(measured.samples[image].image, read, Mark(word, level), facts)


def _tags(measured: HeldOut, image: int) -> str:
    return ", ".join(measured.names[int(label)] for label in np.flatnonzero(measured.targets[image])) or "none"


def _card(name: str, read: Read, mark: Mark, facts: Mapping[str, str]) -> Card:
    try:
        small = read(name)
        small.thumbnail((320, 240))
        return Card(name, encoded(small), mark=mark, facts=facts)
    except BadImage as error:
        return Card(name, None, error.reason, mark=mark, facts=facts)


def _highest(measured: HeldOut, drawn: Unlabelled) -> Iterator[str]:
    """A section for each label: the drawn images with its highest scores."""
    for label, name in enumerate(measured.names):
        best = np.argsort(-drawn.scores[:, label], kind="stable")[:HIGHEST]
        cards = (
            _card(drawn.samples[int(place)].image, drawn.read, Mark(f"{drawn.scores[place, label]:.2f}", "warn"), {})
            for place in best
        )
        note = (
            "Unlabelled images with the highest scores: put the right ones into the tag's folder, the others into none."
        )
        yield _cards(f"Is it {name}?", note, cards)


def _confusions(measured: HeldOut) -> str:
    """Labels shown on images of others, by pairs."""
    wrong = (measured.scores > measured.bars) & (measured.targets == 0) & (measured.known > 0)
    counts = (measured.targets > 0).astype(np.float32).T @ wrong.astype(np.float32)
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSED]
    places = [(int(has), int(shown)) for has, shown in zip(*np.unravel_index(order, counts.shape), strict=True)]
    rows = [(measured.names[h], measured.names[s], f"{int(counts[h, s]):,}") for h, s in places if counts[h, s]]
    return _table("Taken for each other", "At the thresholds.", ("images of", "also tagged", "images"), rows)
