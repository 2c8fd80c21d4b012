"""The report of a shadow tagger: on how many images it gave the tags of the live one, in all and by label.

One file for each worker, a JSON document. What is read back may come from anywhere: it is bounded and checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from schemas.text import first_fault
from workers.errors import Misconfigured
from workers.pipeline.profiles import Profile

MAX_BYTES = 16 * 1024**2
"""Of one report: 100,000 labels of a hundred characters each take less."""
MAX_LABELS = 100_000
"""As many as a bundle may have."""
_MOST_FIELDS = 32
BINS = 11
"""Of Jaccard indices: ten of a tenth each, and one of equal sets alone."""

Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
MAX_TEXT = 1_000
Short = Annotated[str, Field(max_length=MAX_TEXT)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Side(_Strict):
    """One of the two taggers, and the thresholds that made tags of its scores."""

    name: Short
    digest: Short
    thresholds: Short
    """Their digest, as an event shows it."""


class TagCounts(_Strict):
    """How often both taggers said something, the live one alone, and the shadow alone."""

    both: Count = 0
    live: Count = 0
    shadow: Count = 0

    @property
    def by_live(self) -> int:
        return self.both + self.live

    @property
    def by_any(self) -> int:
        return self.both + self.live + self.shadow

    @property
    def share(self) -> float:
        """Of what either said, what both said; 1 where none did."""
        return self.both / self.by_any if self.by_any else 1.0

    def add(self, other: TagCounts) -> None:
        self.both += other.both
        self.live += other.live
        self.shadow += other.shadow


def _tag_counts(given: Any) -> Any:
    """Each label's, up to the first that is none: pydantic would note what is wrong with each of a million."""
    if not isinstance(given, dict):
        raise ValueError("it is no object")
    try:
        return {name: TagCounts.model_validate(found) for name, found in given.items()}
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


Labels = Annotated[dict[str, TagCounts], BeforeValidator(_tag_counts)]
Tags = dict[str, Count]


