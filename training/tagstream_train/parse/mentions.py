"""Mentions: a caption's tags in one normal form, and the names that are one thing.

The list of synonyms is short on purpose: a data set's author adds others in the review file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
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


def noun_phrase(phrase: Sequence[tuple[str, Role]], before_of: bool = False, title: bool = False) -> Iterable[Mention]:
    """Mentions of one noun phrase, its head last.

    Args:
        phrase: its words in lower case, without determiners.
        before_of: *of* follows, so that words which count (a group of …) are no objects.
        title: it is a shop's, where materials and colors may stand for things, and nouns before adjectives are names.
    """
    end = len(phrase)
    start = end - phrase[::-1].index((NAME, "noun")) if (NAME, "noun") in phrase else 0
    while end > start and phrase[end - 1][1] != "noun":
        end -= 1
    nouns, modifiers = _split(phrase[start:end])
    modifiers = [*(each for each in phrase[:start] if each[1] != "noun"), *modifiers, *phrase[end:]]
    if title:
        modifiers = [*_without_models(modifiers)]
    for word, role in modifiers:
        if role == "noun":
            yield from _material_or_object(word)
        elif role == "gerund":
            yield from action(words.base_forms(word)[:1])
        else:
            yield from attribute(word)
    if title and nouns[1:] and nouns[-1] in words.COLORS and nouns[-1] != "cream":
        yield Mention("attribute", nouns.pop())
    if title and nouns and _describes(nouns):
        yield from (Mention("attribute", each) for each in nouns)
    elif nouns and not _counts(nouns[-1], before_of):
        yield from object_(nouns)
    elif nouns[:-1]:
        yield from object_(nouns[:-1])


def _describes(nouns: Sequence[str]) -> bool:
    """Whether a title's nouns are a variant: *Navy Suede*, *V-Neck*, *Cream*."""
    return nouns[-1] in words.MATERIALS or "-" in nouns[-1] or (len(nouns) == 1 and nouns[0] in words.COLORS)


def _split(phrase: Sequence[tuple[str, Role]]) -> tuple[list[str], list[tuple[str, Role]]]:
    """The words that name the object, and the rest."""
    start, names = len(phrase), [word for word, _ in phrase]
    while start and phrase[start - 1][1] == "noun" and len(phrase) - start < MAX_COMPOUND:
        if names[start - 1] in words.MATERIALS and start < len(phrase):
            break
        start -= 1
    while 0 < start < len(phrase) and "_".join(names[start - 1 : start + 1]) in words.FIXED:
        start -= 1
    return names[start:], list(phrase[:start])


def _without_models(modifiers: Iterable[tuple[str, Role]]) -> Iterator[tuple[str, Role]]:
    """Without nouns that follow no adjective: *Torque Drive* of "Torque Drive Cordless Vacuum"."""
    described = False
    for word, role in modifiers:
        is_noun = role == "noun" and word not in words.MATERIALS
        if described or not is_noun:
            yield word, role
        described = not is_noun


def _counts(head: str, before_of: bool) -> bool:
    one = words.singular(head)
    return one in words.PHOTO_WORDS or one in words.UNSEEN_ADJECTIVES or (before_of and head in words.OF_WHAT)


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


_CONTRACTED = re.compile(r"\b(it|he|she|that|who|there|here|what)'s\b")
_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*|§|'s\b|[,.;:!?()\"&]")


def tokens(caption: str) -> list[str]:
    """Words and punctuation in lower case; a possessive 's stands alone."""
    text = caption.lower().replace("’", "'").replace("can't", "can not").replace("n't", " not").replace("s' ", "s 's ")
    text = _CONTRACTED.sub(r"\1 is", text)
    return _TOKEN.findall(_HYPHENATED.sub(lambda found: found[0].replace(" ", "-"), text))
