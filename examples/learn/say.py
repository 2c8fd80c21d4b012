"""Captions of a scene: true ones, and noisy ones as online."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from examples.learn.scene import COLOURS, PLACES, SHAPES, Scene, Thing

_COUNTS = {1: "a", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_WHERE = {
    "sky": ("in the sky", "against the sky"),
    "grass": ("on the grass", "in the grass"),
    "sand": ("on the sand", "in the sand"),
    "night": ("at night", "during the night"),
    "wall": ("on a wall", "in front of a wall"),
    "water": ("in the water", "on the water"),
}
_FLUFF = (
    "buy now and save!",
    "IMG_{number}",
    "free download",
    "stock photo {number}",
    "part {number} of my collection",
)
_FIRST = ("a picture of {}", "this is {}", "there is {}", "we can see {}", "{} can be seen", "an image with {}")


def describe(scene: Scene, random: Random, *, says: float = 1.0) -> str:
    """A true caption.

    Args:
        says: how likely each detail is said: a group, a colour, a texture, a size, the place.
    """
    groups = [group for group in scene.groups if random.random() < says] or [random.choice(scene.groups)]
    whole = len(groups) == len(scene.groups) == 2
    names = [_name(group, random, says) for group in groups]
    body = _related(scene, groups, names, random) if whole else _listed(names, random)
    if random.random() < says:
        where = random.choice(_WHERE[scene.place])
        body = f"{body} {where}" if random.random() < 0.75 else f"{where} {body}"
    return body


def web_caption(scene: Scene, other: Scene, random: Random) -> str:
    """A noisy caption as the web has them."""
    told = other if random.random() < 0.1 else scene
    if random.random() < 0.1:
        told = _mistaken(told, random)
    caption = describe(told, random, says=0.6)
    if random.random() < 0.15:
        caption = f"{caption}, {random.choice(_FLUFF).format(number=random.randrange(1, 999))}"
    return _typed_badly(caption, random) if random.random() < 0.08 else caption


def _mistaken(scene: Scene, random: Random) -> Scene:
    """With one shape, colour or place that is wrong."""
    what = random.choice(("shape", "colour", "place"))
    if what == "place":
        return replace(scene, place=random.choice(PLACES))
    wrong = {what: random.choice(SHAPES if what == "shape" else COLOURS)}
    at = random.randrange(len(scene.groups))
    group = tuple(replace(thing, **wrong) for thing in scene.groups[at])  # type: ignore[arg-type]
    return replace(scene, groups=(*scene.groups[:at], group, *scene.groups[at + 1 :]))


def _typed_badly(caption: str, random: Random) -> str:
    at = random.randrange(1, len(caption) - 1)
    return caption[:at] + caption[at + 1 :] if random.random() < 0.5 else caption[:at] + caption[at] + caption[at:]


def _name(group: Sequence[Thing], random: Random, says: float) -> str:
    """`two small striped red stars`, or `a star that is red`."""
    thing, count = group[0], len(group)
    size, texture, colour = (
        word if random.random() < says else "" for word in (thing.size, thing.texture, thing.colour)
    )
    noun = thing.shape if count == 1 else _plural(thing.shape)
    counted = _COUNTS[count] if count < 4 or random.random() < 0.5 else "many"
    if count == 1 and colour and random.random() < 0.12:
        return _with_article(counted, [size, texture, noun, "that is", colour])
    return _with_article(counted, [size, *random.choice(([texture, colour], [colour, texture])), noun])


def _with_article(counted: str, words: Sequence[str]) -> str:
    phrase = " ".join(filter(None, words))
    return f"an {phrase}" if counted == "a" and phrase[0] in "aeio" else f"{counted} {phrase}"


def _plural(noun: str) -> str:
    return noun + "es" if noun.endswith("s") else noun + "s"


def _listed(names: Sequence[str], random: Random) -> str:
    *before, last = names
    body = f"{', '.join(before)} and {last}" if before else last
    return random.choice(_FIRST).format(body) if random.random() < 0.5 else body


def _related(scene: Scene, groups: Sequence[Sequence[Thing]], names: Sequence[str], random: Random) -> str:
    """Relate the second group to the first by action or place."""
    first, second = names
    several = len(groups[1]) > 1
    if scene.action == "touch":
        return random.choice((f"{second} touching {first}", f"{second} {'touch' if several else 'touches'} {first}"))
    if scene.action == "cover":
        return random.choice((f"{second} covering {first}", f"{first} covered by {second}"))
    if scene.action == "surround":
        return random.choice((f"{first} surrounded by {second}", f"{second} surrounding {first}"))
    if scene.inside:
        return random.choice((f"{second} inside {first}", f"{first} with {second} inside"))
    return _placed(groups, names, random) if random.choice((True, True, False)) else _listed(names, random)


def _placed(groups: Sequence[Sequence[Thing]], names: Sequence[str], random: Random) -> str:
    """Say where the second group is relative to the first."""
    (x1, y1), (x2, y2) = map(_middle, groups)
    first, second = names
    if abs(x2 - x1) > 2 * abs(y2 - y1):
        return f"{second} to the {'left' if x2 < x1 else 'right'} of {first}"
    if abs(y2 - y1) > 2 * abs(x2 - x1):
        return f"{second} {'above' if y2 < y1 else 'below'} {first}"
    return _listed(names, random)


def _middle(group: Sequence[Thing]) -> tuple[float, float]:
    return sum(thing.x for thing in group) / len(group), sum(thing.y for thing in group) / len(group)