class ShadowReport(_Strict):
    """What one worker, or several, found. Labels are compared by name; those that only one of the taggers has are told
    apart, and count for no agreement."""

    format: Literal["tagstream-shadow-report/1"] = "tagstream-shadow-report/1"
    workers: Annotated[list[Short], Field(min_length=1, max_length=10_000)]
    """Transactional ids."""
    since: AwareDatetime
    until: AwareDatetime
    live: Side
    shadow: Side
    compared: Count = 0
    """Images."""
    dropped: Count = 0
    """Images of the shadow's share that there was no time for."""
    switched_off: Annotated[list[Short], Field(max_length=10_000)] = []
    """Why a shadow switched itself off, once for each time."""
    jaccard_sum: Annotated[float, Field(strict=True, ge=0)] = 0.0
    jaccard: Annotated[list[Count], Field(min_length=BINS, max_length=BINS)] = [0] * BINS
    """Images by the Jaccard index of their two sets of tags: 0 to 0.1, …, 0.9 to 1, and 1 itself."""
    labels: Labels = {}
    """Of the labels that both taggers have, those that an image was given."""
    only_live_has: Tags = {}
    """Tags of the live tagger, by labels that the shadow does not have."""
    only_shadow_has: Tags = {}

    @model_validator(mode="before")
    @classmethod
    def _of_bounded_size(cls, given: Any) -> Any:
        """Before anything else, because pydantic notes every fault of a large document."""
        held = given.values() if isinstance(given, dict) else ()
        if len(held) > _MOST_FIELDS or any(len(each) > MAX_LABELS for each in held if isinstance(each, dict | list)):
            raise ValueError("it holds more than a report can have")
        return given

    @model_validator(mode="after")
    def _of_one_piece(self) -> Self:
        most = max((each.by_any for each in self.labels.values()), default=0)
        most = max(most, *self.only_live_has.values(), *self.only_shadow_has.values(), 0)
        if sum(self.jaccard) != self.compared or self.jaccard_sum > self.compared + 1e-6 or most > self.compared:
            raise ValueError("its counts do not fit the images that were compared")
        return self

    @property
    def mean_jaccard(self) -> float | None:
        """None before the first image."""
        return self.jaccard_sum / self.compared if self.compared else None

    def same_taggers(self, other: ShadowReport) -> bool:
        """Whether both compare the same two taggers under the same thresholds."""
        return (self.live, self.shadow) == (other.live, other.shadow)

    def count(self, live: Set[str], shadow: Set[str], common: Set[str]) -> TagCounts:
        """Count one image.

        Args:
            live, shadow: names of its tags.
            common: names of the labels that both taggers have.

        Returns:
            How many tags with these labels both gave it, and each alone; `share` is the sets' Jaccard index.
        """
        seen_by = {"both": live & shadow & common, "live": (live - shadow) & common, "shadow": (shadow - live) & common}
        for by, names in seen_by.items():
            for name in names:
                found = self.labels.setdefault(name, TagCounts())
                setattr(found, by, getattr(found, by) + 1)
        _add(self.only_live_has, dict.fromkeys(live - common, 1))
        _add(self.only_shadow_has, dict.fromkeys(shadow - common, 1))
        tags = TagCounts(**{by: len(names) for by, names in seen_by.items()})
        self.compared += 1
        self.jaccard_sum += tags.share
        self.jaccard[int(tags.share * (BINS - 1))] += 1
        return tags

    def add(self, other: ShadowReport) -> None:
        """Count what another worker's report of the same two taggers counts."""
        self.workers += other.workers
        self.since, self.until = min(self.since, other.since), max(self.until, other.until)
        self.compared += other.compared
        self.dropped += other.dropped
        self.switched_off += other.switched_off
        self.jaccard_sum += other.jaccard_sum
        self.jaccard = [ours + theirs for ours, theirs in zip(self.jaccard, other.jaccard, strict=True)]
        for name, found in other.labels.items():
            self.labels.setdefault(name, TagCounts()).add(found)
        _add(self.only_live_has, other.only_live_has)
        _add(self.only_shadow_has, other.only_shadow_has)

    def write(self, path: Path) -> None:
        """Write it as a whole or not at all; for one writer at a time.

        Raises:
            OSError: the folder can't be made or written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(self.model_dump_json(), encoding="utf-8")
        os.replace(part, path)


def known(path: Path) -> ShadowReport | None:
    """The report that a process before this one left in the file; None where there is none, or it is none."""
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES))
    except (OSError, ValueError):
        return None


def parse(content: bytes) -> ShadowReport:
    """A report from the content of its file, of at most `MAX_BYTES`.

    Raises:
        ValueError: it is none; one line.
    """
    try:
        return ShadowReport.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def merged(reports: Iterable[tuple[str, ShadowReport]]) -> ShadowReport:
    """All reports as one.

    Args:
        reports: each with the name of its file; at least one.

    Raises:
        Misconfigured: two compare other taggers or thresholds, or are of the same worker.
    """
    whole: ShadowReport | None = None
    first, files = "", dict[str, str]()
    for file, report in reports:
        for worker in report.workers:
            if worker in files:
                raise Misconfigured(f"{file} and {files[worker]} are both of the worker {worker}: give one of them")
            files[worker] = file
        if whole is None:
            whole, first = report.model_copy(deep=True), file
        elif not whole.same_taggers(report):
            raise Misconfigured(
                f"{file} compares {_named(report)}, and {first} {_named(whole)}: "
                "leave out the reports of taggers or thresholds that are no longer in question"
            )
        else:
            whole.add(report)
        if len(whole.labels | whole.only_live_has | whole.only_shadow_has) > 2 * MAX_LABELS:
            raise Misconfigured(f"{file} is no report of the same taggers as {first}: they have too many labels")
    assert whole is not None
    return whole


class Known(Protocol):
    """What a report says of a tagger."""

    name: str
    digest: str


def side_of(tagger: Known, profile: Profile) -> Side:
    return Side(name=tagger.name[:MAX_TEXT], digest=tagger.digest, thresholds=profile.digest)


def new_report(worker: str, now: datetime, live: Side, shadow: Side) -> ShadowReport:
    """A report of nothing yet."""
    return ShadowReport(workers=[worker], since=now, until=now, live=live, shadow=shadow)


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def _named(report: ShadowReport) -> str:
    sides = (report.live, report.shadow)
    return " with ".join(f"{each.name} {each.digest[:12]} (thresholds {each.thresholds})" for each in sides)
