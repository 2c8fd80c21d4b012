"""A training set's format: one folder, one line an image; and its parts.

    dataset.json     name, counts and history (`Header`)
    tags.txt         label names, one a line; the line number, from 0, is the label id
    samples.jsonl    one `Sample` a line
    images/…         usually; a sample's image may also be an object of a bucket (`s3://bucket/key`)

The lines have the keys of the official programs' annotation files (image_path, caption, parse_label_id,
union_label_id), so these are read as they are; absent_label_id, tag_source and sha256 are ours.

An image's sha256 decides its part. So no image is in two parts under two names, and images stay in their part as a set
grows.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from schemas.printable import escaped
from schemas.text import first_fault
from tagstream_train.plan import Exact
from workers.errors import Misconfigured
from workers.models.files import CONTROLS, content_of

HEADER = "dataset.json"
LABELS = "tags.txt"
SAMPLES = "samples.jsonl"

MAX_LABELS = 100_000
MAX_LINE_BYTES = 1_000_000
"""The longest line of one sample: thousands of captions fit."""
_LEAST_LINE_BYTES = len('{"image_path":"a"}')
_MAX_HEADER_BYTES = 1024**2
_MAX_FILE_BYTES = 16 * 1024**2

FAIL_FAST = Field(fail_fast=True)
"""Of a list: its first fault is enough, and a million of them would take a gigabyte."""

LabelId: TypeAlias = Annotated[int, Field(ge=0, lt=MAX_LABELS)]
Ids: TypeAlias = Annotated[tuple[LabelId, ...], FAIL_FAST]
Origin: TypeAlias = Literal["given", "parsed", "generated", "person"]
"""Where a tag comes from: the data set's author, a caption, a model, a person who corrected it."""
Part: TypeAlias = Literal["train", "val", "test"]


class Sample(Exact, validate_by_name=True, validate_by_alias=True):
    """An image with its annotations."""

    image: str = Field(validation_alias="image_path", serialization_alias="image_path", min_length=1, max_length=4096)
    """A path below the data set's folder, or `s3://bucket/key`."""
    captions: Annotated[tuple[str, ...], FAIL_FAST] = Field(
        default=(), validation_alias="caption", serialization_alias="caption"
    )
    caption_tags: Annotated[tuple[Ids, ...], FAIL_FAST] = Field(
        default=(), validation_alias="parse_label_id", serialization_alias="parse_label_id"
    )
    """Label ids parsed from each caption; empty: not parsed yet."""
    tags: Ids = Field(default=(), validation_alias="union_label_id", serialization_alias="union_label_id")
    """Label ids that the image has, from all origins, ascending."""
    absent: Ids | None = Field(default=None, validation_alias="absent_label_id", serialization_alias="absent_label_id")
    """Label ids that it is known to lack; None: only `tags` are known."""
    origins: dict[LabelId, Origin] = Field(default={}, validation_alias="tag_source", serialization_alias="tag_source")
    """Known origins of tags, by label id."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """The hash of the image's bytes; splits and joins go by it."""
    part: Part | None = None
    """The author's part; None: its hash decides."""
    group: str | None = Field(default=None, min_length=1, max_length=1000)
    """A burst or a video: its images fall into one part; None: the image alone."""

    @model_validator(mode="after")
    def _fits(self) -> Sample:
        if self.caption_tags and len(self.caption_tags) != len(self.captions):
            raise ValueError(f"{len(self.caption_tags)} lists of parsed labels for {len(self.captions)} captions")
        if list(self.tags) != sorted(set(self.tags)):
            object.__setattr__(self, "tags", tuple(sorted(set(self.tags))))
        return self


def places(names: Sequence[str]) -> dict[str, int]:
    """Each name's first position."""
    return {name: place for place, name in reversed(list(enumerate(names)))}


