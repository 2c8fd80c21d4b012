"""Outcomes as the worker publishes them, the expected content of an index, and the content of the tables."""

import base64
import hashlib
import random
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import confluent_kafka
import numpy as np
import orjson
from pydantic import BaseModel

from schemas.enriched_image import version_key
from schemas.result_kinds import ResultKind
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER, StoredEmbedding
from schemas.text import Headers
from schemas.version import microseconds
from tagstream_index.database import Connection, connected, init
from tagstream_index.merge import STAGING, Spaces, merge, serialise_versions
from tagstream_index.outcomes import Row, read_row
from tagstream_index.settings import IndexSettings
from tagstream_testing.local.postgresql import PostgreSQL
from workers.settings import SecretUrl

BUCKET = "photos"
MODEL = "a" * 64
THUMBHASH = bytes(range(25))
FACTS = {
    "taken_at": "2025-06-01T10:00:00-03:30",
    "orientation": 6,
    "phash": "f" * 15 + "e",
    "thumbhash": base64.b64encode(THUMBHASH).decode(),
    "place": {"latitude": -33.5, "longitude": 151.25},
}


@dataclass(frozen=True)
class Said:
    fields: dict[str, Any]
    headers: Headers = ()

    @property
    def value(self) -> bytes:
        return orjson.dumps(self.fields)

    @property
    def key(self) -> bytes:
        if self.fields.get("scope") == "version":
            return version_key(BUCKET, self.fields["source"]["key"], self.version_id or "")
        return str(self.fields["subject"]).encode()

    @property
    def subject(self) -> str:
        return str(self.fields["subject"])

    @property
    def version_id(self) -> str | None:
        return self.fields["source"]["version_id"]  # type: ignore[no-any-return]

    @property
    def gone(self) -> bool:
        return bool(self.fields["schema"] == "image-retraction/1")

    @property
    def of_version(self) -> bool:
        return self.fields.get("scope") == "version"

    @property
    def order(self) -> tuple[int, int, bool]:
        return int(self.fields["version"]), microseconds(self.fields["produced_at"]) or 0, self.gone

    def but(self, **fields: Any) -> "Said":
        return Said({**self.fields, **fields}, self.headers)

    def with_facts(self, **facts: Any) -> "Said":
        return self.but(image={**self.fields["image"], **facts})

    def row(self) -> Row:
        return read_row(self.value, self.headers)


def vector_of(seed: int, dimensions: int = 8) -> bytes:
    """An embedding's numbers: float16 of length 1."""
    numbers = np.random.default_rng(seed).normal(size=dimensions)
    return (numbers / np.linalg.norm(numbers)).astype("<f2").tobytes()


def _event() -> dict[str, Any]:
    return {"id": "e", "dialect": "own", "time": None, "topic": "images", "partition": 0, "offset": 1, "index": 0}


