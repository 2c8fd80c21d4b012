"""A fit's report: one HTML page that needs no network and no other file.

It shows doubtful annotations, wrong and missing tags, similar images with different labels, confused labels, the
calibration of the scores, and the labels that need more images.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tagstream_train.data.images import BadImage
from tagstream_train.data.samples import Sample
from tagstream_train.fit.linear import Linear, fit_linear
from tagstream_train.fit.reliability import reliability, reliability_picture
from tagstream_train.metrics import Table, curve, table
from workers.page.html import Card, Mark, closing, encoded, escape, facts_list, opening, render

MISTAKES = 24
"""Images of a section."""
DOUBTFUL = 0.9
"""Least distance of a contradicting score from the annotation."""
CONFUSED = 15
CURVES = 12
ALIKE = 0.98
"""Least cosine of two centred feature vectors of one scene."""
_COMPARED = 5_000
"""The most images that are compared pairwise."""
_WORTH = 0.01
"""Least gain in average precision by the second half of the images, for advice to add more."""

Read = Callable[[str], Image.Image]


@dataclass(frozen=True)
class HeldOut:
    """Images with scores of classifiers that did not see them.

    Args:
        scores, targets, known: (images, labels).
        features: (images, width).
        bars: (labels,), the thresholds.
    """

    names: Sequence[str]
    samples: Sequence[Sample]
    scores: NDArray[np.float32]
    targets: NDArray[np.float32]
    known: NDArray[np.float32]
    features: Tensor
    bars: NDArray[np.float32]


def learning_curve(features: Tensor, targets: Tensor, known: Tensor, folds: Tensor, whole: Linear) -> list[float]:
    """Each label's gain, in average precision, by the second half of images."""
    half = torch.arange(len(features)) % 2 == 0
    strengths = sorted({float(each) for each in whole.strengths}, reverse=True)
    part = fit_linear(features[half], targets[half], known[half], folds[half], strengths=strengths)
    truth = targets[half].numpy(), 0.0, known[half].numpy()
    after, before = (table(held.numpy(), *truth).ap for held in (whole.held_out[half], part.held_out))
    gains: list[float] = (after - before).tolist()
    return gains


def page(title: str, measured: HeldOut, gains: Sequence[float], read: Read, facts: Mapping[str, str]) -> str:
    """The report as one HTML document.

    Args:
        gains: of each label, from `learning_curve`.
        read: an image by name; unreadable images are shown without picture.
        facts: of the run.
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
        _cards(
            "Alike, with other labels",
            "Nearly the same scene, tagged otherwise: one of the two may be wrong, or both lack a tag.",
            (card for *pair, cosine in _alike(measured) for card in _pair(measured, read, *pair, cosine=cosine)),
        ),
        _confusions(measured),
        _reliability(measured),
        _curves(measured, found.ap),
        closing("Thresholds and curves are of images that the classifiers did not see."),
    )
    return "\n".join(parts)


_MISTAKES = {
    "Doubtful annotations": "Scores contradict them strongly, the surest first. Put them right, or find out why.",
    "Wrong tags": "Over the threshold, but not tagged.",
    "Missing tags": "Tagged, but not over the threshold.",
}
_STYLE = (
    "table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left } figure { margin: 0 }"
)


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
        gain = gains[label]
        advice = "more images help" if gain > _WORTH else "enough images" if gain == gain else "no image to measure on"
        numbers = (found.ap[label], found.precision[label], found.recall[label], gain)
        ap, *others = ("-" if value != value else f"{value:.1%}" for value in numbers)
        images, bar = f"{found.positives[label]:,}", f"{measured.bars[label]:.2f}"
        rows.append((measured.names[label], images, ap, bar, *others, advice))
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


def _mistakes(measured: HeldOut) -> Iterator[list[tuple[int, int]]]:
    """(image, label) of each section: an image's surest mistake of the kind, the surest first."""
    off = np.abs(measured.scores - measured.targets) * (measured.known > 0)
    over, has = measured.scores > measured.bars, measured.targets > 0
    doubtful = off > DOUBTFUL
    for kind in (doubtful, over & ~has & ~doubtful, ~over & has & ~doubtful):
        sure = off * kind
        order = np.argsort(-sure.max(axis=1), kind="stable")[:MISTAKES]
        yield [(int(image), int(sure[image].argmax())) for image in order if sure[image].any()]


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