def require_empty(folder: Path) -> None:
    """
    Raises:
        Misconfigured: the folder has something in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder} exists already; choose another folder, or remove it.")


_LATER: Final[Sequence[Part | None]] = (None, "train", "val", "test")


def joined(one: Sample, other: Sample) -> Sample:
    """Merge two samples of one image.

    A label that one sample has is not absent. The later of two parts wins, so images that measure don't teach.
    """
    tags = set(one.tags) | set(other.tags)
    absent = None
    if one.absent is not None or other.absent is not None:
        absent = tuple(sorted((set(one.absent or ()) | set(other.absent or ())) - tags))
    known = set(one.captions)
    new = [number for number, caption in enumerate(other.captions) if caption not in known]
    parsed = (*one.caption_tags, *(other.caption_tags[number] for number in new if other.caption_tags))
    captions = (*one.captions, *(other.captions[number] for number in new))
    return one.model_copy(
        update={
            "tags": tuple(sorted(tags)),
            "absent": absent,
            "captions": captions,
            "caption_tags": parsed if len(parsed) == len(captions) else (),
            "origins": {**other.origins, **one.origins},
            "part": max(one.part, other.part, key=_LATER.index),
            "group": one.group or other.group,
        }
    )


class Header(Exact):
    """dataset.json."""

    format: Literal["tagstream-dataset/1"] = "tagstream-dataset/1"
    name: str
    samples: int = Field(ge=0, le=10**12)
    labels: int = Field(ge=0, le=MAX_LABELS)
    steps: Annotated[tuple[str, ...], FAIL_FAST] = ()
    """Its history for people, oldest first: "parsed with …", "cleaned with …"."""
    parents: dict[str, str] = Field(default={})
    """Digests of its models and source sets by name."""


class DataSet:
    """An opened training set; its lines are read on demand."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            Misconfigured: the folder is no training set.
        """
        self.folder = folder
        try:
            self.header = Header.model_validate_json(_text(folder / HEADER, _MAX_HEADER_BYTES))
            self.labels: tuple[str, ...] = _names(_text(folder / LABELS, _MAX_FILE_BYTES))
            size = (folder / SAMPLES).stat().st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Misconfigured(
                f"{folder} is not a training set: it has no {Path(error.filename).name}. "
                "Make one with `tagstream train import`."
            ) from None
        except ValidationError as error:
            raise Misconfigured(f"{folder / HEADER} can't be read: {first_fault(error)}.") from None
        check_names(self.labels, f"{folder / LABELS}")
        if len(self.labels) != self.header.labels:
            raise Misconfigured(f"{folder / LABELS} has {len(self.labels)} names for {self.header.labels} labels.")
        if self.header.samples * _LEAST_LINE_BYTES > size:
            raise Misconfigured(f"{folder / SAMPLES} has {size:,} bytes, too few for {self.header.samples:,} samples.")

    def __len__(self) -> int:
        return self.header.samples

    def __iter__(self) -> Iterator[Sample]:
        """
        Raises:
            Misconfigured: a line can't be read, or names a label that does not exist; with its number.
        """
        for number, line in enumerate(bounded_lines(self.folder / SAMPLES), 1):
            yield self._sample(number, line)

    def lines(self) -> Lines:
        """The samples by number, with the lines' starts in memory.

        Raises:
            Misconfigured: another number of samples than in the header, or a line is too long.
        """
        path, ends = self.folder / SAMPLES, array("q", [0])
        for line in bounded_lines(path):
            ends.append(ends[-1] + len(line))
        if len(ends) - 1 != len(self):
            raise Misconfigured(f"{path} has {len(ends) - 1:,} lines for {len(self):,} samples.")
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if ends[-1] else b""

        def read(place: int) -> Sample:
            return self._sample(place + 1, content[ends[place] : ends[place + 1]])

        return Lines(read, np.arange(len(self)))

    def _sample(self, number: int, line: bytes) -> Sample:
        """Parse a line of samples.jsonl; `number` counts from 1."""
        where = f"{self.folder / SAMPLES}, line {number}"
        try:
            sample = Sample.model_validate_json(line)
        except ValidationError as error:
            raise Misconfigured(f"{where}: {first_fault(error)}.") from None
        for label in (*sample.tags, *(sample.absent or ()), *(i for ids in sample.caption_tags for i in ids)):
            if label >= len(self.labels):
                raise Misconfigured(f"{where}: label {label!r:.200}, and there are {len(self.labels)} labels (from 0).")
        return sample


def bounded_lines(path: Path) -> Iterator[bytes]:
    """A file's lines, with their ends.

    Raises:
        Misconfigured: a line is too long; with its number.
    """
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise Misconfigured(f"{path}, line {number}: more than {MAX_LINE_BYTES:,} bytes.")
            yield line


class Lines(Sequence[Sample]):
    """Samples by number, parsed on demand. Thread-safe.

    Args:
        numbers: of these samples, in order.
    """

    def __init__(self, read: Callable[[int], Sample], numbers: NDArray[np.int64]) -> None:
        self._read, self._numbers = read, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> Sample: ...
    @overload
    def __getitem__(self, number: slice) -> Lines: ...
    def __getitem__(self, number: int | slice) -> Sample | Lines:
        """
        Raises:
            Misconfigured: the line can't be read, as `DataSet.__iter__`.
        """
        if isinstance(number, slice):
            return Lines(self._read, self._numbers[number])
        return self._read(int(self._numbers[number]))


def is_name(label: str) -> bool:
    """Whether a label may have this name."""
    return bool(label) and not CONTROLS.search(label) and not _SURROGATES.search(label)


def check_names(labels: Iterable[str], where: str) -> None:
    """
    Raises:
        Misconfigured: a label can't be called so.
    """
    for label in labels:
        if not is_name(label):
            raise Misconfigured(
                f'{where}: a label is called "{escaped(label[:200])}": a name is text on one line, without control '
                "characters; rename it."
            )


_SURROGATES = re.compile("[\ud800-\udfff]")
"""Python's stand-ins for bytes of a file's name that are not UTF-8."""


def write_dataset(
    folder: Path,
    samples: Iterable[Sample],
    labels: Sequence[str],
    *,
    name: str,
    steps: Sequence[str] = (),
    parents: dict[str, str] | None = None,
) -> DataSet:
    """Write a set's lines, labels and header.

    The header comes last, so a half-written set does not open.

    Images are not touched. Labels, steps and parents are read after the last sample, so they can grow meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with _replacing(folder / SAMPLES) as lines:
        for sample in samples:
            document = sample.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            line = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            if len(line) > MAX_LINE_BYTES:
                raise Misconfigured(
                    f"{name}: captions and tags of {escaped(sample.image[:200])} take more than a line's "
                    f"{MAX_LINE_BYTES:,} bytes; leave some of them out."
                )
            lines.write(line)
            count += 1
    check_names(labels, name)
    with _replacing(folder / LABELS) as names:
        names.write("".join(f"{label}\n" for label in labels).encode())
    header = Header(name=name, samples=count, labels=len(labels), steps=tuple(steps), parents=parents or {})
    with _replacing(folder / HEADER) as file:
        file.write(header.model_dump_json(indent=1).encode() + b"\n")
    return DataSet(folder)


