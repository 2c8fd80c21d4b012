"""Names, codes, addresses and other languages in captions of the web."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tagstream_train.parse import words

NAME = "§"
"""Stands for a name, a noun that is no tag."""

_FOREIGN = words.word_set(
    "der das und mit im auf für von bei zum zur ein eine einem einen einer über dem des nach aus am ist ihr "  # German
    "le la les des du une et avec sur dans pour au aux son sa chez est sous "  # French
    "el los las del una con en por para su sus al y de lo es sobre "  # Spanish
    "il gli dei della del di che sul sulla nel nella al alla per delle da un uno "  # Italian
    "os um uma com na nos nas dos das pela pelo ao à às em sua seu "  # Portuguese
    "het een van op voor naar bij uit zijn haar aan door de en met "  # Dutch
    "en ett och på som av till för med det är i den på vid "  # Swedish, Danish, Norwegian
    "og af til med på er "
    "z na się w jest do nad przy ze pod od dla "  # Polish
    "bir ve ile için bu üzerinde "  # Turkish
    "yang dan di dengan untuk pada dari "  # Indonesian
) - words.word_set("i w do al son per van bin men la de en es em na di z")
"""Words that hold a sentence together in other languages, and hardly come up in English ones."""
_ENGLISH = words.PREPOSITIONS | words.CONJUNCTIONS | words.PRONOUNS | words.AUXILIARIES | words.DETERMINERS
_WEAK = words.word_set("la de en es na di el da le no")
"""They hold names together in English captions too (Rio de Janeiro), so they count between other words alone."""
_FOREIGN_OR_WEAK = _FOREIGN | _WEAK
_SHARED = words.word_set("in on an no do as me i over")
"""English words that other languages have too."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_ACCENTS = re.compile(r"[à-öø-ÿāăąćčďęěğıłńňőřśşšťůűźżž]")


def is_english(caption: str) -> bool:
    """Whether a caption can be read as English; short ones without function words are."""
    if not caption.isascii():
        letters = [character for character in caption if character.isalpha()]
        if sum(character > "\u024f" for character in letters) * 2 > len(letters):
            return False  # another script
    given = _WORD.findall(_ADDRESSES.sub(" ", caption) if _ODD.search(caption) else caption)
    found = [word.lower() for word in given]
    if caption.isascii() and _FOREIGN_OR_WEAK.isdisjoint(found):
        return True
    english = sum(word in _ENGLISH and word not in _SHARED for word in found)
    foreign = sum(
        word in _FOREIGN or (word in _WEAK and between) for word, between in zip(found, _small(given), strict=True)
    )
    accents = sum(bool(_ACCENTS.search(word)) for word in given if word.islower())
    return foreign + accents <= english


def _small(given: list[str]) -> Iterator[bool]:
    """For each word, whether both adjacent words are in lower case."""
    around = ["x", *given, "x"]
    yield from (before.islower() and after.islower() for before, after in zip(around, around[2:], strict=False))


_ADDRESSES = re.compile(r"\bhttps?://\S+|\bwww\.\S+|[@#]\w+|\((?:photo|credit|image|source)\b[^)]*\)?", re.IGNORECASE)
_CODES = re.compile(r"[\w.,/-]*\d[\w.,/-]*")
_PHRASES = re.compile(
    r"\b(?:copy ?space|stock (?:photo|image|illustration|vector)s?|free shipping|\w+ concept)\b", re.IGNORECASE
)
_SEPARATORS = re.compile(r" [-–—] | ?[|/•–—] ?")


_ODD = re.compile(r"[^\Wa-zß-öø-ÿ_]|[@#|/•–—]| - |copy ?space|concept|stock ")
"""Only captions with one of these have more than small words and punctuation."""
_NO_NAME = re.compile(r"\w+(?:[iec]an|ish|ese)|French|German|Greek|Dutch|Swiss|Christmas|Halloween|Easter|Thanksgiving")
"""They have a capital and may be tags all the same."""


def _bare(caption: str) -> str:
    """Without addresses, hashtags, codes and phrases of shops; a full stop where one was."""
    return _SEPARATORS.sub(" , ", _CODES.sub(" ", _PHRASES.sub(" . ", _ADDRESSES.sub(" . ", caption))))


def _shows_names(found: list[re.Match[str]]) -> bool:
    """Whether capitals mark names: not in a title, where most words have one."""
    open_words = [each[0] for each in found[1:] if each[0].lower() not in _ENGLISH]
    return sum(word[0].islower() for word in open_words) * 4 >= len(open_words)


def _is_inside(caption: str, at: re.Match[str]) -> bool:
    """Whether a word stands inside a sentence, where a capital says something."""
    before = caption[max(0, at.start() - 3) : at.start()].rstrip(" '\"(")
    return bool(before) and before[-1] not in ".!?:"


def seen_names(captions: Iterable[str]) -> frozenset[str]:
    """Words with a capital inside sentences, and hardly ever without."""
    capital: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for caption in captions:
        found = list(_WORD.finditer(caption))
        small.update(each[0] for each in found if each[0].islower())
        if _ODD.search(caption, 1) and _shows_names(found):
            capital.update(each[0].lower() for each in found if each[0][0].isupper() and _is_inside(caption, each))
    return frozenset(word for word, times in capital.items() if times > 2 * small[word] and word not in _ENGLISH)


def without_names(caption: str, names: frozenset[str] = frozenset(), common: frozenset[str] = frozenset()) -> str:
    """The caption with `NAME` in the place of each name.

    Args:
        names: of `seen_names`.
        common: words that are no names at a sentence's beginning, in lower case.
    """
    if not _ODD.search(caption, 1):
        return caption
    caption = _bare(caption)
    found = list(_WORD.finditer(caption))
    shows = _shows_names(found)
    marks = [_is_name(caption, each, names, shows) for each in found]
    for number in range(len(found) - 2, -1, -1):
        each, following = found[number], found[number + 1]
        joined = marks[number + 1] and caption[each.end() : following.start()] == " " and shows
        word = each[0].lower()
        is_first = joined and each[0][0].isupper() and not _is_inside(caption, each)
        marks[number] |= is_first and word not in common and word not in _ENGLISH
    return "".join(_replaced(caption, found, marks))


def _replaced(caption: str, found: list[re.Match[str]], marks: list[bool]) -> Iterator[str]:
    end = 0
    for each, is_name in zip(found, marks, strict=True):
        yield caption[end : each.start()]
        yield f" {NAME} " if is_name else each[0]
        end = each.end()
    yield caption[end:]


def _is_name(caption: str, at: re.Match[str], names: frozenset[str], shows: bool) -> bool:
    word = re.split("['’]", at[0])[0]
    if word.lower() in _ENGLISH or len(word) < 2 or (word.istitle() and _NO_NAME.fullmatch(word)):
        return False
    odd = not word.islower() and not word.istitle()  # iPhone, NATO
    if odd and not caption.isupper():
        return True
    return word.lower() in names if not shows else word[0].isupper() and _is_inside(caption, at)
