"""Parse a set: captions, vocabulary, then samples."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from pathlib import Path

from tagstream_train.data.images import Carrier
from tagstream_train.data.samples import DataSet, Ids, Origin, Sample, write_again
from tagstream_train.parse import review as review_file
from tagstream_train.parse.lexicon import LexiconParser, learn
from tagstream_train.parse.mentions import Mention
from tagstream_train.parse.vocabulary import Seen, Vocabulary, ranked, settled
from tagstream_train.parse.web import is_english
from workers.errors import Misconfigured

_LEARN_FROM = 50_000
"""Captions that the lexicon is learned from."""
_REPORT_EVERY = 5_000


@dataclass(frozen=True)
class Choices:
    """Options of the labels.

    Args:
        top: without `labels`: the most labels.
        least: without `labels`: the least occurrences of a tag.
        review: the file with a person's decisions; every run rewrites it.
    """

    labels: Sequence[str] | None = None
    top: int = 5000
    least: int = 5
    review: Path | None = None


@dataclass(frozen=True)
class Parsed:
    """A run's result."""

    dataset: DataSet
    captions: int
    tags: int
    """Caption and label, each pair once."""
    missing: Sequence[str]
    """Images without a file."""
    foreign: int
    """Skipped captions in other languages."""


def parse(source: DataSet, target: Path, choices: Choices, report: Callable[[int], None]) -> Parsed:
    """Write a data set with the tags of its captions.

    Tags of another origin than a caption stay, and their labels come first. An image gets no tag that it is known to
    lack.

    Args:
        source: can be the data set in `target`, which is replaced at the end.

    Raises:
        Misconfigured: there is no caption, the review file is unreadable, …
    """
    decisions = review_file.read(choices.review) if choices.review else {}
    parser = LexiconParser(learn(islice(_captions(source), _LEARN_FROM)))
    read = _Read(source, parser, report)
    if not read.captions:
        raise Misconfigured("There is no caption to parse.")
    seen = settled(read.seen, choices.least, decisions)
    kept = _labels_in_use(source)
    given = choices.labels
    labels = (
        ranked(seen, decisions, top=choices.top, least=choices.least, first=kept)
        if given is None
        else list(dict.fromkeys([*given, *kept]))
    )
    vocabulary = Vocabulary(labels, seen, decisions)
    if choices.review:
        review_file.write(choices.review, _rows(seen, choices.least, decisions, vocabulary), decisions)
    writer = _ParsedSamples(source, vocabulary, Carrier(source.folder, target))
    step = f"parsed by {parser.name}: {read.captions} captions, {len(labels)} labels"
    dataset = write_again(source, target, writer.samples(read.mentions()), labels, step)
    return Parsed(dataset, read.captions, writer.tags, writer.carrier.missing, read.foreign)


def _captions(source: DataSet) -> Iterator[str]:
    return chain.from_iterable(sample.captions for sample in source)


def _labels_in_use(source: DataSet) -> list[str]:
    """Labels that samples have or lack by another origin than a caption."""
    used = {at for sample in source for at in (*_lasting(sample), *(sample.absent or ()))}
    return [source.labels[at] for at in sorted(used)]


def _lasting(sample: Sample) -> Iterator[int]:
    return (at for at in sample.tags if sample.origins.get(at) != "parsed")


class _Read:
    """The mentions of all captions, in some twenty bytes a caption."""

    def __init__(self, source: DataSet, parser: LexiconParser, report: Callable[[int], None]) -> None:
        self.seen: dict[Mention, Seen] = {}
        self.captions = self.foreign = 0
        self._numbers = array("I")
        """Of each caption's mentions, counted from 1 in the order of `seen`; 0 ends a caption."""
        numbers: dict[Mention, int] = {}
        for caption in _captions(source):
            (found,) = parser.parse([caption])
            for mention in found:
                self.seen.setdefault(mention, Seen(0, caption)).count += 1
                self._numbers.append(numbers.setdefault(mention, len(numbers) + 1))
            self._numbers.append(0)
            self.foreign += not found and not is_english(caption)
            self.captions += 1
            if self.captions % _REPORT_EVERY == 0:
                report(self.captions)

    def mentions(self) -> Iterator[list[Mention]]:
        """Of each caption."""
        names, numbers = list(self.seen), iter(self._numbers)
        for _ in range(self.captions):
            yield [names[number - 1] for number in takewhile(bool, numbers)]


class _ParsedSamples:
    """Samples with the tags of their captions."""

    def __init__(self, source: DataSet, vocabulary: Vocabulary, carrier: Carrier) -> None:
        self._source = source
        self._vocabulary = vocabulary
        self.carrier = carrier
        ids = {label: at for at, label in enumerate(vocabulary.labels)}
        self._new_ids = {at: ids[label] for at, label in enumerate(source.labels) if label in ids}
        self.tags = 0

    def samples(self, mentions: Iterator[list[Mention]]) -> Iterator[Sample]:
        for sample in self._source:
            parsed = tuple(self._vocabulary.ids(next(mentions)) for _ in sample.captions)
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


def _rows(
    seen: dict[Mention, Seen], least: int, decisions: review_file.Decisions, vocabulary: Vocabulary
) -> list[review_file.ReviewRow]:
    """Frequent tags, and tags with a decision."""
    return [
        review_file.ReviewRow(mention, found.count, vocabulary.id_of(mention) is not None, found.example)
        for mention, found in sorted(seen.items(), key=lambda item: (-item[1].count, item[0]))
        if found.count >= least or mention in decisions
    ]
