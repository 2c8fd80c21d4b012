"""Names, codes, addresses and other languages in captions of the web."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tagstream_train.parse import words

NAME = "§"
"""Stands for a name, a noun that is no tag."""

_ENGLISH = words.PREPOSITIONS | words.CONJUNCTIONS | words.PRONOUNS | words.AUXILIARIES | words.DETERMINERS
_WEAK = words.word_set("la de en es na di el da le no")
"""They hold names together in English captions too (Rio de Janeiro), so they count between other words alone."""
_FOREIGN_OR_WEAK = words.FOREIGN | _WEAK
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ACCENTS = re.compile(r"[à-öø-ÿāăąćčďęěğıłńňőřśşšťůűźżž]")


def is_english(caption: str) -> bool:
    """Whether a caption can be read as English: half of its words are, and few are another language's.

    One word is enough if it is no other language's; words with a capital may be names.
    """
    blanks = caption.lower().split()
    if caption.isascii() and not words.STRONG.isdisjoint(blanks) and _FOREIGN_OR_WEAK.isdisjoint(blanks):
        return True
    if not caption.isascii():
        letters = [character for character in caption if character.isalpha()]
        if sum(character > "\u024f" for character in letters) * 2 > len(letters):
            return False  # another script
    given = [each for each in _WORD.findall(_bare(caption) if _UNPLAIN.search(caption) else caption) if len(each) > 1]
    found = [_plain(word) for word in given]
    english = sum(word in _ENGLISH and word not in words.SHARED for word in found)
    foreign = sum(
        word in words.FOREIGN or (word in _WEAK and between) for word, between in zip(found, _small(given), strict=True)
    )
    accents = sum(bool(_ACCENTS.search(word)) for word in given if word.islower())
    others = [word for word in found if word not in words.SHARED]
    unknown = [word for word in given if not _is_shared_or_common(_plain(word))]
    small = sum(word.islower() for word in unknown)
    common = len(others) - len(unknown)
    if foreign + accents > english + common // 4:
        return False
    return len(found) < 2 or (common * 4 >= 2 * small + len(unknown) and (common > 0 or not unknown))


def _plain(word: str) -> str:
    """In small letters, without 's or n't."""
    return word.lower().replace("’", "'").partition("'")[0]


def _is_shared_or_common(word: str) -> bool:
    return word in _ENGLISH or words.is_common(word)


def _small(given: list[str]) -> Iterator[bool]:
    """For each word, whether both adjacent words are in lower case."""
    around = ["x", *given, "x"]
    yield from (before.islower() and after.islower() for before, after in zip(around, around[2:], strict=False))


_ADDRESSES = re.compile(
    r"\bhttps?://\S+|\bwww\.\S+|[@#]\w+|\((?:photo|credit|image|source|via)\b[^)]*\)?"
    r"|\([^()]*\b(?:ap|afp|reuters|getty|photo|via)\b[^()]*\)?|\b(?:photo(?:graph)?|credit)s?(?: by)?: .*$"
    r"|\breuters/.*$",
    re.IGNORECASE,
)
_UNITS = "oz|ml|cl|l|ft|qt|quart|gal|lbs?|kg|g|cm|mm|m|in|inch(?:es)?|pcs|pieces?|packs?|ct|count|years?|v|w|gb|tb|led"
_CODES = re.compile(
    rf"[\w.,/-]*\d[\w.,/-]*(?:[ -]?(?:{_UNITS})\b\.?)?|\b(?:size|ages)\b(?: (?:[sml]|x+[sl])\b)?"
    r"|\b(?:UK|US|EU)\b(?= ?\d)",
    re.IGNORECASE,
)
_PHRASES = re.compile(
    r"\b(?:copy ?space|stock (?:photo|image|illustration|vector)s?|free shipping|\w+ concept)\b", re.IGNORECASE
)
_SEPARATORS = re.compile(r" [-–—] | ?[|/•–—] ?")


_ODD = re.compile(r"[^\Wa-zß-öø-ÿ_]|[@#|/•–—]| - |copy ?space|concept|stock ")
"""Only captions with one of these have more than small words and punctuation."""
_UNPLAIN = re.compile(rf"\d|{_ODD.pattern}")
_NO_NAME = re.compile(r"\w+(?:[iec]an|ish|ese)|French|German|Greek|Dutch|Swiss|Christmas|Halloween|Easter|Thanksgiving")
"""They have a capital and may be tags all the same."""


def _bare(caption: str) -> str:
    """Without addresses, hashtags, codes and phrases of shops; a full stop where one was, `NAME` for a code."""
    return _SEPARATORS.sub(" , ", _CODES.sub(f" {NAME} ", _PHRASES.sub(" . ", _ADDRESSES.sub(" . ", caption))))


def is_title(caption: str) -> bool:
    """Whether most words have a capital, so that it marks no names."""
    return bool(_ODD.search(caption, 1)) and not _shows_names(list(_WORD.finditer(_bare(caption))))


def _shows_names(found: list[re.Match[str]]) -> bool:
    """Whether capitals mark names: not in a title, where most words have one."""
    open_words = [each[0] for each in found[1:] if each[0].lower() not in _ENGLISH]
    small = sum(word[0].islower() for word in open_words if len(word) > 2)
    return small * 8 >= len(open_words)


def _is_inside(caption: str, at: re.Match[str]) -> bool:
    """Whether a word stands inside a sentence, where a capital says something."""
    before = caption[max(0, at.start() - 3) : at.start()].rstrip(" '\"(")
    return bool(before) and before[-1] not in ".!?:"


def seen_names(captions: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Words with a capital inside sentences and hardly ever without; words in small letters."""
    capital: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for caption in captions:
        caption = _bare(caption)
        found = list(_WORD.finditer(caption))
        small.update(each[0] for each in found if each[0].islower())
        if _ODD.search(caption, 1) and _shows_names(found):
            capital.update(each[0].lower() for each in found if each[0][0].isupper() and _is_inside(caption, each))
    names = frozenset(
        word
        for word, times in capital.items()
        if times > 2 * small[word] and word not in _ENGLISH and (times > 2 or not words.is_common(word))
    )
    return names, frozenset(small) - names


