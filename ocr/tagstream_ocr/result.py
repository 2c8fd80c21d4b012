"""The text in one image, as outcomes publish it."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

MAX_CHARACTERS = 20_000
"""Of one image's text."""
MAX_LINES = 200

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
    """The text in one image."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(max_length=MAX_CHARACTERS)
    """All lines in reading order, a line feed between two. Without control characters and bidirectional overrides."""
    lines: tuple[WrittenLine, ...] = Field(max_length=MAX_LINES)
    """In reading order."""
    truncated: bool = False
    """Whether the image has more text than this."""
