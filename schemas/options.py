"""The results that a producer may want."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .result_kinds import RoleName
from .text import Short, TagName

Want: TypeAlias = RoleName
OwnWant: TypeAlias = Literal["tags", "caption", "embedding"]
"""The results that need no added kind."""
WANTS: Final[tuple[OwnWant, ...]] = get_args(OwnWant)
WANT_MAX: Final = 16
"""Names in one event's `want`, at most."""


def _each_once(want: tuple[Want, ...]) -> tuple[Want, ...]:
    return tuple(sorted(set(want).intersection(WANTS), reverse=True)) + tuple(sorted(set(want).difference(WANTS)))


class Options(BaseModel):
    """What an event wants. `want` has no repeats and begins with tags, so equal wishes are equal values."""

    model_config = ConfigDict(frozen=True)

    # Lists are read up to their first fault: an error for each of a million items would take a gigabyte.
    want: Annotated[
        tuple[Want, ...], Field(min_length=1, max_length=WANT_MAX, fail_fast=True), AfterValidator(_each_once)
    ] = Field(default=("tags", "caption"), description="tags, caption, embedding, or names of added kinds.")
    guide_tags: tuple[TagName, ...] = Field(
        default=(),
        max_length=50,
        fail_fast=True,
        description="Tag names that steer the caption in the place of the image's own tags, "
        "without control characters and blanks at their ends; empty: its own.",
    )
    profile: Short | None = Field(default=None, description="The name of a threshold profile; null: the default one.")

    @property
    def own(self) -> tuple[Want, ...]:
        """The wanted results among `WANTS`: an outcome's `options.want`."""
        return tuple([name for name in self.want if name in WANTS])

    @property
    def results(self) -> tuple[Want, ...]:
        """The wanted results of added kinds: an outcome's `options.results`."""
        return tuple(sorted([name for name in self.want if name not in WANTS]))
