"""Random changes of training images: crop, flip, and two more.

They follow the papers. torchvision's RandAugment draws other operations and magnitudes. It uses the process's only
generator, so threads could not repeat a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageEnhance, ImageOps

_GREY = (128, 128, 128)
"""Fills the border that a shift or a turn leaves empty."""
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Augment:
    """RandomResizedCrop, horizontal flip, RandAugment.

    Args:
        scale: the crop's part of the image's area, from and to.
        ratio: its width by its height, from and to.
        operations: number of random `OPERATIONS`, with repetition.
        magnitude: their strength, 0 to 10.
        probability: of each chosen operation.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    operations: int = 2
    magnitude: float = 5
    probability: float = 0.5

    def __call__(self, image: Image.Image, side: int, random: Random) -> Image.Image:
        """Return a square of `side` pixels."""
        box = self._box(image.size, random)
        square = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
        if random.random() < self.flip:
            square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for _ in range(self.operations):
            operation = OPERATIONS[_NAMES[random.randrange(len(_NAMES))]]
            sign = 1 if random.random() < 0.5 else -1
            if random.random() < self.probability:
                square = operation(square, sign * self.magnitude / 10)
        return square

    def _box(self, size: tuple[int, int], random: Random) -> tuple[int, int, int, int]:
        """Draw the crop: left, top, right, bottom."""
        width, height = size
        for _ in range(_TRIES):
            area = width * height * random.uniform(*self.scale)
            ratio = math.exp(random.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < columns <= width and 0 < rows <= height:
                left, top = random.randint(0, width - columns), random.randint(0, height - rows)
                return left, top, left + columns, top + rows
        columns = max(1, min(width, round(height * self.ratio[1])))
        rows = max(1, min(height, round(width / self.ratio[0])))
        left, top = (width - columns) // 2, (height - rows) // 2
        return left, top, left + columns, top + rows


FLIP_ONLY = Augment(scale=(1.0, 1.0), operations=0)
"""For small sets of images that must stay as they are."""

Operation = Callable[[Image.Image, float], Image.Image]
"""An RGB image and how much, -1 to 1."""


def _affine(image: Image.Image, across: tuple[float, float, float], down: tuple[float, float, float]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (*across, *down), fillcolor=_GREY)


OPERATIONS: Mapping[str, Operation] = {
    "Identity": lambda image, _: image,
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Brightness": lambda image, much: ImageEnhance.Brightness(image).enhance(1 + 0.9 * much),
    "Sharpness": lambda image, much: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * much),
    "ShearX": lambda image, much: _affine(image, (1, 0.3 * much, 0), (0, 1, 0)),
    "ShearY": lambda image, much: _affine(image, (1, 0, 0), (0.3 * much, 1, 0)),
    "TranslateX": lambda image, much: _affine(image, (1, 0, 10 / 224 * image.width * much), (0, 1, 0)),
    "TranslateY": lambda image, much: _affine(image, (1, 0, 0), (0, 1, 10 / 224 * image.height * much)),
    "Rotate": lambda image, much: image.rotate(30 * much, fillcolor=_GREY),
}
_NAMES = tuple(OPERATIONS)
