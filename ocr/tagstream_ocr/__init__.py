"""The text in pictures, as a kind of results: found by the entry point `tagstream.roles`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

MAX_CHARACTERS, MAX_LINES = 20_000, 200
"""Of one image's text."""

Corner: TypeAlias = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
"""x and y in pixels of the stored file."""


class WrittenLine(BaseModel):
    """One line of text, with its place."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    score: float = Field(ge=0, le=1)
    """Mean probability of its characters."""
    corners: tuple[Corner, Corner, Corner, Corner]
    """Where its text begins at the top, then clockwise as it is read."""


class WrittenText(BaseModel):
    """The text in one image: its lines in reading order, a line feed between two, without control characters."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(max_length=MAX_CHARACTERS)
    lines: tuple[WrittenLine, ...] = Field(max_length=MAX_LINES)
    truncated: bool = False
    """Whether the image has more text than this."""
