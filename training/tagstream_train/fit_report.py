"""A fit's report: one HTML page that needs no network and no other file.

It shows what a person can act on: the worst mistakes, which are often wrong annotations, alike images with other
labels, labels that are taken for each other, whether scores mean what they say, and which labels want more images.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_train.data.images import BadImage
from tagstream_train.data.samples import Sample
from tagstream_train.linear import Linear, fit_linear
from tagstream_train.metrics import Threshold, average_precision, curve
from workers.page.html import Card, Mark, closing, encoded, escape, facts_list, opening, render

MISTAKES = 24
CONFUSED = 15
CURVES = 12
ALIKE = 0.98
"""The cosine of features about their mean from which two images are taken for the same scene."""
_COMPARED = 5_000
"""Images that are compared with each other."""
_WORTH = 0.01
"""What half of the images must have cost in average precision for more of them to be worth their while."""
_BINS = 10

Read = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Measured:
    """Images that did not teach what scored them.

    Args:
        scores, targets, known: (images, labels).
        features: (images, width).
    """

    names: Sequence[str]
    samples: Sequence[Sample]
    scores: NDArray[np.float32]
    targets: NDArray[np.float32]
    known: NDArray[np.float32]
    features: Tensor
    thresholds: Sequence[Threshold]

    def of_label(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Scores of images where it is known, and which have it."""
        known = self.known[:, number] > 0
        return self.scores[known, number], self.targets[known, number] > 0


def learning_curve(features: Tensor, targets: Tensor, known: Tensor, folds: Tensor, whole: Linear) -> list[float]:
    """Each label's gain by the second half of the images."""
    half = torch.arange(len(features)) % 2 == 0
    strengths = sorted({float(each) for each in whole.strengths}, reverse=True)
    part = fit_linear(features[half], targets[half], known[half], folds[half], strengths=strengths)
    gains = []
    for label in range(targets.shape[1]):
        both = (whole.held_out[half, label], part.held_out[:, label])
        kept, has = known[half, label] > 0, targets[half, label] > 0
        after, before = (_ap(scores[kept].numpy(), has[kept].numpy()) for scores in both)
        gains.append(after - before)
    return gains


def _ap(scores: NDArray[np.float32], has: NDArray[np.bool_]) -> float:
    """Average precision; NaN if no image has the label."""
    return average_precision(scores, has) if has.any() else float("nan")


def page(title: str, measured: Measured, gains: Sequence[float], read: Read, facts: Mapping[str, str]) -> str:
    """The report as one HTML document.

    Args:
        gains: of each label, from `learning_curve`.
        read: an image by name; one that can't be read is shown without.
        facts: what was done.
    """
    aps = [_ap(*measured.of_label(number)) for number in range(len(measured.names))]
    parts = (
        opening(title, title, f"{len(measured.samples):,} images, each scored by what did not learn from it.", _STYLE),
        facts_list(facts),
        _labels(measured, aps, gains),
        _section(
            "Worst mistakes",
            "The surest wrong scores first. Many of them are annotations to put right.",
            (_mistake(measured, read, *place) for place in _mistakes(measured)),
        ),
        _section(
            "Alike, with other labels",
            "Nearly the same scene, tagged otherwise: one of the two may be wrong, or both lack a tag.",
            (_pair(measured, read, *pair) for pair in _alike(measured)),
        ),
        _confusions(measured),
        _drawn(measured, aps),
        closing("Thresholds and curves are of images that the classifiers did not see."),
    )
    return "\n".join(parts)


_STYLE = (
    "table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left } figure { margin: 0 }"
)


