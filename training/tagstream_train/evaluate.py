"""Measure a bundle on labelled images, by the worker's code.

BLEU and CIDEr-D follow COCO's evaluation. Words are split by similar rules as its tokenizer's (lower case, `'s` and
`n't` are words of their own, no punctuation). On the same words both measures equal pycocoevalcap's, as tests check.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from tagstream_train.data.formats import Request, open_source
from tagstream_train.data.images import BadImage, Images
from tagstream_train.data.importer import no_image, sample_of
from tagstream_train.data.loader import multi_hot
from tagstream_train.data.samples import DataSet, Sample, joined, places
from tagstream_train.metrics import Table, table
from tagstream_train.plan import Exact
from workers.errors import Misconfigured, nearest
from workers.intake.transform import apply
from workers.models.load import open_bundle
from workers.models.ram.relabel import label_matrix, with_matrix
from workers.ports import Captioner, ObjectStore, Tagger
from workers.types import LabelScores, Pixels, Transform

_AHEAD = 32
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Opened:
    """Samples, their labels' names, and their images."""

    name: str
    samples: Sequence[Sample]
    labels: Sequence[str]
    images: Images


def open_data(request: Request, format: str | None = None, *, store: ObjectStore | None = None) -> Opened:  # noqa: A002
    """Open a training set, or annotations of any format.

    Raises:
        Misconfigured: as `open_source`, or an image's name does not fit into a set.
    """
    source = open_source(request, format)
    if source.format == "tagstream" and request.labels is None:
        dataset = DataSet(request.path)
        return Opened(dataset.header.name, list(dataset), dataset.labels, Images(source.root, store=store))
    samples: dict[str, Sample] = {}
    for found in source.items:
        known = samples.get(found.image)
        sample = sample_of(found)
        samples[found.image] = sample if known is None else joined(known, sample)
    return Opened(request.path.stem, list(samples.values()), source.labels, Images(source.root, store=store))


def decoded(
    samples: Iterable[Sample], images: Images, transform: Transform, *, threads: int, skipped: dict[str, str]
) -> Iterator[tuple[Sample, Pixels]]:
    """Yield samples in order, each with its pixels for the model."""

    def pixels(sample: Sample) -> Pixels:
        image = images.load(sample.image, sha256=sample.sha256, exif_transpose=transform.exif_transpose)
        return apply(transform, image)

    with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="images") as pool:
        rest = iter(samples)
        coming: deque[tuple[Sample, Future[Pixels]]] = deque()
        while True:
            coming.extend((sample, pool.submit(pixels, sample)) for sample in islice(rest, _AHEAD - len(coming)))
            if not coming:
                return
            sample, future = coming.popleft()
            try:
                yield sample, future.result()
            except BadImage as bad:
                skipped[bad.image] = bad.reason


def pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece


Words: TypeAlias = Sequence[str]
_Grams: TypeAlias = Counter[tuple[str, ...]]

ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0

