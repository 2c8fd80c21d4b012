"""The file of choices: a person's verdicts on changed images, for `tagstream retag go PLAN --only FILE`.

Its first line is a head. Each further line is an image: `verdict` is `accepted` or `rejected`, and any program may
write it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field

from schemas.correction import Sha256
from schemas.printable import counted
from workers.errors import Misconfigured
from workers.files import whole_file
from workers.retag.line_files import read_lines

SCHEMA: Final = "tagstream-choices/1"
MOST: Final = 100_000
"""Images of a file."""
_LINE_BYTES: Final = 16 * 1024
_Z: Final = 1.96
"""Quantile of the normal distribution for 95 %."""
WRITING: Final = threading.Lock()

Choice: TypeAlias = Literal["accepted", "rejected"]
CHOICES: Final[tuple[Choice, ...]] = get_args(Choice)
_CONFIG = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)


class ChoicesHead(BaseModel):
    """The first line; `plan`: the digest of the plan, or `ChangesHead.name` without one."""

    model_config = _CONFIG

    schema_name: Literal["tagstream-choices/1"] = Field(default=SCHEMA, alias="schema")
    plan: Sha256


class ImageChoice(BaseModel):
    """A further line."""

    model_config = _CONFIG

    subject: str
    verdict: Choice


class Choices(NamedTuple):
    """The verdicts by subject, on the changes of one plan."""

    plan: str
    verdicts: Mapping[str, Choice]

    @classmethod
    def read(cls, path: Path, plan: str) -> Choices:
        """Read a file.

        Raises Misconfigured: it can't be read, is of another plan or kind, or is damaged in this line.
        """
        otherwise = "is no file of choices: `tagstream index serve --choices` writes one"
        head, lines = read_lines(path, ChoicesHead, ImageChoice, _LINE_BYTES, otherwise)
        if head.plan != plan:
            raise Misconfigured(f"{path} has choices about another plan: judge the changes of this one")
        verdicts: dict[str, Choice] = {}
        with closing(lines):
            for where, each in lines:
                verdicts[each.subject] = each.verdict
                if len(verdicts) > MOST:
                    raise Misconfigured(f"{where}: a file has at most {MOST:,} choices")
        return cls(plan, verdicts)

    def write(self, path: Path) -> None:
        """Write the file as a whole or not at all. Raises Misconfigured: it can't be written."""
        lines = [ImageChoice(subject=subject, verdict=verdict) for subject, verdict in self.verdicts.items()]
        with whole_file(path) as file:
            file.writelines(each.model_dump_json().encode() + b"\n" for each in (ChoicesHead(plan=self.plan), *lines))

    def share(self) -> Share | None:
        """The share of accepted images; None without a verdict."""
        judged = [(1.0, verdict == "accepted") for verdict in self.verdicts.values()]
        return Share(*weighted(judged), len(judged), len(judged)) if judged else None

    def lines(self, images: int) -> Iterator[str]:
        """The numbers for people."""
        said, seen = self.document(images), self.share()
        yield f"{said['accepted']:,} accepted, {said['rejected']:,} rejected, {said['undecided']:,} undecided"
        if seen is not None:
            yield f"precision {seen.share:.1%} ({seen.low:.1%} to {seen.high:.1%}) by {counted(seen.judged, 'verdict')}"

    def document(self, images: int) -> dict[str, Any]:
        """The numbers as JSON values; takes what `lines` takes."""
        judged, seen = len(self.verdicts), self.share()
        accepted = sum(verdict == "accepted" for verdict in self.verdicts.values())
        numbers = {"accepted": accepted, "rejected": judged - accepted, "undecided": max(0, images - judged)}
        return {**numbers, "precision": None if seen is None else seen._asdict()}


class Share(NamedTuple):
    """The accepted share, its 95 % interval, and the numbers behind it."""

    share: float
    low: float
    high: float
    judged: int
    drawn: int


def weighted(judged: Sequence[tuple[float, bool]]) -> tuple[float, float, float]:
    """The share of accepted pictures, and its 95 % interval.

    Each picture counts by the inverse of its chance, as a ratio (Hájek 1971). The interval is Wilson's for the
    effective number of pictures (Kish 1965), which Franco, Little, Louis and Slud (2019) recommend.
    """
    rarest = min(chance for chance, _ in judged)
    weights = [rarest / chance for chance, _ in judged]  # up to 1: no square overflows
    total = math.fsum(weights)
    share = math.fsum(weight for weight, (_, accepted) in zip(weights, judged, strict=True) if accepted) / total
    number = total**2 / math.fsum(weight**2 for weight in weights)
    centre = (share + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
    half = _Z / (1 + _Z**2 / number) * math.sqrt(share * (1 - share) / number + _Z**2 / (4 * number**2))
    return share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def choose(path: Path, plan: str, verdicts: Mapping[str, Choice]) -> Choices:
    """Add verdicts to a file, which need not exist; returns all. Raises as `Choices.read` and `write`."""
    with WRITING:
        known = Choices.read(path, plan).verdicts if path.exists() else {}
        made = Choices(plan, {**known, **verdicts})
        if len(made.verdicts) > MOST:
            raise Misconfigured(f"{path} has {MOST:,} choices: carry out its plan, and make a new one")
        if verdicts:
            made.write(path)
        return made
