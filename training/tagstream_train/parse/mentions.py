"""Mentions: a caption's tags in one normal form, and the names that are one thing.

The list of synonyms is short on purpose: a data set's author adds others in the review file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from tagstream_train.parse import words
from tagstream_train.parse.web import NAME

_SAME = """
bicycle: bike, pushbike
motorcycle: motorbike
airplane: plane, aeroplane, aircraft, jetliner, air plane
television: tv, telly, television set, tv set
cell phone: cellphone, mobile phone, smartphone, mobile, smart phone
sofa: couch
child: kid
man: guy, gentleman
woman: lady
gray: grey
t-shirt: tshirt, tee shirt, t shirt, tee
refrigerator: fridge
donut: doughnut
car: automobile, auto
truck: lorry
trash can: garbage can, dustbin, rubbish bin
blond: blonde
yogurt: yoghurt
pajamas: pyjamas
bathroom: restroom
colorful: colourful, multicolored, multi-colored
police officer: policeman, policewoman, cop
firefighter: fireman
mom: mum
"""
SYNONYMS = {
    same: name
    for name, others in (line.split(": ") for line in _SAME.strip().splitlines())
    for same in others.split(", ")
}
"""The replacement of each name."""

FIXED = words.word_set(
    "hot_dog hot_dogs french_fries polar_bear polar_bears high_chair wild_flower wild_flowers green_beans sweet_potato "
    "blue_jeans electric_guitar stuffed_animal stuffed_animals fried_rice scrambled_eggs mashed_potatoes solar_panel "
    "solar_panels parking_lot dining_table dining_room dining_chair running_shoe running_shoes hiking_trail "
    "hiking_boots hiking_backpack swimming_pool washing_machine building_blocks"
)
"""Two words that name one thing although the first looks like a modifier."""

_HYPHENATED = re.compile(
    r"\b(stainless steel|double decker|flat screen|half eaten|high speed|long sleeve|open air|close up)\b"
)
"""Two words that are one; written with a hyphen in a tag."""

Kind: TypeAlias = Literal["object", "attribute", "action"]
"""Kind of a tag: a thing or a scene, a property, or an activity."""
Role: TypeAlias = Literal["noun", "adjective", "participle", "gerund"]
"""Role of a word in a noun phrase; a participle ends in -ed or is irregular, a gerund ends in -ing."""

MAX_COMPOUND = 3
"""Words of an object's name."""


class Mention(NamedTuple):
    kind: Kind
    text: str
    """Lower case, singular or base form, one space between words; the head is the last word."""


def noun_phrase(phrase: Sequence[tuple[str, Role]], before_of: bool = False) -> Iterable[Mention]:
    """Mentions of one noun phrase, its head last.

    Args:
        phrase: its words in lower case, without determiners.
        before_of: *of* follows, so that words which count (a group of …) are no objects.
    """
    nouns, modifiers = _split(phrase)
    nouns = nouns[len(nouns) - nouns[::-1].index(NAME) :] if NAME in nouns else nouns
    for word, role in modifiers:
        if role == "noun":
            yield from _material_or_object(word)
        elif role == "gerund":
            yield from action(words.base_forms(word)[:1])
        else:
            yield from attribute(word)
    if nouns and not _counts(nouns[-1], before_of):
        yield from object_(nouns)
    elif nouns[:-1]:
        yield from object_(nouns[:-1])


def _split(phrase: Sequence[tuple[str, Role]]) -> tuple[list[str], list[tuple[str, Role]]]:
    """The words that name the object, and the rest."""
    start = len(phrase)
    while start and phrase[start - 1][1] == "noun" and len(phrase) - start < MAX_COMPOUND:
        start -= 1
    while start < len(phrase) - 1 and phrase[start][0] in words.MATERIALS:
        start += 1
    names = [word for word, _ in phrase]
    while 0 < start < len(phrase) and "_".join(names[start - 1 : start + 1]) in FIXED:
        start -= 1
    return names[start:], list(phrase[:start])


def _counts(head: str, before_of: bool) -> bool:
    return words.singular(head) in words.PHOTO_WORDS or (before_of and head in words.OF_WHAT)


def _material_or_object(word: str) -> Iterable[Mention]:
    return attribute(word) if word in words.MATERIALS else object_([word])


def object_(nouns: Sequence[str]) -> Iterable[Mention]:
    name = " ".join([*nouns[:-1], words.singular(nouns[-1])])
    if len(name) > 1:
        yield Mention("object", SYNONYMS.get(name, name))


def attribute(word: str) -> Iterable[Mention]:
    if word not in words.UNSEEN_ADJECTIVES and word not in words.ADVERBS and len(word) > 1:
        yield Mention("attribute", SYNONYMS.get(word, word))


def action(bases: Sequence[str], known: Collection[str] = ()) -> Iterable[Mention]:
    """The action that an inflected verb names."""
    base = next((verb for verb in bases if verb in known), bases[0] if bases else "")
    if base and base not in words.LIGHT_VERBS:
        yield Mention("action", base)


_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*|§|'s\b|[,.;:!?()\"&]")


def tokens(caption: str) -> list[str]:
    """Words and punctuation in lower case; a possessive 's stands alone."""
    text = caption.lower().replace("’", "'").replace("n't", " not")
    return _TOKEN.findall(_HYPHENATED.sub(lambda found: found[0].replace(" ", "-"), text))
