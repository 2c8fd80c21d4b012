"""Parse a set: captions in processes, vocabulary, then samples."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from pydantic import ValidationError

from tagstream_train.data.images import Carrier
from tagstream_train.data.samples import HEADER, MAX_LINE_BYTES, DataSet, Header, Ids, Origin, Sample, write_dataset
from tagstream_train.parse import review as review_file
from tagstream_train.parse.lexicon import LexiconParser, learn
from tagstream_train.parse.mentions import Kind, Mention
from tagstream_train.parse.vocabulary import Seen, Vocabulary, ranked, settled
from tagstream_train.parse.web import is_english
from workers.errors import Broken, Misconfigured


class CaptionsFile:
    """A file of `image<TAB>caption` lines, grouped by image.

    Images are named relative to the file's folder, or `s3://bucket/key`.
    """

    labels: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path
        self.folder = path.parent
        self.header = Header(name=path.stem, samples=0, labels=0)

    def __iter__(self) -> Iterator[Sample]:
        """
        Raises:
            Misconfigured: a line can't be read; with its number.
        """
        for image, lines in groupby(self._lines(), key=lambda line: line[0]):
            yield self._sample(image, tuple(caption for _, caption in lines))

    def _lines(self) -> Iterator[tuple[str, str]]:
        with self._path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                where = f"{self._path}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise Misconfigured(f"{where}: more than {MAX_LINE_BYTES:,} bytes.")
                try:
                    image, tab, caption = line.decode().strip("\r\n").partition("\t")
                except UnicodeDecodeError:
                    raise Misconfigured(f"{where} is not text in UTF-8.") from None
                if not tab or not image:
                    raise Misconfigured(f"{where}: an image, a tab and its caption are expected.")
                yield image, caption

    def _sample(self, image: str, captions: tuple[str, ...]) -> Sample:
        try:
            return Sample(image=image, captions=captions)
        except ValidationError:
            raise Misconfigured(f"{self._path}: {image[:100]!r} can't be the name of an image.") from None


def open_source(path: Path) -> DataSet | CaptionsFile:
    """
    Raises:
        Misconfigured: it is neither a data set nor a file of captions.
    """
    if path.is_dir():
        return DataSet(path)
    if path.name == HEADER:
        return DataSet(path.parent)
    if not path.is_file():
        raise Misconfigured(f"There is no {path}: give a training set's folder, or a file with image, tab, caption.")
    return CaptionsFile(path)


Report: TypeAlias = Callable[[int], None]
"""Is told how many captions are parsed."""

_CHUNK = 5_000
"""Captions that go to a process at once, with the lexicon."""
_LEARN_FROM = 50_000
"""Captions that the lexicon is learned from."""


@dataclass(frozen=True)
class Choices:
    """Options of labels and of parsing.

    Args:
        labels: a list of tags that the labels are; None: the captions' own.
        top: without a list: how many labels at most.
        least: without a list: how often a tag must be found.
        review: the file with a person's decisions; written anew by every run.
        processes: that parse.
    """

    labels: Sequence[str] | None = None
    top: int = 5000
    least: int = 5
    review: Path | None = None
    processes: int = 1


@dataclass(frozen=True)
class Parsed:
    """A run's result."""

    dataset: DataSet
    captions: int
    tags: int
    """Caption and label, each pair once."""
    missing: Sequence[str]
    """Images that could not be brought along, since they are not there."""
    foreign: int
    """Captions in other languages, which were passed over."""


def parse(source: DataSet | CaptionsFile, target: Path, choices: Choices, report: Report) -> Parsed:
    """Write a data set with the tags of its captions.

    Tags of another origin than a caption stay, and their labels come first. Whatever is known to be absent from an
    image is not given to it because a caption says so.

    Args:
        source: if it is the data set in `target`, that one is replaced when all is done.

    Raises:
        Misconfigured: there is no caption, the review file can't be read, …
    """
    decisions = review_file.read(choices.review) if choices.review else {}
    parser = LexiconParser(learn(islice(_captions(source), _LEARN_FROM)))
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target) as file:
        seen, captions, foreign = _parse_all(source, parser, choices.processes, file, report)
        if not captions:
            raise Misconfigured("There is no caption to parse.")
        seen = settled(seen, choices.least, decisions)
        kept = _labels_in_use(source)
        vocabulary = Vocabulary(_labels(choices, seen, decisions, kept), seen, decisions)
        if choices.review:
            _write_review(choices, seen, decisions, vocabulary)
        file.seek(0)
        writer = _Writer(source, vocabulary, Carrier(source.folder, target))
        steps = (*source.header.steps, f"parsed by {parser.name}: {captions} captions, {len(vocabulary.labels)} labels")
        dataset = write_dataset(
            target,
            writer.samples(file),
            vocabulary.labels,
            name=source.header.name,
            steps=steps,
            parents=source.header.parents,
        )
    return Parsed(dataset, captions, writer.tags, writer.carrier.missing, foreign)