def enriched(
    key: str,
    version: int | None = 1,
    *,
    produced_at: str = "2026-01-01T00:00:00Z",
    version_id: str | None = None,
    tags: Sequence[tuple[str, float]] = (("dog", 0.75), ("red car", 0.5)),
    caption: str = "a dog beside a red car",
    last_modified: str = "2026-01-01T00:00:00Z",
    vector: bytes | None = None,
    space: str = "clip-vit-b-16",
    in_header: bool = False,
    scores: bytes | None = None,
    **others: Any,
) -> Said:
    fields: dict[str, Any] = {
        "schema": "enriched-image/1",
        "id": hashlib.sha256(f"{key} {version} {produced_at}".encode()).hexdigest(),
        "subject": f"{BUCKET}/{key}",
        "status": "complete",
        "reason": None,
        "event": _event(),
        "source": {
            "bucket": BUCKET,
            "key": key,
            "version_id": version_id,
            "etag": "e",
            "sequencer": None,
            "last_modified": last_modified,
            "sha256": "b" * 64,
        },
        "image": {"format": "jpeg", "width": 640, "height": 480, "bytes": 1234},
        "tags": [{"name": name, "score": score, "label_id": place} for place, (name, score) in enumerate(tags)],
        "caption": {"text": caption, "score": None, "method": "template", "guided_by": []},
        "models": {"tagger": None, "captioner": None},
        "thresholds": {"profile": "default", "digest": "t"},
        "timings_ms": {"total": 1.5},
        "produced_at": produced_at,
        "cache": {"source": None, "tags": None, "caption": None},
        **others,
    }
    if version is not None:
        fields["version"] = version
    headers: list[tuple[str, bytes | None]] = [] if scores is None else [(SCORES_HEADER, scores)]
    if vector is not None and in_header:
        headers.append((EMBEDDING_HEADER, StoredEmbedding(MODEL, space, vector).encode()))
    elif vector is not None:
        shown = {"space": space, "dimensions": len(vector) // 2, "dtype": "float16", "normalised": True, "model": MODEL}
        fields["embedding"] = {**shown, "data": base64.b64encode(vector).decode()}
    return Said(fields, tuple(headers))


def photo(key: str, *names: str, caption: str = "", score: float = 0.75, day: int = 1, **others: Any) -> Said:
    """An image with these tags, stored on a day of January 2026."""
    moment = f"2026-01-{day:02d}T00:00:00Z"
    return enriched(key, tags=[(name, score) for name in names], caption=caption, last_modified=moment, **others)


def picture(
    key: str, phash: int | None = None, *, size: int = 100, content: str = "", day: int = 1, **facts: Any
) -> Said:
    """A square image, stored on a day of January 2026; its content is its own unless it is named."""
    said = enriched(key, last_modified=f"2026-01-{day:02d}T00:00:00Z")
    shown = facts if phash is None else facts | {"phash": f"{phash:016x}"}
    sha256 = (content or key).encode().hex().ljust(64, "0")
    said = said.but(source={**said.fields["source"], "sha256": sha256})
    return said.with_facts(width=size, height=size, bytes=size * 10, **shown)


def retraction(
    key: str, version: int | None = 1, *, produced_at: str = "2026-01-01T00:00:00Z", version_id: str | None = None
) -> Said:
    """Of an object, or with `version_id` of that version alone."""
    fields = {
        "schema": "image-retraction/1",
        "subject": f"{BUCKET}/{key}",
        "scope": "object" if version_id is None else "version",
        "event": _event(),
        "source": {"bucket": BUCKET, "key": key, "version_id": version_id, "sequencer": None},
        "produced_at": produced_at,
    }
    return Said(fields if version is None else {**fields, "version": version})


def written(connection: Connection, *told: Said) -> None:
    """Merge these outcomes into the tables."""
    rows = [each.row() for each in told]
    spaces = Spaces(connection)
    spaces.meet(rows)
    spaces.wider.meet(rows)
    with connection.transaction():
        serialise_versions(connection, rows)
        merge(connection, rows, spaces.known)


def lost_and_kept(servers: str, topic: str) -> None:
    """Publish the outcome `lost` in a transaction that is aborted, then `kept` in one that is committed."""
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "transactional.id": topic})
    producer.init_transactions(20)
    for key, end in (("lost", producer.abort_transaction), ("kept", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, enriched(key, 1).value, key)
        producer.flush(20)
        end(20)


def story(
    rng: random.Random, subjects: int, length: int, *, every: int = 4, dimensions: int = 8, repeats: int = 3
) -> list[Said]:
    """Outcomes of some subjects in any order: overwrites, retags, removals of objects and versions, repeats."""
    told: list[Said] = []
    for number in range(subjects):
        key = f"folder/{number:05d}.jpg"
        for step in range(1, rng.randint(1, length) + 1):
            produced_at = f"2026-01-01T00:{rng.randint(0, 59):02d}:00Z"
            version = rng.randint(1, 2 * length)
            version_id = rng.choice([None, None, f"v{step}", "v1"])
            kind = rng.random()
            if kind < 0.15:
                told.append(retraction(key, version, produced_at=produced_at))
            elif kind < 0.3:
                told.append(retraction(key, version, produced_at=produced_at, version_id=f"v{rng.randint(1, step)}"))
            else:
                # the same version and time are the same outcome: content follows from both
                seed = zlib.crc32(f"{key} {version} {produced_at}".encode()) % 1000
                vector = vector_of(seed % 3, dimensions) if seed % every == 0 else None
                caption = f"caption {version} {produced_at} {version_id}"
                said = enriched(
                    key,
                    version,
                    produced_at=produced_at,
                    version_id=version_id,
                    caption=caption,
                    vector=vector,
                    in_header=bool(seed % 2),
                )
                told.append(said.with_facts(**FACTS) if seed % 3 else said)
    first: dict[object, Said] = {}
    unique = [first.setdefault((each.subject, each.of_version, each.order), each) for each in told]
    told = unique + rng.choices(unique, k=len(unique) // repeats)
    rng.shuffle(told)
    return told


def expected(told: Iterable[Said]) -> dict[str, tuple[Any, ...]]:
    """The expected content of an index: version, whether it is gone, caption and embedding by subject."""
    told = list(told)
    voided: dict[tuple[str, str | None], tuple[int, int]] = {}
    for each in told:
        if each.of_version:
            place = each.subject, each.version_id
            voided[place] = max(voided.get(place, (0, 0)), each.order[:2])
    newest: dict[str, Said] = {}
    for each in told:
        if not each.of_version and (each.subject not in newest or each.order > newest[each.subject].order):
            newest[each.subject] = each
    return {
        subject: _held(each, gone=each.gone or voided.get((subject, each.version_id), (-1, 0)) >= each.order[:2])
        for subject, each in newest.items()
    }


def _held(said: Said, *, gone: bool) -> tuple[Any, ...]:
    if gone:
        return (*said.order[:2], True, None, None)
    vector = said.row().vector
    return (*said.order[:2], False, said.fields["caption"]["text"], None if vector is None else vector.data)


def held(connection: Connection) -> dict[str, tuple[Any, ...]]:
    """The tables' content, in the form of `expected`."""
    vectors: dict[str, bytes] = {}
    for (number,) in connection.execute("select number from space").fetchall():
        found = connection.execute(f"select subject, vector from embedding_{number}".encode())
        vectors |= {subject: vector.to_numpy().astype("<f2").tobytes() for subject, vector in found}
    rows = connection.execute("select subject, version, produced_at, gone, caption from image").fetchall()
    assert vectors.keys() <= {subject for subject, *_ in rows}
    return {subject: (*rest, vectors.get(subject)) for subject, *rest in rows}


class Sign(ResultKind):
    """The words on a sign, and where its corners are. It believes what a record says."""

    name = "sign"
    result = BaseModel
    bundle_kind = "sign"
    template = """
        {% for x, y in result.corners %}
        <circle cx="{{ x }}" cy="{{ y }}" r="9"><title>{{ result.text }}</title></circle>
        {% endfor %}
    """

    def rows(self, result: dict[str, Any]) -> Sequence[tuple[str, str]]:
        return [("writing", result["text"].upper())]

    def build(self, bundle: Any, device: Any, precision: Any) -> Any:
        raise NotImplementedError


def results(**values: Any) -> dict[str, Any]:
    """The field `results` of an outcome."""
    model = {"name": "small", "digest": "e" * 64, "precision": "fp32", "random_weights": False}
    return {name: {"model": model, "cache": None, "value": value} for name, value in values.items()}


def settings_of(server: PostgreSQL, schema: str, **others: Any) -> IndexSettings:
    return IndexSettings(index_dsn=SecretUrl(server.dsn), index_schema=schema, **others)


def with_tables(settings: IndexSettings, language: str | None = None) -> Connection:
    """A connection to new tables, ready to merge."""
    with closing(connected(settings, made=False)) as first:
        init(first, settings.index_schema, language)
    connection = connected(settings)
    connection.execute(STAGING)
    return connection
