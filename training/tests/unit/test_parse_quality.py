"""Both parsers against 200 captions whose tags a person wrote down.

The rules of the annotation: every noun names an object or a scene, in the singular, with the nouns before it that say
which (stop sign); nouns that count or speak of the photograph (a group of, a close-up of, the top of) are none. What
describes a noun is an attribute: adjectives, materials, participles before it that end otherwise than in -ing.
Other verb forms are actions, in their base form, but for be, have, do, make and the like. Numbers are no tags. A
modifier of two words has a hyphen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast, get_args

import pytest

from tagstream_train.parse.grammar import GrammarParser
from tagstream_train.parse.lexicon import LexiconParser, learn
from tagstream_train.parse.mentions import Kind, Mention, Parser

ANNOTATED = Path(__file__).with_name("captions.txt")


def annotated() -> Iterator[tuple[str, set[Mention]]]:
    for line in ANNOTATED.read_text().splitlines():
        if not line.startswith("#"):
            caption, *cells = line.split("|")
            yield caption.strip(), set(_tags(cells))


def _tags(cells: Sequence[str]) -> Iterator[Mention]:
    for kind, cell in zip(get_args(Kind), cells, strict=True):
        yield from (Mention(cast(Kind, kind), tag.strip()) for tag in cell.split(",") if tag.strip())


def precision_and_sensitivity(parser: Parser, start: int, end: int) -> tuple[float, float]:
    """Over all tags of those captions: how many of the found are right, and how many of the right were found."""
    wanted = list(annotated())[start:end]
    found = parser.parse([caption for caption, _ in wanted])
    right = sum(len(tags & set(mentions)) for (_, tags), mentions in zip(wanted, found, strict=True))
    return right / sum(map(len, found)), right / sum(len(tags) for _, tags in wanted)


def lexicon() -> LexiconParser:
    return LexiconParser(learn(caption for caption, _ in annotated()))


def test_there_are_two_hundred_captions() -> None:
    captions = [caption for caption, _ in annotated()]
    assert len(captions) == len(set(captions)) == 200


@pytest.mark.parametrize(("start", "end"), [(0, 100), (100, 200)])
def test_the_lexicon_finds_what_a_person_finds(start: int, end: int) -> None:
    precision, sensitivity = precision_and_sensitivity(lexicon(), start, end)
    assert precision >= 0.95
    assert sensitivity >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize(("start", "end"), [(0, 100), (100, 200)])
def test_the_grammar_finds_what_a_person_finds(start: int, end: int) -> None:
    precision, sensitivity = precision_and_sensitivity(GrammarParser(), start, end)
    assert precision >= 0.92
    assert sensitivity >= 0.9
