"""A review: drawn pictures of a label, people's verdicts on them, and the precision that these show.

The file's first line is a head. Each further line is a picture, in random order: `verdict` is null, `accepted` or
`rejected`, and any program may write it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from schemas.correction import CorrectionRecord, Sha256, correction
from schemas.printable import counted
from schemas.text import Bucket, Key, Moment, TagName, subject
from workers.assembly.choices import WRITING, Choice, Share, weighted
from workers.errors import Misconfigured
from workers.files import whole_file
from workers.retag.changes import Changed
from workers.retag.line_files import read_lines

SCHEMA: Final = "tagstream-review/1"
MOST: Final = 1_000
"""Pictures of one draw."""
_LINE_BYTES: Final = 16 * 1024
_CONFIG = ConfigDict(
    frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True, allow_inf_nan=False
)


class ReviewHead(BaseModel):
    """The first line.

    Args:
        shown: number of pictures that the draw stands for: the tagger shows the label, and no person said a word on it.
    """

    model_config = _CONFIG

    schema_name: Literal["tagstream-review/1"] = Field(default=SCHEMA, alias="schema")
    made_at: Moment
    label: TagName
    shown: int = Field(ge=1, lt=2**63)
    lines: int = Field(ge=1, le=MOST)


class Drawn(BaseModel):
    """A drawn picture.

    Args:
        chance: probability that the draw takes this picture, above 0.
        shows: whether the picture has the tag; false: its stored score is just below those that show it.
    """

    model_config = _CONFIG

    bucket: Bucket
    key: Key
    sha256: Sha256
    model: Sha256 | None
    score: float = Field(ge=0, le=1)
    chance: float = Field(gt=0, le=1)
    shows: bool
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
        """The share of accepted pictures that show the tag, its precision; None without a verdict.

        Args:
            shows: false: among those just below.
        """
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