def _captions(source: DataSet | CaptionsFile) -> Iterator[str]:
    return chain.from_iterable(sample.captions for sample in source)


def _labels(
    choices: Choices, seen: dict[Mention, Seen], decisions: review_file.Decisions, kept: Sequence[str]
) -> list[str]:
    if choices.labels is not None:
        return [*dict.fromkeys([*choices.labels, *kept])]
    return ranked(seen, decisions, top=choices.top, least=choices.least, first=kept)


def _labels_in_use(source: DataSet | CaptionsFile) -> list[str]:
    """Labels that samples have, or lack, for another reason than a caption."""
    used = {at for sample in source for at in (*_lasting(sample), *(sample.absent or ()))}
    return [source.labels[at] for at in sorted(used)]


def _lasting(sample: Sample) -> Iterator[int]:
    return (at for at in sample.tags if sample.origins.get(at) != "parsed")


# ---- parsing


def _parse_all(
    source: DataSet | CaptionsFile, parser: LexiconParser, processes: int, file: BinaryIO, report: Report
) -> tuple[dict[Mention, Seen], int, int]:
    """Write a line of mentions a caption; count captions and foreign ones."""
    seen: dict[Mention, Seen] = {}
    done = foreign = 0
    for captions, lines in _chunks(_captions(source), parser, processes):
        for caption, line in zip(captions, lines, strict=True):
            for mention in _decoded(line):
                if (found := seen.get(mention)) is None:
                    seen[mention] = Seen(1, caption)
                else:
                    found.count += 1
            foreign += not line and not is_english(caption)
        file.write("".join(f"{line}\n" for line in lines).encode())
        done += len(captions)
        report(done)
    return seen, done, foreign


def _chunks(
    captions: Iterator[str], parser: LexiconParser, processes: int
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Captions with their lines, a chunk at a time, in order."""
    chunks = iter(lambda: list(islice(captions, _CHUNK)), [])
    if processes <= 1:
        yield from ((chunk, _lines(parser, chunk)) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        waiting: deque[tuple[list[str], Future[list[str]]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((chunk, pool.submit(_lines, parser, chunk)))
                if len(waiting) > 4 * processes:
                    ready, future = waiting.popleft()
                    yield ready, future.result()
            yield from ((chunk, future.result()) for chunk, future in waiting)
        except BrokenProcessPool:
            raise Broken(
                "A process that parses captions was killed: is there enough memory? Try --processes 1."
            ) from None


def _lines(parser: LexiconParser, captions: Sequence[str]) -> list[str]:
    return ["\t".join(f"{kind}:{text}" for kind, text in found) for found in parser.parse(captions)]


def _decoded(line: str) -> Iterator[Mention]:
    for cell in line.split("\t") if line else ():
        kind, _, text = cell.partition(":")
        yield Mention(cast(Kind, kind), text)


# ---- the result


class _Writer:
    """Samples with the tags of their captions."""

    def __init__(self, source: DataSet | CaptionsFile, vocabulary: Vocabulary, carrier: Carrier) -> None:
        self._source = source
        self._vocabulary = vocabulary
        self.carrier = carrier
        ids = {label: at for at, label in enumerate(vocabulary.labels)}
        self._new_ids = {at: ids[label] for at, label in enumerate(source.labels) if label in ids}
        self.tags = 0

    def samples(self, mentions: BinaryIO) -> Iterator[Sample]:
        for sample in self._source:
            lines = [mentions.readline().decode().removesuffix("\n") for _ in sample.captions]
            parsed = tuple(self._vocabulary.ids(_decoded(line)) for line in lines)
            self.tags += sum(map(len, parsed))
            self.carrier.carry(sample)
            yield self._tagged(sample, parsed)

    def _tagged(self, sample: Sample, parsed: Sequence[Ids]) -> Sample:
        lasting = [self._new_ids[at] for at in _lasting(sample)]
        absent = None if sample.absent is None else tuple(sorted(self._new_ids[at] for at in sample.absent))
        found = set(chain.from_iterable(parsed)) - set(absent or ()) - set(lasting)
        origins: dict[int, Origin] = {
            self._new_ids[at]: origin for at, origin in sample.origins.items() if origin != "parsed"
        }
        return sample.model_copy(
            update={
                "caption_tags": tuple(parsed),
                "tags": tuple(sorted({*lasting, *found})),
                "absent": absent,
                "origins": {**origins, **dict.fromkeys(sorted(found), "parsed")},
            }
        )


def _write_review(
    choices: Choices, seen: dict[Mention, Seen], decisions: review_file.Decisions, vocabulary: Vocabulary
) -> None:
    """Write frequent tags and all decisions of people."""
    rows = [
        review_file.Row(mention, found.count, vocabulary.id_of(mention) is not None, found.example)
        for mention, found in sorted(seen.items(), key=lambda item: (-item[1].count, item[0]))
        if found.count >= choices.least or mention in decisions
    ]
    assert choices.review is not None
    review_file.write(choices.review, rows, decisions)
