"""Measure a bundle on labelled images, by the worker's code."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from tagstream_train.captions_metrics import bleu, cider, words
from tagstream_train.data.opening import Opened, decoded, pieces
from tagstream_train.data.samples import Sample, places
from tagstream_train.metrics import Table, table
from tagstream_train.plan import Exact
from workers.errors import Misconfigured, nearest
from workers.models.labels import relabel
from workers.models.load import open_bundle
from workers.ports import Captioner, Tagger
from workers.types import LabelScores, Pixels

Item = TypeVar("Item")
Report = Callable[[int], None]
Absent = Literal["negative", "unknown"]
"""What it means that an image is not said to have a label, nor not to have it."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Scores of a model for labels shared with the data.

    Args:
        labels: those labels.
        missing: labels of the data that the model does not have.
        scores, targets, weights: (images, labels); a weight is 0 where the truth is not known.
        thresholds: (labels,), the model's.
        skipped: images that could not be used, with the reason.
    """

    labels: tuple[str, ...]
    missing: tuple[str, ...]
    scores: NDArray[np.float32]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
    thresholds: NDArray[np.float64]
    skipped: dict[str, str]

    def table(self, threshold: float | None = None) -> Table:
        """Every label at its threshold, or all at one."""
        return table(self.scores, self.targets, self.thresholds if threshold is None else threshold, self.weights)


@dataclass(frozen=True, slots=True)
class Captioned:
    """Captions and how near they are to their references.

    Args:
        bleu: BLEU-1 to BLEU-4 of the set, 0..1.
        cider: mean CIDEr-D, 0..10.
        captions: each image with its caption.
        skipped: images that could not be used, with the reason.
    """

    bleu: tuple[float, ...]
    cider: float
    captions: tuple[tuple[str, str], ...]
    skipped: dict[str, str]


def score_tags(
    tagger: Tagger,
    data: Opened,
    *,
    absent: Absent = "negative",
    batch: int = 16,
    threads: int = 2,
    report: Report = lambda _: None,
) -> Tagged:
    """Run a tagger over all images.

    A label of the data is the model's first of that name. Where all names of the data are numbers, and the model has
    no label of such a name, they are ids of the model's labels.

    Args:
        tagger: loaded so that it scores at least these labels (`shared_labels`).

    Raises:
        Misconfigured: no label in common, or no image that can be used.
    """
    columns = label_columns(tagger.labels, data.labels)
    tagger.floor = 0.0  # a ranking needs the low scores too
    ids = np.fromiter(columns.values(), np.int64)
    skipped: dict[str, str] = {}
    samples, rows = [], []
    for piece in pieces(decoded(data.samples, data.images, tagger.transform, threads=threads, skipped=skipped), batch):
        samples += [sample for sample, _ in piece]
        for raw in tagger.forward([pixels for _, pixels in piece]):
            rows.append(_row(tagger.postprocess(raw), len(tagger.labels))[ids])
        report(len(piece))
    if not rows:
        raise _no_image(skipped)
    targets, weights = _truth(samples, len(data.labels), absent)
    kept = list(columns)
    return Tagged(
        tuple(data.labels[number] for number in kept),
        tuple(label for number, label in enumerate(data.labels) if number not in columns),
        np.stack(rows),
        targets[:, kept],
        weights[:, kept],
        np.array([tagger.thresholds[label] for label in ids]),
        skipped,
    )


def caption(
    captioner: Captioner,
    tagger: Tagger | None,
    data: Opened,
    *,
    batch: int = 8,
    threads: int = 2,
    report: Report = lambda _: None,
) -> Captioned:
    """Caption all images that have captions, and compare.

    Args:
        tagger: of the same bundle, whose tags guide the captions; None: nothing guides them.

    Raises:
        Misconfigured: no image with a caption that can be used.
    """
    samples = [sample for sample in data.samples if sample.captions]
    skipped: dict[str, str] = {}
    written: list[tuple[str, str]] = []
    truth: list[Sequence[Sequence[str]]] = []
    for piece in pieces(decoded(samples, data.images, captioner.transform, threads=threads, skipped=skipped), batch):
        pixels = [image for _, image in piece]
        guides = [captioner.guide(names) for names in _tags(tagger, pixels)]
        for (sample, _), raw in zip(piece, captioner.forward(pixels, guides), strict=True):
            written.append((sample.image, captioner.postprocess(raw).text))
            truth.append([words(each) for each in sample.captions])
        report(len(piece))
    if not written:
        raise _no_image(skipped) if samples else Misconfigured("The data has no captions to compare with.")
    mine = [words(text) for _, text in written]
    scores = cider(mine, truth)
    return Captioned(bleu(mine, truth), sum(scores) / len(scores), tuple(written), skipped)


def label_columns(known: Sequence[str], wanted: Sequence[str]) -> dict[int, int]:
    """The model's label ids, by the data's label numbers.

    Raises:
        Misconfigured: it has none of them.
    """
    first = places(known)
    found = {number: first[name] for number, name in enumerate(wanted) if name in first}
    if not found and wanted and all(name.isascii() and name.isdigit() and int(name) < len(known) for name in wanted):
        return {number: int(name) for number, name in enumerate(wanted)}
    if not found:
        example = next(iter(wanted), "")
        raise Misconfigured(
            f"The model has none of the {len(wanted)} labels of the data.{nearest(example, known)} "
            "RAM and RAM++ can be measured on labels that they were not trained on: give --embeddings."
        )
    return found


@contextmanager
def open_set(bundle: Path, embeddings: Path, labels: Sequence[str]) -> Iterator[Path]:
    """Context with a bundle copy that knows the data's labels.

    Raises:
        Misconfigured: as `workers.models.labels.relabel`.
    """
    with tempfile.TemporaryDirectory(prefix="tagstream-open-set-") as folder:
        names = Path(folder) / "names.txt"
        names.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        yield relabel(open_bundle(bundle), embeddings, names, Path(folder) / "bundle").folder


def _truth(samples: Sequence[Sample], labels: int, absent: Absent) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As `loader.multi_hot`, in NumPy."""
    targets = np.zeros((len(samples), labels), np.float32)
    weights = np.full_like(targets, absent == "negative")
    for row, sample in enumerate(samples):
        targets[row, list(sample.tags)] = 1
        weights[row, [*sample.tags, *(sample.absent or ())]] = 1
    return targets, weights


