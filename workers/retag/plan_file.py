"""The plan's file: a head, then a line for each record to remake, in order of partition and offset.

Every line is a JSON object that ends with a checksum of the rest, so that damage is found by its line. The digest of a
plan is the SHA-256 of the whole file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from schemas.printable import counted
from schemas.text import OutcomeVersion, first_fault
from workers.errors import Misconfigured
from workers.files import whole_file
from workers.retag.current import differences

SCHEMA: Final = "tagstream-plan/1"
_SUFFIX: Final = b',"check":"%08x"}\n'
_SUFFIX_BYTES: Final = len(_SUFFIX % 0)
_LINE_BYTES: Final = 1 << 20
"""The longest line. A head with a thousand profiles takes a tenth of it."""

Verdict: TypeAlias = Literal["rescore", "image"]
"""How a record is remade: from its stored scores, or from the image."""
VERDICTS: Final[tuple[Verdict, ...]] = ("rescore", "image")

_Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


class PlanHead(BaseModel):
    """The first line: the topic and the settings of the plan.

    Args:
        topic_id: id of the topic, hex; a recreated topic has another. Empty: unknown.
        ends: by partition, the offset behind the last record that was read.
        settings: what outcomes depend on (`CurrentSettings.parts`).
        counts: numbers of subjects by fate.
        lines: number of planned records.
    """

    model_config = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["tagstream-plan/1"] = Field(default=SCHEMA, alias="schema")
    made_at: str
    topic: str
    topic_id: str
    ends: Mapping[int, _Count]
    settings: Mapping[str, str]
    counts: Mapping[str, _Count]
    lines: _Count

    @field_validator("ends")
    @classmethod
    def _of_all_partitions(cls, ends: Mapping[int, int]) -> Mapping[int, int]:
        if set(ends) != set(range(len(ends))):
            raise ValueError(f"an end for each partition from 0 to {len(ends) - 1} belongs there")
        return ends


class Planned(NamedTuple):
    """A record of the enriched topic to remake.

    Args:
        version: of its outcome. The new version is higher by one.
        reason: why it needs the image (`judging.NeedReason`), or what changes (`judging.Change`s, joined by commas).
        bytes: size of the image.
    """

    partition: _Count
    offset: _Count
    subject: str
    version: OutcomeVersion
    verdict: Verdict
    reason: str
    bytes: _Count


_PLANNED: Final = TypeAdapter(Planned)


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read once as a whole, and is undamaged.

    Args:
        digest: SHA-256 of the file, hex. It names the run of this plan.
        only: subjects of the records; None: all.
    """

    path: Path
    head: PlanHead
    digest: str
    _begins: Mapping[int, tuple[int, int]]
    """By partition, the number of its first line and the line's position in the file."""
    only: Set[str] | None = None

    def of_subjects(self, only: Set[str]) -> PlanFile:
        """The plan of these subjects alone; they are among its own."""
        return replace(self, head=self.head.model_copy(update={"lines": len(only)}), only=only)

    @classmethod
    def open(cls, path: Path) -> PlanFile:
        """Read the whole file. Raises Misconfigured: it can't be read, or is damaged in this line."""
        digest, head, lines, before = hashlib.sha256(), None, 0, (-1, -1)
        at, begins = 0, dict[int, tuple[int, int]]()
        for number, line in _numbered(path):
            digest.update(line)
            at += len(line)
            if head is None:
                head = _head(path, line)
                continue
            planned = _planned(path, number, line)
            if planned[:2] <= before:
                raise _damaged(path, number, "it does not come behind the line before it")
            lines, before = lines + 1, planned[:2]
            begins.setdefault(planned.partition, (number, at - len(line)))
        if head is None:
            raise _damaged(path, 1, "it is missing")
        if lines != head.lines:
            raise _damaged(path, lines + 2, f"the plan has {counted(head.lines, 'record')}, and the file {lines:,}")
        return cls(path, head, digest.hexdigest(), begins)

    def __iter__(self) -> Iterator[Planned]:
        """The planned records, in order of partition and offset; raises as `open`."""
        return chain.from_iterable(map(self.of, self._begins))

    def of(self, partition: int) -> Iterator[Planned]:
        """The planned records of one partition, in order of their offsets; raises as `open`."""
        for number, line in _numbered(self.path, *self._begins[partition]) if partition in self._begins else ():
            planned = _planned(self.path, number, line)
            if planned.partition != partition:
                return
            if self.only is None or planned.subject in self.only:
                yield planned

    def require_fit(self, topic: str, topic_id: str, partitions: int, settings: Mapping[str, str]) -> None:
        """Check the plan against the current topic and settings.

        Args:
            topic_id, partitions: of the topic now.

        Raises:
            Misconfigured: it was made for another topic or with other settings; the message names each difference.
        """
        wrong = []
        if topic != self.head.topic:
            wrong.append(f"it is about the topic {self.head.topic}, and TAGSTREAM_OUTPUT_TOPIC is {topic}")
        elif topic_id != self.head.topic_id:
            wrong.append(f"the topic {topic} was made anew since")
        elif partitions != len(self.head.ends):
            # Some subjects' new outcomes would come into another partition than the old ones.
            wrong.append(f"the topic {topic} had {counted(len(self.head.ends), 'partition')}, and has {partitions} now")
        wrong += differences(self.head.settings, settings)
        if wrong:
            raise Misconfigured(
                f"{self.path} does not fit any more: {'; '.join(wrong)}. Make a new plan with `tagstream retag plan`."
            )


def write_plan(path: Path, head: PlanHead, records: Iterable[Planned]) -> str:
    """Write a plan as a whole or not at all; returns its digest.

    Args:
        records: as many as `head.lines`, in order of partition and offset.

    Raises:
        Misconfigured: it can't be written.
    """
    digest = hashlib.sha256()
    with whole_file(path) as file:
        for document in chain([head.model_dump(mode="json")], (planned._asdict() for planned in records)):
            body = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)[:-1]
            line = body + _SUFFIX % zlib.crc32(body)
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def _document(path: Path, number: int, line: bytes) -> bytes:
    """A line's JSON object, without its checksum."""
    body = line[:-_SUFFIX_BYTES]
    if line[-_SUFFIX_BYTES:] != _SUFFIX % zlib.crc32(body):
        raise _damaged(path, number, "its checksum is not that of the line")
    return body + b"}"


def _head(path: Path, line: bytes) -> PlanHead:
    if b'"tagstream-plan/' not in line[:100]:
        raise Misconfigured(f"{path} is no plan: `tagstream retag plan -o FILE` writes one")
    try:
        return PlanHead.model_validate_json(_document(path, 1, line))
    except ValidationError as error:
        raise _damaged(path, 1, first_fault(error)) from None


def _planned(path: Path, number: int, line: bytes) -> Planned:
    try:
        return _PLANNED.validate_json(_document(path, number, line))
    except ValidationError as error:
        raise _damaged(path, number, first_fault(error)) from None


def _numbered(path: Path, number: int = 1, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; a line that is too long is cut, and so fails as damaged.

    Args:
        number, at: number and position of the first line to read.
    """
    try:
        with path.open("rb") as file:
            file.seek(at)
            while line := file.readline(_LINE_BYTES):
                yield number, line
                number += 1
    except OSError as error:
        raise Misconfigured(f"{path} can't be read: {error.strerror}") from error


def _damaged(path: Path, number: int, why: str) -> Misconfigured:
    return Misconfigured(f"{path}, line {number}: damaged: {why}. Make a new plan with `tagstream retag plan`.")
