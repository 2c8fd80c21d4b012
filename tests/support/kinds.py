"""A small added kind, its model, and a way to give `kinds()` some without installed packages."""

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from schemas.result_kinds import GROUP, ResultKind, kinds
from workers.types import ImageAbout, Pixels, Transform


class Brightness(BaseModel):
    """How bright an image is, and its size and orientation."""

    model_config = ConfigDict(extra="forbid")

    mean: float
    text: str = Field(max_length=500_000)
    about: tuple[str, int, int, int | None]


class BrightnessKind(ResultKind):
    name = "brightness"
    result = Brightness
    bundle_kind = "test-brightness"

    def build(self, bundle: Any, device: Any, precision: Any) -> "BrightnessModel":
        return BrightnessModel()


class BrightnessModel:
    """Sees the mean; `poison` makes it raise, `nan` answer wrongly, `text` write this."""

    name = "bright"
    digest = "b" * 64
    precision = "fp32"
    transform = Transform(6)
    max_batch = 4
    random_weights = False

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.poison: tuple[int, int, int] | None = None
        self.nan = False
        self.text = ""

    def warm_up(self) -> None:
        return

    def self_test_image(self) -> Pixels:
        return np.full((6, 6, 3), 200, np.uint8)

    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> Sequence[Any]:
        if any(tuple(image[0, 0]) == self.poison for image in images):
            raise RuntimeError("too bright")
        self.batches.append(len(images))
        return list(zip([float(image.mean()) for image in images], about, strict=True))

    def postprocess(self, raw: Any) -> BaseModel:
        mean, about = raw
        text = self.text or ("bright" if mean > 127 else "dark")
        return Brightness(mean=float("nan") if self.nan else mean, text=text, about=tuple(about))


@contextmanager
def given_kinds(*given: Any) -> Iterator[None]:
    """Let `kinds()` find these classes, by their attribute `name`, and no others."""
    points = [importlib.metadata.EntryPoint(one.name, f"{one.__module__}:{one.__qualname__}", GROUP) for one in given]
    others = importlib.metadata.entry_points

    def entry_points(group: str) -> Any:
        return points if group == GROUP else others(group=group)

    with patch.object(importlib.metadata, "entry_points", entry_points):
        kinds.cache_clear()
        try:
            yield
        finally:
            kinds.cache_clear()
