"""Reads the output topics of two taggers, and compares their tags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from schemas.enriched_image import EnrichedImage, Retraction, read_output
from workers.assembly.progress import Counting, uncounted
from workers.assembly.topic_reading import read_topic
from workers.comparison import Objection, Outcomes, PromotionRule, TagAgreement, agreement, objections
from workers.retag.changes import Changed, ChangesWriter, LabelNumbers
from workers.settings import Settings
from workers.types import ReadRecord


@dataclass(frozen=True, slots=True)
class ComparedTopics:
    """The agreement of two topics.

    Args:
        live, candidate: the taggers of each topic, for people.
        against: why the candidate may not be promoted; empty: it may.
    """

    live: Sequence[str]
    candidate: Sequence[str]
    found: TagAgreement
    against: Sequence[Objection]


def compare_topics(
    settings: Settings,
    live: str,
    candidate: str,
    rule: PromotionRule,
    changes: Path | None = None,
    counting: Counting = uncounted,
    note: Callable[[str], object] = lambda _: None,
) -> ComparedTopics:
    """Read both topics to their present end, the smaller (candidate's) first.

    Args:
        changes: where to write what differs.

    Raises:
        Misconfigured: a topic does not exist, or the file can't be written.
        Unavailable: no broker answers.
    """
    theirs = Outcomes()
    ours = Outcomes(only=theirs.subjects())  # a view: read the candidate's first
    for topic, outcomes in ((candidate, theirs), (live, ours)):
        foreign = read_topic(settings, topic, partial(_take, outcomes), counting=counting)
        for line in foreign.notes("no outcomes", "images that are gone"):
            note(line)
    with ChangesWriter() as writer:

        def tell(subject: str, sha256: str, known: Mapping[str, float], tags: Mapping[str, float]) -> None:
            def numbers(name: str) -> LabelNumbers:
                return LabelNumbers(known.get(name), tags.get(name))

            if changes is not None:
                writer.take(Changed.between(subject, sorted(known), sorted(tags), numbers, sha256=sha256))

        found = agreement(ours, theirs, tell)
        if changes is not None:
            writer.write(changes, before=live, after=candidate, images=found.compared)
    taggers = list(theirs.taggers.values())
    return ComparedTopics(list(ours.taggers.values()), taggers, found, list(objections(found, rule, taggers)))


def _take(outcomes: Outcomes, record: ReadRecord) -> None:
    output = None if record.value is None else read_output(record.value)
    if isinstance(output, EnrichedImage | Retraction):
        outcomes.take(output)