def write_again(
    source: DataSet,
    folder: Path,
    samples: Iterable[Sample],
    labels: Sequence[str],
    step: str,
    *,
    name: str | None = None,
    parents: Mapping[str, str] | None = None,
) -> DataSet:
    """Write a set that a step made from another, with its history."""
    header = source.header
    made_of = {**header.parents, **(parents or {})}
    return write_dataset(
        folder, samples, labels, name=name or header.name, steps=(*header.steps, step), parents=made_of
    )


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Context with a new file that replaces the old when complete."""
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _names(text: str) -> tuple[str, ...]:
    """The names of a list with one a line."""
    lines = text.replace("\r\n", "\n").removesuffix("\n")
    return tuple(lines.split("\n")) if lines else ()


def _text(path: Path, most: int) -> str:
    """A small file of the set.

    Raises:
        FileNotFoundError: no such file.
        Misconfigured: it is too large, or no UTF-8.
    """
    try:
        return content_of(path, most).decode()
    except UnicodeDecodeError:
        raise Misconfigured(f"{path} is not text in UTF-8.") from None


DEFAULT: Final[Mapping[str, float]] = {"train": 0.8, "val": 0.1, "test": 0.1}


def part_of(sha256: str, fractions: Mapping[str, float], *, salt: str = "") -> str:
    """The image's part, by its hash.

    Args:
        sha256: of the image's bytes in hex, or its group.
        fractions: by part; their sum is 1, and their order counts.
        salt: each salt gives another division.
    """
    digest = hashlib.sha256(f"{salt}:{sha256}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    end = 0.0
    for part, fraction in fractions.items():
        end += fraction
        if place < end:
            return part
    return next(reversed([part for part, fraction in fractions.items() if fraction > 0]))


def hash_of(sample: Sample) -> str:
    """A sample's sha256.

    Raises:
        Misconfigured: it has no sha256.
    """
    if sample.sha256 is None:
        raise Misconfigured(
            f"{sample.image} has no sha256, by which images are told apart: make the set with "
            "`tagstream train import`, which writes it."
        )
    return sample.sha256


def split(
    samples: DataSet | Iterable[Sample], fractions: Mapping[str, float] = DEFAULT, *, salt: str = ""
) -> dict[str, Sequence[Sample]]:
    """The samples of each part, in order, parsed on demand.

    A sample stays in its author's part, and is left out if `fractions` has no such part. A part that the author's files
    lack is taken from their training part, by hash.

    Raises:
        Misconfigured: the sum of fractions is not 1, a sample has no sha256, or a part is empty.
    """
    if min(fractions.values(), default=-1.0) < 0 or not abs(sum(fractions.values()) - 1) < 1e-6:  # NaN is refused too
        shown = ", ".join(f"{part} {fraction:g}" for part, fraction in fractions.items())
        raise Misconfigured(f"The parts of a data set must be 1 in all, none below 0: {shown or 'there are none'}.")
    source = samples.lines() if isinstance(samples, DataSet) else list(samples)
    found = [(each.part, part_of(each.group or hash_of(each), fractions, salt=salt)) for each in source]
    parts = {part: array("q") for part in fractions}
    stated = {part for part, _ in found}
    for number, (given, by_hash) in enumerate(found):
        chosen = by_hash if given is None or (given == "train" and by_hash not in stated) else given
        if chosen in parts:
            parts[chosen].append(number)
    for part, fraction in fractions.items():
        if fraction > 0 and not parts[part]:
            raise Misconfigured(
                f"None of {sum(map(len, parts.values())):,} images falls into the part {part!r} ({fraction:.0%}): "
                "it takes more images, or a larger part of them."
            )
    return {part: Lines(source.__getitem__, np.frombuffer(numbers, np.int64)) for part, numbers in parts.items()}
