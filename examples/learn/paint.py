"""Paint a scene, rough enough that shapes must be learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from examples.learn.scene import Scene, Thing

Points: TypeAlias = Sequence[tuple[float, float]]
Rgb: TypeAlias = tuple[int, int, int]
Grid: TypeAlias = NDArray[np.floating[Any]]

_FINE = 2
"""Shapes are drawn larger by this factor, for smooth edges."""
_RGB: Mapping[str, Rgb] = {
    "red": (205, 40, 40), "blue": (45, 75, 205), "green": (40, 150, 60), "yellow": (235, 215, 50),
    "purple": (140, 60, 170), "orange": (240, 140, 35), "black": (25, 25, 28), "white": (240, 240, 240),
}  # fmt: skip


def paint(scene: Scene, side: int, random: Random) -> Image.Image:
    """The image, RGB, side x side pixels."""
    noise = np.random.Generator(np.random.PCG64(random.getrandbits(64)))
    rows, columns = np.mgrid[0:side, 0:side] / side
    canvas = _BACKGROUNDS[scene.place](rows, columns, noise)
    for thing in scene.things:
        _put(canvas, thing, rows, columns, random)
    light = random.uniform(0.85, 1.1)
    rough = canvas * light + noise.normal(0, 7, canvas.shape)
    return Image.fromarray(rough.clip(0, 255).astype(np.uint8))


def _put(canvas: Grid, thing: Thing, rows: Grid, columns: Grid, random: Random) -> None:
    colour = np.array([value + random.uniform(-22, 22) for value in _RGB[thing.colour]])
    other = colour * 0.35 if colour.mean() > 90 else colour * 0.3 + 150
    pattern = _PATTERNS[thing.texture](rows, columns)[..., None]
    mask = _mask(thing, len(canvas))[..., None]
    edge = _mask(thing, len(canvas), 1.1)[..., None]
    canvas += edge * (canvas * 0.45 - canvas)  # a shadow, so that no thing is lost on a ground of its colour
    canvas += mask * (colour * (1 - pattern) + other * pattern - canvas)


def _mask(thing: Thing, side: int, scale: float = 1.0) -> Grid:
    """(side, side), 1 where the thing is."""
    image = Image.new("L", (side * _FINE, side * _FINE))
    draw = ImageDraw.Draw(image)
    for points, value in _OUTLINES[thing.shape]:
        draw.polygon([_placed(point, thing, side * _FINE, scale) for point in points], fill=value)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), dtype=np.float64) / 255


def _placed(point: tuple[float, float], thing: Thing, side: int, scale: float) -> tuple[float, float]:
    x, y = point
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    radius = thing.radius * scale
    return (thing.x + radius * (x * cos - y * sin)) * side, (thing.y + radius * (x * sin + y * cos)) * side


# ---- textures: 1 where the second colour is

_PATTERNS: Mapping[str, Callable[[Grid, Grid], Grid]] = {
    "": lambda rows, columns: np.zeros_like(rows),
    "striped": lambda rows, columns: ((rows + columns) * 13 % 1 < 0.5).astype(float),
    "dotted": lambda rows, columns: (np.hypot(rows * 15 % 1 - 0.5, columns * 15 % 1 - 0.5) < 0.33).astype(float),
    "checkered": lambda rows, columns: ((rows * 13 // 1 + columns * 13 // 1) % 2).astype(float),
}


# ---- grounds: (side, side, 3), 0 to 255


def _ground(colour: Rgb, change: Grid) -> Grid:
    return np.array(colour, dtype=np.float64) + change[..., None]


def _sky(rows: Grid, columns: Grid, noise: np.random.Generator) -> Grid:
    return _ground((130, 180, 235), rows * 70 + noise.normal(0, 2, rows.shape))


def _grass(rows: Grid, columns: Grid, noise: np.random.Generator) -> Grid:
    blades = np.repeat(noise.normal(0, 22, (len(rows) // 6 + 1, len(rows))), 6, axis=0)[: len(rows)]
    return _ground((85, 140, 60), blades)


def _sand(rows: Grid, columns: Grid, noise: np.random.Generator) -> Grid:
    return _ground((215, 190, 140), noise.normal(0, 14, rows.shape))


def _night(rows: Grid, columns: Grid, noise: np.random.Generator) -> Grid:
    return _ground((30, 32, 70), (noise.random(rows.shape) > 0.99) * 190.0)


def _wall(rows: Grid, columns: Grid, noise: np.random.Generator) -> Grid:
    shift = (rows * 8 // 1) % 2 * 0.5
    joints = ((rows * 8 % 1) < 0.12) | (((columns * 4 + shift) % 1) < 0.06)
    return _ground((165, 95, 80), joints * 60.0 + noise.normal(0, 5, rows.shape))


def _water(rows: Grid, columns: Grid, noise: np.random.Generator) -> Grid:
    waves = np.sin(rows * 60 + 3 * np.sin(columns * 12 + noise.random() * 6))
    return _ground((60, 125, 160), waves * 22)


_BACKGROUNDS = {"sky": _sky, "grass": _grass, "sand": _sand, "night": _night, "wall": _wall, "water": _water}


# ---- outlines: polygons within the unit circle, with 255 to fill and 0 to cut out


def _round(radius: float = 1.0, x: float = 0.0, y: float = 0.0, corners: int = 40) -> Points:
    turns = [2 * math.pi * number / corners - math.pi / 2 for number in range(corners)]
    return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]


def _star() -> Points:
    far, near = _round(corners=10), _round(0.42, corners=10)
    return [far[number] if number % 2 == 0 else near[number] for number in range(10)]


def _heart() -> Points:
    turns = [2 * math.pi * number / 40 for number in range(40)]
    return [
        (
            math.sin(turn) ** 3 * 0.95,
            -(13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn)) / 17,
        )
        for turn in turns
    ]


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


_OUTLINES: Mapping[str, Sequence[tuple[Points, int]]] = {
    "circle": [(_round(), 255)],
    "square": [(_box(-0.8, -0.8, 0.8, 0.8), 255)],
    "triangle": [(_round(corners=3), 255)],
    "star": [(_star(), 255)],
    "cross": [(_box(-0.3, -1, 0.3, 1), 255), (_box(-1, -0.3, 1, 0.3), 255)],
    "ring": [(_round(), 255), (_round(0.55), 0)],
    "heart": [(_heart(), 255)],
    "diamond": [([(0, -1), (0.6, 0), (0, 1), (-0.6, 0)], 255)],
    "moon": [(_round(), 255), (_round(0.85, 0.5, -0.1), 0)],
    "arrow": [([(-1, -0.25), (0.1, -0.25), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.25), (-1, 0.25)], 255)],
    "house": [
        (_box(-0.7, -0.15, 0.7, 0.9), 255),
        ([(-1, -0.15), (0, -1), (1, -0.15)], 255),
        (_box(-0.2, 0.3, 0.2, 0.9), 0),
    ],
    "tree": [(_round(0.65, 0, -0.35), 255), (_box(-0.18, 0.2, 0.18, 1), 255)],
}
