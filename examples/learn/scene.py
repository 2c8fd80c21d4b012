"""Scenes: things with their looks, places and actions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, TypeAlias

SHAPES = (
    "circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond", "moon", "arrow", "house", "tree",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "black", "white")
TEXTURES = ("striped", "dotted", "checkered")
SIZES = ("small", "big")
PLACES = ("sky", "grass", "sand", "night", "wall", "water")
ACTIONS = ("touch", "cover", "surround")

LABELS = (*SHAPES, *COLOURS, *TEXTURES, *SIZES, *PLACES, *ACTIONS)
"""Everything that an image can be tagged with."""

Action: TypeAlias = Literal["touch", "cover", "surround"]

_SMALL, _MEDIUM, _BIG = 0.11, 0.17, 0.26
"""Radii, as parts of the image's side."""
_TRIES = 60
_GAP = 1.15
"""Between things that do not touch, over the sum of their radii."""


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    Places and radius are parts of the image's side, the angle is in radians.
    """

    shape: str
    colour: str
    texture: str
    """Empty: plain."""
    radius: float
    x: float = 0.5
    y: float = 0.5
    angle: float = 0.0

    @property
    def size(self) -> str:
        """`small`, `big`, or empty: neither."""
        return "small" if self.radius <= _SMALL else "big" if self.radius >= _BIG else ""


@dataclass(frozen=True)
class Scene:
    """An image before it is painted.

    Args:
        groups: each one thing, or some that are alike; later ones are painted over earlier ones.
        action: of the last group on the first.
        inside: the last group is inside the first.
    """

    place: str
    groups: tuple[tuple[Thing, ...], ...]
    action: Action | None = None
    inside: bool = False

    @property
    def things(self) -> tuple[Thing, ...]:
        return tuple(thing for group in self.groups for thing in group)

    @property
    def tags(self) -> frozenset[str]:
        """All labels that are true of it."""
        words = {word for each in self.things for word in (each.shape, each.colour, each.texture, each.size)}
        return frozenset(words | {self.place, self.action or ""}) - {""}


def is_held_out(thing: Thing) -> bool:
    """Whether this shape and colour are kept for the unseen test."""
    return (COLOURS.index(thing.colour) + 3 * SHAPES.index(thing.shape)) % len(COLOURS) == 0


def compose(random: Random, *, held_out: bool = False) -> Scene:
    """A scene at random.

    Args:
        held_out: with at least one held-out combination; else without.
    """
    while True:
        scene = random.choices(_LAYOUTS, _OFTEN)[0](random)
        if any(map(is_held_out, scene.things)) == held_out:
            return scene


def _thing(random: Random, *radii: float) -> Thing:
    return Thing(
        shape=random.choice(SHAPES),
        colour=random.choice(COLOURS),
        texture=random.choice((*TEXTURES, "", "", "", "")),
        radius=random.choice(radii or (_SMALL, _MEDIUM, _MEDIUM, _BIG)),
        angle=random.uniform(-0.3, 0.3),
    )


def _at(thing: Thing, x: float, y: float, random: Random | None = None) -> Thing:
    return replace(thing, x=x, y=y, angle=random.uniform(-0.3, 0.3) if random else thing.angle)


def _scattered(random: Random) -> Scene:
    """One to three groups of equal things, without overlap."""
    placed: list[Thing] = []
    groups = []
    for _ in range(random.choice((1, 2, 2, 3))):
        thing = _thing(random)
        copies = 1 if thing.size == "big" else random.choice((1, 1, 1, 2, 3))
        group = tuple(each for _ in range(copies) if (each := _free(random, thing, placed)) is not None)
        if group:
            groups.append(group)
    return Scene(random.choice(PLACES), tuple(groups))


def _free(random: Random, thing: Thing, placed: list[Thing]) -> Thing | None:
    """Place the thing in free space, and note it."""
    for _ in range(_TRIES):
        x, y = (random.uniform(thing.radius, 1 - thing.radius) for _ in range(2))
        if all(math.dist((x, y), (each.x, each.y)) > _GAP * (thing.radius + each.radius) for each in placed):
            placed.append(_at(thing, x, y, random))
            return placed[-1]
    return None


def _touching(random: Random) -> Scene:
    """Two things edge to edge."""
    return _pair(random, "touch", 0.92)


def _covering(random: Random) -> Scene:
    """One thing partly over another."""
    return _pair(random, "cover", 0.55)


def _pair(random: Random, action: Action, closeness: float) -> Scene:
    one, other = _thing(random, _MEDIUM, _BIG), _thing(random, _MEDIUM)
    angle = random.uniform(0, 2 * math.pi)
    apart = (one.radius + other.radius) * closeness / 2
    dx, dy = apart * math.cos(angle), apart * math.sin(angle)
    pair = ((_at(one, 0.5 - dx, 0.5 - dy),), (_at(other, 0.5 + dx, 0.5 + dy),))
    return Scene(random.choice(PLACES), pair, action)


def _surrounding(random: Random) -> Scene:
    """Five or six small things around one."""
    middle, around = _at(_thing(random, _MEDIUM), 0.5, 0.5), _thing(random, _SMALL)
    count, turn = random.choice((5, 6)), random.uniform(0, math.pi)
    angles = [turn + 2 * math.pi * number / count for number in range(count)]
    ring = tuple(_at(around, 0.5 + 0.36 * math.cos(a), 0.5 + 0.36 * math.sin(a), random) for a in angles)
    return Scene(random.choice(PLACES), ((middle,), ring), "surround")


def _inside(random: Random) -> Scene:
    """A small thing inside a big one of another colour."""
    outer, inner = _thing(random, _BIG), _thing(random, _SMALL)
    while inner.colour == outer.colour or outer.shape in ("ring", "moon", "cross", "arrow", "tree"):
        outer, inner = _thing(random, _BIG), _thing(random, _SMALL)
    x, y = (random.uniform(0.35, 0.65) for _ in range(2))
    return Scene(random.choice(PLACES), ((_at(outer, x, y),), (_at(inner, x, y),)), inside=True)


_LAYOUTS = (_scattered, _touching, _covering, _surrounding, _inside)
_OFTEN = (10, 3, 3, 3, 2)
