"""Draws pictures for a review of a label: some show it, others have a score just below its threshold."""

from __future__ import annotations

import random
import re
import struct
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from schemas.stored_scores import PackedScores
from schemas.text import first_fault
from tagstream_index.database import Connection, limited
from tagstream_index.query import storable
from tagstream_index.review import Drawn, Review
from tagstream_index.searching import LIVE
from workers.errors import Misconfigured
from workers.types import SCORE_PAIR

NEAR: Final = 1 / 3
"""A score is just below a threshold from this part of it on."""
_BELOW: Final = 5
"""One in so many drawn pictures is just below."""
_LOOKED_AT: Final = 50_000
"""About so many pictures are searched for stored scores; of a larger index a random part."""

_LABEL: Final = "array[%(label)s::text]"
_SILENT: Final = f"""{LIVE} and not tags @> jsonb_build_array(
    jsonb_build_object('name', %(label)s::text, 'source', 'person')
) and not coalesce(corrections->'added' ? %(label)s or corrections->'removed' ? %(label)s, false)"""
"""SQL: no person said a word on the label."""
_SHOWN: Final = f"names @> {_LABEL} and {_SILENT}"
_SCORE: Final = "scores[array_position(names, %(label)s)]"
_DIGEST: Final = "provenance #>> '{models,tagger,digest}'"
_FACTS: Final = f"""
select count(*) over (), min({_SCORE}) over (), {_DIGEST}, tags from image where {_SHOWN}
order by last_modified desc limit 1
"""
_DRAW: Final = f"""
with banded as (
    select subject, score, ntile(4) over (order by score, subject) > 1 as far
    from (select subject, {_SCORE} as score from image where {_SHOWN}) shown
), placed as (
    select *, case when far then %(far)s else %(near)s end as quota, count(*) over (partition by far) as size,
        row_number() over (partition by far order by random()) as place
    from banded
)
select bucket, key, sha256, {_DIGEST}, score, least(1, quota::float8 / size)
from placed join image using (subject) where place <= quota
"""
"""Of the quarter with the lowest scores as many as of the rest."""
_STORED: Final = f"""
select bucket, key, sha256, {_DIGEST}, h.scores from image
join (select subject, scores from history tablesample system (%(percent)s)) h using (subject)
where substring(h.scores from 2 for 32) = %(tagger)s and position(%(id)s in h.scores) > 0
    and not names @> {_LABEL} and {_SILENT}
"""
_SIZE: Final = "select reltuples from pg_class where oid = 'history'::regclass"


def draw(connection: Connection, label: str, count: int) -> tuple[Review, str]:
    """Draw pictures; returns the review, and a sentence if none just below could be drawn.

    Args:
        count: most pictures.

    Raises:
        Misconfigured: no picture shows the label, or it is no name of a tag.
        Unavailable: the database is away, or takes too long.
    """
    with limited(connection), connection.transaction():
        values = {"label": storable(label)}
        row = connection.execute(_FACTS.encode(), values).fetchone()
        if row is None:
            raise Misconfigured(f"no picture of the index shows the tag {label!r}, or persons judged all that do")
        shown, least, tagger, tags = row
        label_id = next((tag.get("label_id") for tag in tags if tag["name"] == values["label"]), None)
        try:
            below, lacking = _below(connection, tagger, label_id, NEAR * least, values, count // _BELOW)
            near = min((count - len(below) + 1) // 2, (shown + 3) // 4)
            quotas = {"near": near, "far": count - len(below) - near}
            rows = connection.execute(_DRAW.encode(), values | quotas).fetchall()
            drawn = [*below, *(_drawn(*each, shows=True) for each in rows)]
            random.shuffle(drawn)
            return Review.of(label, shown, drawn), lacking
        except ValidationError as error:
            raise Misconfigured(f"the tag {label!r} can't be reviewed: {first_fault(error)}") from None


def _below(
    connection: Connection, tagger: str | None, label: object, least: float, values: dict[str, Any], count: int
) -> tuple[list[Drawn], str]:
    """Pictures that this tagger scored from `least` on without showing the tag."""
    if not _is_sha256(tagger) or not isinstance(label, int) or not 0 <= label < 2**32 or not count:
        return [], "the newest picture does not name its tagger: no picture just below the threshold is drawn"
    (size,) = connection.execute(_SIZE).fetchone() or (0,)
    part = min(1.0, _LOOKED_AT / max(size, 1))
    asked = {"percent": 100 * part, "tagger": bytes.fromhex(tagger or ""), "id": struct.pack("<I", label)}
    with connection.cursor("below") as rows:
        rows.execute(_STORED.encode(), values | asked)
        found = [(place, score) for *place, stored in rows if (score := _score(stored, label)) >= least]
    if not found:
        return [], "no picture has a stored score just below the threshold (TAGSTREAM_KEEP_SCORES): all show the tag"
    taken = random.sample(found, min(count, len(found)))
    chance = part * len(taken) / len(found)
    return [_drawn(*[*place, score, chance], shows=False) for place, score in taken], ""


def _drawn(bucket: str, key: str, sha256: str, model: str | None, score: float, chance: float, *, shows: bool) -> Drawn:
    model, score = model if _is_sha256(model) else None, round(score, 6)  # of the table's float32
    return Drawn(bucket=bucket, key=key, sha256=sha256, model=model, score=score, chance=chance, shows=shows)


def _score(stored: bytes, label: int) -> float:
    """The stored score of a label; negative: there is none."""
    try:
        pairs = np.frombuffer(PackedScores.decode(stored).pairs, SCORE_PAIR)
    except ValueError:
        return -1.0
    scores = pairs["score"][pairs["label"] == label]
    return float(scores[0]) if len(scores) and 0 <= scores[0] <= 1 else -1.0


def _is_sha256(digest: str | None) -> bool:
    return re.fullmatch("[0-9a-f]{64}", digest or "") is not None