def without_names(caption: str, names: frozenset[str] = frozenset(), common: frozenset[str] = frozenset()) -> str:
    """The caption with `NAME` in the place of each name.

    Args:
        names: of `seen_names`.
        common: words that are no names in a title or at a sentence's beginning, in lower case.
    """
    if not _ODD.search(caption):
        return caption
    caption = _bare(caption)
    found = list(_WORD.finditer(caption))
    shows = _shows_names(found)
    caption = caption.replace(NAME, " ") if shows else caption
    marks = [_is_name(caption, each, names, common, shows) for each in found]
    for number in range(len(found) - 2, -1, -1):
        each, following = found[number], found[number + 1]
        joined = marks[number + 1] and caption[each.end() : following.start()] == " " and shows
        word = each[0].lower()
        is_first = joined and each[0][0].isupper() and not _is_inside(caption, each)
        marks[number] |= is_first and word not in words.ADJECTIVES and word not in _ENGLISH | words.TITLES
    return "".join(_replaced(caption, found, marks))


def _replaced(caption: str, found: list[re.Match[str]], marks: list[bool]) -> Iterator[str]:
    end = 0
    for each, is_name in zip(found, marks, strict=True):
        yield caption[end : each.start()]
        yield f" {NAME} " if is_name else each[0]
        end = each.end()
    yield caption[end:]


def _is_name(caption: str, at: re.Match[str], names: frozenset[str], common: frozenset[str], shows: bool) -> bool:
    word = re.split("['’]", at[0])[0]
    small = word.lower()
    if small in _ENGLISH or small in words.TITLES or len(word) < 2 or (word.istitle() and _NO_NAME.fullmatch(word)):
        return False
    parts = word.split("-")
    odd = not all(part.islower() or part.istitle() for part in parts)  # iPhone, NATO
    if odd and not caption.isupper():
        return True
    if len(parts[0]) < 2 or (len(parts) > 1 and parts[-1].islower()):
        return False  # T-shirt
    if shows and _is_inside(caption, at):
        return word[0].isupper()
    return small in names or (word[0].isupper() and small not in common and not words.is_common(small))