_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))(?!\w)")
_WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)(?!\w)|[^\W_]+(?:[-'.,/&_][^\W_]+)*|[$%&#@+=]")


def words(caption: str) -> list[str]:
    """A caption's words in lower case, without punctuation."""
    return _WORD.findall(_CONTRACTION.sub(r" \1", caption.lower().replace("’", "'")))


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, ...]:
    """BLEU-1 to BLEU-4 of a whole set, 0..1.

    Args:
        references: one or more for each caption. The reference nearest in length gives the brevity penalty.
    """
    hits, given = [0] * len(ORDERS), [0] * len(ORDERS)
    length = wanted = 0
    for caption, others in zip(captions, references, strict=True):
        length += len(caption)
        wanted += min((abs(len(other) - len(caption)), len(other)) for other in others)[1]
        for place, order in enumerate(ORDERS):
            grams = _grams(caption, order)
            most: _Grams = Counter()
            for other in others:
                most |= _grams(other, order)
            hits[place] += (grams & most).total()
            given[place] += max(0, len(caption) - order + 1)
    ratio = (length + 1e-15) / (wanted + 1e-9)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    products = [math.prod((hits[k] + 1e-15) / (given[k] + 1e-9) for k in range(n)) for n in ORDERS]
    return tuple(brevity * product ** (1 / order) for product, order in zip(products, ORDERS, strict=True))


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption, 0..10.

    The set's CIDEr-D is their mean; the papers' tables show 100 times this number. The references of the whole set give
    the words' weights: in a set of one image every weight is 0.
    """
    images: _Grams = Counter()
    for others in references:
        images.update({gram for other in others for order in ORDERS for gram in _grams(other, order)})
    rare = math.log(max(len(references), 1))

    def vectors(text: Words) -> list[dict[tuple[str, ...], float]]:
        return [
            {gram: count * (rare - math.log(max(1, images[gram]))) for gram, count in _grams(text, order).items()}
            for order in ORDERS
        ]

    scores = []
    for caption, others in zip(captions, references, strict=True):
        mine = vectors(caption)
        alike = [_alike(mine, vectors(other), len(caption) - len(other)) for other in others]
        scores.append(10 * sum(alike) / len(alike))
    return scores


def _alike(mine: list[dict[tuple[str, ...], float]], other: list[dict[tuple[str, ...], float]], longer: int) -> float:
    """Clipped cosine of two captions, averaged over orders."""
    total = 0.0
    for a, b in zip(mine, other, strict=True):
        norms = math.sqrt(sum(x * x for x in a.values())) * math.sqrt(sum(x * x for x in b.values()))
        product = sum(min(value, b[gram]) * b[gram] for gram, value in a.items() if gram in b)
        total += product / norms if norms else product
    return total / len(ORDERS) * math.exp(-(longer**2) / (2 * _SIGMA**2))


def _grams(text: Words, order: int) -> _Grams:
    return Counter(tuple(text[start : start + order]) for start in range(len(text) - order + 1))


Report = Callable[[int], None]
Absent = Literal["negative", "unknown"]
"""Meaning of a label without a statement for an image."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Scores of a model for labels shared with the data.

    Args:
        missing: labels of the data that the model lacks.
        scores, targets, weights: (images, labels); a weight is 0 where the truth is unknown.
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
    """Captions, measured against their references.

    Args:
        bleu: BLEU-1 to BLEU-4 of the set, 0..1.
        cider: mean CIDEr-D, 0..10.
        skipped: unusable images, with the reason.
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

    A label of the data is the model's first label of this name. If all names are numbers, and the model has no such
    names, they are the model's label ids.

    Args:
        tagger: scores at least the shared labels.

    Raises:
        Misconfigured: no shared label, or no usable image.
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
        raise no_image(skipped)
    targets, weights = (part.numpy() for part in multi_hot(samples, len(data.labels), absent=absent))
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
        tagger: of the same bundle; its tags guide the captions. None: no guide.

    Raises:
        Misconfigured: no usable image with a caption.
    """
    samples = [sample for sample in data.samples if sample.captions]
    skipped: dict[str, str] = {}
    written: list[tuple[str, str]] = []
    truth: list[Sequence[Sequence[str]]] = []
    for piece in pieces(decoded(samples, data.images, captioner.transform, threads=threads, skipped=skipped), batch):
        pixels = [image for _, image in piece]
        tags = [{}] * len(piece) if tagger is None else [shown_tags(tagger, raw) for raw in tagger.forward(pixels)]
        guides = [captioner.guide(list(names)) for names in tags]
        for (sample, _), raw in zip(piece, captioner.forward(pixels, guides), strict=True):
            written.append((sample.image, captioner.postprocess(raw).text))
            truth.append([words(each) for each in sample.captions])
        report(len(piece))
    if not written:
        raise no_image(skipped) if samples else Misconfigured("The data has no captions to compare with.")
    mine = [words(text) for _, text in written]
    scores = cider(mine, truth)
    return Captioned(bleu(mine, truth), sum(scores) / len(scores), tuple(written), skipped)


def label_columns(known: Sequence[str], wanted: Sequence[str]) -> dict[int, int]:
    """The model's label ids, by the data's label numbers.

    Raises:
        Misconfigured: no shared label.
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
        Misconfigured: as `workers.models.ram.relabel.with_matrix`.
    """
    with tempfile.TemporaryDirectory(prefix="tagstream-open-set-") as folder:
        made, out = open_bundle(bundle), Path(folder) / "bundle"
        yield with_matrix(made, label_matrix(embeddings), labels, out, source=embeddings).folder


def _row(scores: LabelScores, labels: int) -> NDArray[np.float32]:
    row = np.zeros(labels, np.float32)
    row[scores.label_ids] = scores.scores
    return row


def shown_tags(tagger: Tagger, raw: Any) -> dict[str, float]:
    """Tags that a worker would show, with their scores, in label order.

    Args:
        raw: one image's answer of `Tagger.forward`.
    """
    scores = tagger.postprocess(raw)
    pairs = zip(scores.label_ids.tolist(), scores.scores.tolist(), strict=True)
    return {tagger.labels[label]: score for label, score in pairs if score > tagger.thresholds[label]}


_FILE = Path(__file__).with_name("papers.json")


class PublishedRow(Exact):
    """A model's published numbers in percent; None: not reported."""

    model: str
    source: str
    map: float | None = None
    precision: float | None = None
    recall: float | None = None
    bleu4: float | None = None
    cider: float | None = None
    image_to_text: float | None = None
    text_to_image: float | None = None


class Benchmark(Exact):
    """An evaluation set that papers report on."""

    files: str
    classes: int
    images: int = 0
    """Number of images for retrieval."""
    rows: tuple[PublishedRow, ...]
    note: str = ""


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All of them, by name."""
    return TypeAdapter(dict[str, Benchmark]).validate_json(_FILE.read_bytes())


def benchmark_of(file: str) -> Benchmark | None:
    """The benchmark with an annotation file of this name."""
    return next((each for each in benchmarks().values() if file.startswith(each.files)), None)
