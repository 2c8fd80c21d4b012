"""A review: drawn pictures of a label, people's verdicts on them, and the precision that these show.

The file's first line is a head. Each further line is a picture, in random order: `verdict` is null, `accepted` or
`rejected`, and any program may write it.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.correction import CorrectionRecord, Sha256, correction
from schemas.printable import counted
from schemas.stored_scores import PackedScores
from schemas.text import Bucket, Key, Moment, TagName, first_fault, subject
from tagstream_index.database import Connection, limited
from tagstream_index.query import storable
from tagstream_index.searching import LIVE
from workers.assembly.choices import WRITING, Choice, Share, weighted
from workers.errors import Misconfigured
from workers.files import whole_file
from workers.retag.changes import Changed
from workers.retag.line_files import read_lines
from workers.types import SCORE_PAIR

SCHEMA: Final = "tagstream-review/1"
MOST: Final = 1_000
"""Pictures of one draw."""
_LINE_BYTES: Final = 16 * 1024
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

_CONFIG = ConfigDict(
    frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True, allow_inf_nan=False
)


class ReviewHead(BaseModel):
    """The first line. The draw stands for pictures that show the label, on which no person said a word."""

    model_config = _CONFIG

    schema_name: Literal["tagstream-review/1"] = Field(default=SCHEMA, alias="schema")
    made_at: Moment
    label: TagName
    shown: int = Field(ge=1, lt=2**63)
    lines: int = Field(ge=1, le=MOST)


class Drawn(BaseModel):
    """A drawn picture."""

    model_config = _CONFIG

    bucket: Bucket
    key: Key
    sha256: Sha256
    model: Sha256 | None
    score: float = Field(ge=0, le=1)
    chance: float = Field(gt=0, le=1)
    """Probability that the draw takes this picture."""
    shows: bool
    """Whether the picture has the tag; false: its stored score is just below those that show it."""
    verdict: Choice | None = None

    @property
    def subject(self) -> str:
        return subject(self.bucket, self.key)

    def changed(self, label: str, names: Sequence[str]) -> Changed:
        """The picture's tags before and after the verdict."""
        after = [name for name in names if name != label or self.verdict != "rejected"]
        return Changed.between(self.subject, names, [label, *after] if self.verdict == "accepted" else after)


class Review(NamedTuple):
    """A draw with its verdicts."""

    head: ReviewHead
    drawn: Sequence[Drawn]

    @classmethod
    def of(cls, label: str, shown: int, drawn: Sequence[Drawn]) -> Review:
        """A new review. Raises ValidationError: it could not be read again."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return cls(ReviewHead(made_at=now, label=label, shown=shown, lines=len(drawn)), drawn)

    @classmethod
    def read(cls, path: Path) -> Review:
        """Read a file. Raises Misconfigured: it can't be read, is of another kind, or is damaged in this line."""
        otherwise = "is no file of `tagstream index review LABEL`"
        head, lines = read_lines(path, ReviewHead, Drawn, _LINE_BYTES, otherwise)
        drawn: dict[str, Drawn] = {}
        with closing(lines):
            for where, each in lines:
                if each.subject in drawn or len(drawn) == head.lines:
                    raise Misconfigured(f"{where}: this picture comes twice, or the draw has only {head.lines:,}")
                drawn[each.subject] = each
        if len(drawn) < head.lines:
            raise Misconfigured(f"{path}: {head.lines:,} pictures were drawn, and it has {len(drawn):,}")
        return cls(head, [*drawn.values()])

    def write(self, path: Path) -> None:
        """Write the file as a whole or not at all. Raises Misconfigured: it can't be written."""
        with whole_file(path) as file:
            file.writelines(each.model_dump_json().encode() + b"\n" for each in (self.head, *self.drawn))

    def share(self, *, shows: bool = True) -> Share | None:
        """The share of accepted pictures, the tag's precision; None without a verdict. Else of those just below."""
        among = [each for each in self.drawn if each.shows == shows]
        judged = [(each.chance, each.verdict == "accepted") for each in among if each.verdict is not None]
        return Share(*weighted(judged), len(judged), len(among)) if judged else None

    def corrections(self, *, accepted: bool) -> Iterator[CorrectionRecord]:
        """The corrections of rejected pictures, with `accepted` of accepted ones too."""
        for each in self.drawn:
            if each.verdict == "rejected" or (accepted and each.verdict == "accepted"):
                added, removed = ([self.head.label], []) if each.verdict == "accepted" else ([], [self.head.label])
                facts = {"sha256": each.sha256, "model": each.model}
                yield correction(each.bucket, each.key, added=added, removed=removed, **facts)


def judge(path: Path, made_at: str, verdicts: Mapping[int, Choice]) -> bool:
    """Write verdicts into a file, by place in the draw; false: it has another draw by now. Raises as `Review.read`."""
    with WRITING:
        head, drawn = Review.read(path)
        if head.made_at == made_at:
            said = [verdicts.get(place, each.verdict) for place, each in enumerate(drawn)]
            judged = [each.model_copy(update={"verdict": verdict}) for each, verdict in zip(drawn, said, strict=True)]
            Review(head, judged).write(path)
        return head.made_at == made_at


def lines(review: Review) -> Iterator[str]:
    """The result for people."""
    label, shown, below = review.head.label, review.share(), review.share(shows=False)
    if shown is None:
        yield f"{label}: no verdict yet on {counted(sum(each.shows for each in review.drawn), 'drawn picture')} of it"
    else:
        yield (
            f"{label}: precision {shown.share:.1%} ({shown.low:.1%} to {shown.high:.1%}) of "
            f"{counted(review.head.shown, 'picture')}, by {counted(shown.judged, 'verdict')} on {shown.drawn:,} drawn"
        )
    if below is not None:
        yield (
            f"just below, from score {min(each.score for each in review.drawn if not each.shows):.2f} on: "
            f"{below.share:.1%} ({below.low:.1%} to {below.high:.1%}) have it, by {counted(below.judged, 'verdict')}"
        )


def document(review: Review) -> dict[str, Any]:
    """The result as JSON values."""
    shares = {"precision": review.share(), "below": review.share(shows=False)}
    said = {name: None if each is None else each._asdict() for name, each in shares.items()}
    return {"label": review.head.label, "shown": review.head.shown, **said}


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