def _table(heading: str, note: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return f"<h2>{escape(heading)}</h2><p>None.</p>"
    return f"<h2>{escape(heading)}</h2><p>{escape(note)}</p><table><tr>{head}</tr>{body}</table>"


def _section(heading: str, note: str, cards: Iterator[Card]) -> str:
    shown = "".join(map(render, cards))
    if not shown:
        return f"<h2>{escape(heading)}</h2><p>None.</p>"
    return f'<h2>{escape(heading)}</h2><p>{escape(note)}</p><div class="cards">{shown}</div>'


def _labels(measured: Measured, aps: Sequence[float], gains: Sequence[float]) -> str:
    rows = []
    each = enumerate(zip(measured.names, measured.thresholds, aps, gains, strict=True))
    for number, (name, threshold, ap, gain) in each:
        _, has = measured.of_label(number)
        advice = "more images help" if gain > _WORTH else "enough images" if gain == gain else "no image to measure on"
        numbers = (ap, gain, threshold.precision, threshold.recall)
        ap_cell, gain_cell, precision, recall = ("-" if value != value else f"{value:.1%}" for value in numbers)
        rows.append(
            (name, f"{int(has.sum()):,}", ap_cell, f"{threshold.value:.2f}", precision, recall, gain_cell, advice)
        )
    rows.sort(key=lambda row: row[2])
    columns = (
        "label",
        "images",
        "average precision",
        "threshold",
        "precision",
        "recall",
        "gain by the second half",
        "",
    )
    note = "The gain is what the second half of the images brought: where it is small, more of the same bring little."
    return _table("Labels", note, columns, rows)


def _mistakes(measured: Measured) -> list[tuple[int, int]]:
    """(image, label): each image's surest wrong score, the surest first."""
    off = np.abs(measured.scores - measured.targets) * (measured.known > 0)
    worst = off.max(axis=1)
    order = np.argsort(-worst, kind="stable")[:MISTAKES]
    return [(int(image), int(off[image].argmax())) for image in order if worst[image] > 1 / 2]


def _mistake(measured: Measured, read: Read, image: int, label: int) -> Card:
    has = measured.targets[image, label] > 0
    score = float(measured.scores[image, label])
    word = f"{measured.names[label]}: {'tagged' if has else 'not tagged'}"
    facts = {"score": f"{score:.2f}", "tags": _tags(measured, image)}
    return _card(
        measured.samples[image].image, read, Mark(word, "bad" if max(score, 1 - score) > 0.9 else "warn"), facts
    )


def _tags(measured: Measured, image: int) -> str:
    return ", ".join(measured.names[int(label)] for label in np.flatnonzero(measured.targets[image])) or "none"


def _card(name: str, read: Read, mark: Mark, facts: Mapping[str, str]) -> Card:
    try:
        small = read(name)
        small.thumbnail((320, 240))
        return Card(name, encoded(small), mark=mark, facts=facts)
    except BadImage as error:
        return Card(name, None, error.reason, mark=mark, facts=facts)


def _alike(measured: Measured) -> list[tuple[int, int, float]]:
    """Pairs that differ in a known label, the most alike first."""
    given = measured.features[:_COMPARED]
    rows = F.normalize(given - given.mean(0), dim=1)
    found = []
    for first in range(len(rows)):
        cosines = rows[first + 1 :] @ rows[first]
        for second in (cosines >= ALIKE).nonzero()[:, 0].tolist():
            other = first + 1 + second
            differ = measured.targets[first] != measured.targets[other]
            if (differ & (measured.known[first] > 0) & (measured.known[other] > 0)).any():
                found.append((first, other, float(cosines[second])))
    return sorted(found, key=lambda pair: -pair[2])[: MISTAKES // 2]


def _pair(measured: Measured, read: Read, first: int, second: int, cosine: float) -> Card:
    names = [measured.samples[place].image for place in (first, second)]
    pictures = []
    for name in names:
        try:
            pictures.append(read(name))
        except BadImage as error:
            return Card(" and ".join(names), None, error.reason, mark=Mark(f"{cosine:.3f}", "warn"))
    both = Image.new("RGB", (324, 160), (255, 255, 255))
    for place, picture in enumerate(pictures):
        picture.thumbnail((160, 160))
        both.paste(picture, (164 * place, 0))
    facts = {"left": _tags(measured, first), "right": _tags(measured, second)}
    return Card(" and ".join(names), encoded(both), mark=Mark(f"{cosine:.3f} alike", "warn"), facts=facts)


def _confusions(measured: Measured) -> str:
    """Labels shown on images of others, by pairs."""
    bars = np.array([each.value for each in measured.thresholds], np.float32)
    wrong = (measured.scores > bars) & (measured.targets == 0) & (measured.known > 0)
    counts = (measured.targets > 0).astype(np.float32).T @ wrong.astype(np.float32)
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSED]
    places = [(int(has), int(shown)) for has, shown in zip(*np.unravel_index(order, counts.shape), strict=True)]
    rows = [(measured.names[h], measured.names[s], f"{int(counts[h, s]):,}") for h, s in places if counts[h, s]]
    return _table("Taken for each other", "At the thresholds.", ("images of", "also tagged", "images"), rows)


def _drawn(measured: Measured, aps: Sequence[float]) -> str:
    """Reliability of scores, and curves of the least good labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    worst = [int(number) for number in np.argsort(aps, kind="stable")[:CURVES] if np.isfinite(aps[number])]
    figure = Figure(figsize=(9, 2.4 * (1 + len(worst) // 3)))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(worst) // 3, 3, squeeze=False, gridspec_kw={"hspace": 0.6}).flat
    _draw_reliability(next(axes), measured)
    for number in worst:
        points = curve(*measured.of_label(number))
        plot = next(axes)
        plot.plot(points.thresholds, points.precision, label="precision")
        plot.plot(points.thresholds, points.recall, label="recall")
        plot.axvline(measured.thresholds[number].value, color="grey", linewidth=0.8)
        plot.set_title(measured.names[number], fontsize=9)
    for left in axes:
        left.axis("off")
    written = io.BytesIO()
    figure.savefig(written, dpi=100, bbox_inches="tight")
    data = base64.b64encode(written.getvalue()).decode()
    note = (
        "First: how often a tag is right, by its score. Then the least good labels: precision and recall by threshold."
    )
    return f'<h2>Curves</h2><p>{note}</p><figure><img alt="{note}" src="data:image/png;base64,{data}"></figure>'


def _draw_reliability(plot: Any, measured: Measured) -> None:
    known = measured.known > 0
    scores, has = measured.scores[known], measured.targets[known]
    bins = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    kept = counts > 0
    shares = [np.bincount(bins, weights=each, minlength=_BINS)[kept] / counts[kept] for each in (scores, has)]
    plot.plot((0, 1), (0, 1), color="grey", linewidth=0.8)
    plot.plot(*shares, marker="o")
    plot.set_title("reliability", fontsize=9)