def _alike(measured: HeldOut) -> list[tuple[int, int, float]]:
    """Pairs that differ in a known label, the most alike first."""
    given = measured.features[:_COMPARED]
    rows = F.normalize(given - given.mean(0), dim=1)
    found = []
    for first in range(len(rows)):
        cosines = rows[first + 1 :] @ rows[first]
        for place in (cosines >= ALIKE).nonzero()[:, 0].tolist():
            second = first + 1 + place
            differ = measured.targets[first] != measured.targets[second]
            if (differ & (measured.known[first] > 0) & (measured.known[second] > 0)).any():
                found.append((first, second, float(cosines[place])))
    return sorted(found, key=lambda pair: -pair[2])[: MISTAKES // 2]


def _pair(measured: HeldOut, read: Read, *pair: int, cosine: float) -> Iterator[Card]:
    for place, other in (pair, pair[::-1]):
        facts = {"tags": _tags(measured, place), "beside": measured.samples[other].image}
        yield _card(measured.samples[place].image, read, Mark(f"{cosine:.3f} alike", "warn"), facts)


def _confusions(measured: HeldOut) -> str:
    """Labels shown on images of others, by pairs."""
    wrong = (measured.scores > measured.bars) & (measured.targets == 0) & (measured.known > 0)
    counts = (measured.targets > 0).astype(np.float32).T @ wrong.astype(np.float32)
    order = np.argsort(-counts, axis=None, kind="stable")[:CONFUSED]
    places = [(int(has), int(shown)) for has, shown in zip(*np.unravel_index(order, counts.shape), strict=True)]
    rows = [(measured.names[h], measured.names[s], f"{int(counts[h, s]):,}") for h, s in places if counts[h, s]]
    return _table("Taken for each other", "At the thresholds.", ("images of", "also tagged", "images"), rows)


def _reliability(measured: HeldOut) -> str:
    known = measured.known > 0
    scores, has = measured.scores[known].astype(np.float64), measured.targets[known] > 0
    drawn = reliability_picture(reliability(scores, has))
    return f"<h2>Reliability</h2><p>On the dashed line scores mean what they say.</p><figure>{drawn}</figure>"


def _curves(measured: HeldOut, aps: NDArray[np.float64]) -> str:
    """Precision and recall by threshold, of the least good labels."""
    from matplotlib.figure import Figure

    worst = [int(number) for number in np.argsort(aps, kind="stable")[:CURVES] if np.isfinite(aps[number])]
    figure = Figure(figsize=(9, 2.4 * max(1, -(-len(worst) // 3))))
    axes = figure.subplots(max(1, -(-len(worst) // 3)), 3, squeeze=False, gridspec_kw={"hspace": 0.6}).flat
    for number, plot in zip(worst, axes, strict=False):
        known = measured.known[:, number] > 0
        points = curve(measured.scores[known, number], measured.targets[known, number] > 0)
        plot.plot(points.thresholds, points.precision, label="precision")
        plot.plot(points.thresholds, points.recall, label="recall")
        plot.axvline(measured.bars[number], color="grey", linewidth=0.8)
        plot.set_title(measured.names[number], fontsize=9, parse_math=False)  # a label may have dollar signs
    for left in list(axes)[len(worst) :]:
        left.axis("off")
    written = io.BytesIO()
    figure.savefig(written, dpi=100, bbox_inches="tight")
    data = base64.b64encode(written.getvalue()).decode()
    note = "Precision (blue) and recall by threshold, of the least good labels; grey: the one that is used."
    return f'<h2>Curves</h2><p>{note}</p><figure><img alt="{note}" src="data:image/png;base64,{data}"></figure>'
