"""Collect a training set from the enriched topic and corrections.

A SQLite file in the set's folder holds the newest event of each subject, and the next offset of each partition. So
memory does not grow with the set, an interrupted run resumes, and a later run adds new images.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from schemas.correction import Corrections
from schemas.enriched_image import EnrichedImage, Retraction, Skip, read_output, version_key
from schemas.text import Headers
from schemas.version import order, told_version
from tagstream_train.data.images import name_of
from tagstream_train.data.samples import MAX_LABELS, Origin, Sample, is_name, places
from workers.errors import Misconfigured
from workers.types import Partition

_MOST_TAGS = 10_000
_MOST_UNKNOWN = 1_000
"""Names that are counted one by one: any producer can write new ones without end."""
_MOST_CHARACTERS = 20_000
"""Characters of a caption. A line of the set has room for these and the tags, escaped."""
_TABLES = """
CREATE TABLE IF NOT EXISTS read (topic TEXT, number INTEGER, next INTEGER, PRIMARY KEY (topic, number)) STRICT;
CREATE TABLE IF NOT EXISTS newest (
    key BLOB PRIMARY KEY,  -- the record's
    version INTEGER, published INTEGER, produced_at INTEGER, gone INTEGER,  -- schemas.version.Order
    made_of BLOB,  -- the key of a removal of the image's own version
    document BLOB  -- the enriched event; NULL: the image, or the version, is gone
) STRICT, WITHOUT ROWID;
"""
_KEEP_NEWEST = """
INSERT INTO newest VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    version = excluded.version, published = excluded.published, produced_at = excluded.produced_at,
    gone = excluded.gone, made_of = excluded.made_of, document = excluded.document
WHERE (excluded.version, excluded.published, excluded.produced_at, excluded.gone)
    > (newest.version, newest.published, newest.produced_at, newest.gone)
"""
_SHOWN = """
FROM newest AS image WHERE document IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM newest AS removal WHERE removal.key = image.made_of
    AND (removal.version, removal.published, removal.produced_at, removal.gone)
        > (image.version, image.published, image.produced_at, image.gone)
)
"""


class Collection:
    """Newest event of each subject of the enriched topic."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            Misconfigured: the file has another form, or can't be written.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=1.0)
            self._db.executescript(_TABLES)
        except (OSError, sqlite3.Error) as error:
            raise Misconfigured(f"{path} can't be used ({error}); remove it to collect anew.") from None

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """
        Raises:
            Misconfigured: the file is damaged, or can't be written.
        """
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise Misconfigured(f"{self._path} can't be used ({error}); remove it to collect anew.") from error

    def positions(self, topic: str) -> dict[Partition, int]:
        """The next offset of each partition."""
        rows = self._db.execute("SELECT number, next FROM read WHERE topic = ?", (topic,))
        return {Partition(topic, number): offset for number, offset in rows}

    def take(self, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> None:
        """Add one record; `commit` makes it durable.

        Raises:
            ValueError: it is no outcome, or does not fit into a set.
        """
        if value is None:  # the retraction that it followed may have been compacted away
            if key is None or (version := told_version(headers)) is None:
                raise ValueError("a null value without the key and the version of an image")
            self._db.execute(_KEEP_NEWEST, (key, version, True, 0, True, None, None))
            return
        output = read_output(value)
        if isinstance(output, EnrichedImage):
            _require_fit(output)
            source = output.source
            made_of = version_key(source.bucket, source.key, source.version_id or "null")
            self._db.execute(_KEEP_NEWEST, (output.message_key, *order(output), made_of, value))
        elif isinstance(output, Retraction):
            self._db.execute(_KEEP_NEWEST, (output.message_key, *order(output), None, None))
        else:
            assert isinstance(output, Skip)

    def commit(self, positions: Mapping[Partition, int]) -> None:
        """Store the added records with the next offsets, in one transaction."""
        self._db.executemany(
            "INSERT OR REPLACE INTO read VALUES (?, ?, ?)",
            [(partition.topic, partition.number, offset) for partition, offset in positions.items()],
        )
        self._db.commit()

    def images(self) -> Iterator[EnrichedImage]:
        """Newest events of all present subjects, by subject."""
        for (document,) in self._db.execute(f"SELECT document {_SHOWN} ORDER BY key"):
            found = read_output(document)
            assert isinstance(found, EnrichedImage)
            yield found

    def __len__(self) -> int:
        (count,) = self._db.execute(f"SELECT count(*) {_SHOWN}").fetchone()
        return int(count)


def _require_fit(image: EnrichedImage) -> None:
    """
    Raises:
        ValueError: why an event does not fit into a set.
    """
    if len(image.tags) > _MOST_TAGS:
        raise ValueError(f"more than {_MOST_TAGS:,} tags")
    if not all(is_name(tag.name) for tag in image.tags):
        raise ValueError("a tag with an empty name or control characters")
    if image.caption is not None and len(image.caption.text) > _MOST_CHARACTERS:
        raise ValueError(f"a caption of more than {_MOST_CHARACTERS:,} characters")


class CollectedLabels:
    """Label names of a set, given or in order of appearance."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self._growing = names is None
        self._ids = places(names or ())
        self.names = list(names or ())
        self.unknown: Counter[str] = Counter()
        """Counts of names that the given list lacks; from the thousandth name on under `others`."""

    def id_of(self, name: str) -> int | None:
        if name not in self._ids and self._growing:
            if len(self.names) == MAX_LABELS:
                raise Misconfigured(f"more than {MAX_LABELS:,} different tags; give those to keep with --labels.")
            self._ids[name] = len(self.names)
            self.names.append(name)
        elif name not in self._ids:
            self.unknown[name if name in self.unknown or len(self.unknown) < _MOST_UNKNOWN else "others"] += 1
        return self._ids.get(name)


def sample_of(image: EnrichedImage, labels: CollectedLabels, corrections: Corrections | None = None) -> Sample:
    """Convert an enriched image, with people's corrections, to a sample.

    With `corrections`, persons' tags come from them alone: a person can have withdrawn a tag of the event.
    """
    origins: dict[int, Origin] = {}
    for tag in image.tags:
        if tag.source == "person" and corrections is not None:
            continue
        if (label := labels.id_of(tag.name)) is not None:
            origins[label] = tag.source or "generated"
    absent: set[int] = set()
    source, read = image.source, image.source.read or image.source
    since = None if source.read is None else source.last_modified
    word = corrections.on(image.subject, source.sha256, source.etag, since) if corrections is not None else None
    if word is not None:
        origins |= {label: "person" for name in word.added if (label := labels.id_of(name)) is not None}
        absent = {label for name in word.removed if (label := labels.id_of(name)) is not None}
        origins = {label: origin for label, origin in origins.items() if label not in absent}
    return Sample(
        image=name_of(read.bucket, read.key),
        captions=(image.caption.text,) if image.caption is not None else (),
        tags=tuple(sorted(origins)),
        absent=tuple(sorted(absent)) if absent else None,
        origins=origins,
        sha256=source.sha256,
    )