def _row(scores: LabelScores, labels: int) -> NDArray[np.float32]:
    row = np.zeros(labels, np.float32)
    row[scores.label_ids] = scores.scores
    return row


def _tags(tagger: Tagger | None, images: Sequence[Pixels]) -> Iterator[list[str]]:
    """Names of the tags that a worker would show of each image."""
    if tagger is None:
        yield from ([] for _ in images)
        return
    for raw in tagger.forward(images):
        answer = tagger.postprocess(raw)
        pairs = zip(answer.label_ids.tolist(), answer.scores.tolist(), strict=True)
        yield [tagger.labels[label] for label, score in pairs if score > tagger.thresholds[label]]


def _no_image(skipped: dict[str, str]) -> Misconfigured:
    if not skipped:
        return Misconfigured("The data names no image.")
    image, reason = next(iter(skipped.items()))
    return Misconfigured(f"None of {len(skipped):,} images can be used. The first is {image}: {reason}.")


_FILE = Path(__file__).with_name("papers.json")


class Row(Exact):
    """A model's published numbers in percent; None: not reported."""

    model: str
    source: str
    map: float | None = None
    precision: float | None = None
    recall: float | None = None
    bleu4: float | None = None
    cider: float | None = None


class Benchmark(Exact):
    """An evaluation set that papers report on."""

    files: str
    classes: int
    rows: tuple[Row, ...]
    note: str = ""


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All of them, by name."""
    return TypeAdapter(dict[str, Benchmark]).validate_json(_FILE.read_bytes())


def benchmark_of(file: str) -> tuple[str, Benchmark] | None:
    """The benchmark with an annotation file of this name."""
    return next((each for each in benchmarks().items() if file.startswith(each[1].files)), None)


def draw_thresholds(tagged: Tagged, path: Path) -> None:
    """Draw precision, recall and F1 by threshold into a PNG."""
    from matplotlib.figure import Figure

    bars = np.linspace(0, 1, 101)
    means = [tagged.table(float(bar)).mean() for bar in bars]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in ("precision", "recall", "f1"):
        axes.plot(bars, [getattr(mean, name) for mean in means], label=name)
    own = tagged.table().mean()
    axes.plot([], [], " ", label=f"at the bundle's thresholds: {own.precision:.3f} / {own.recall:.3f} / {own.f1:.3f}")
    axes.set(xlabel="one threshold for all labels", ylabel="mean over labels", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
