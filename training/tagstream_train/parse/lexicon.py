"""The rule-based parser: closed-class words split a caption.

Endings, positions, and verbs and names learned from a corpus (`learn`) give the other words' roles. It needs no model
and takes some sixty microseconds a caption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from tagstream_train.parse import words
from tagstream_train.parse.mentions import Mention, Role, action, noun_phrase, object_, tokens
from tagstream_train.parse.web import NAME, is_english, is_title, seen_names, without_names

_ADJECTIVE_ENDINGS = ("ful", "ous", "less", "ish", "like", "ical", "ional", "able", "ible", "est")
_SINGULAR_ONLY = frozenset({"a", "an", "one", "this", "that", "each", "every", "another"})

_BREAKS = words.PREPOSITIONS | words.CONJUNCTIONS | words.PRONOUNS | words.AUXILIARIES
_CLOSED = _BREAKS | words.DETERMINERS
_PUNCTUATION = frozenset(',.;:!?()"')
_COUNTED = frozenset({"dozens", "hundreds", "thousands"})
_DOERS = ("er", "ers", "or", "ors", "ist", "ists", "man", "men")
_ALSO_NOUNS = frozenset({"light", "square"})
_SUBJECTS = words.word_set("i you he she it we they who not")
_ASKED = words.word_set("who what why how where when")
_VERB_EXPECTED = frozenset({"who", "that", "which", "what", "it", "he", "she", "they"})

_Phrase: TypeAlias = list[tuple[str, Role]]


@dataclass(frozen=True)
class Lexicon:
    """Open-class words learned from a corpus."""

    verbs: frozenset[str] = words.VERBS
    """Verbs in their base form."""
    names: frozenset[str] = frozenset()
    common: frozenset[str] = frozenset()
    """Words in small letters, which are no names in a title."""


def learn(captions: Iterable[str], *, least: int = 3) -> Lexicon:
    """Learn a lexicon from captions.

    A verb occurs with -ing after a noun or an auxiliary, a name with a capital inside sentences. Nouns and adjectives
    are not learned: the last noun of many phrases is a verb in others ("the dog runs"), and a frequent word before
    nouns is mostly half of a name ("tennis ball").

    Args:
        least: the least occurrences of a verb.
    """
    english = [caption for caption in captions if is_english(caption)]
    names, common = seen_names(english)
    verbs: Counter[str] = Counter()
    for caption in english:
        for previous, word in pairwise(["", *tokens(without_names(caption, names, common))]):
            if word.endswith("ing") and (_is_open(previous) or previous in words.AUXILIARIES):
                verbs.update(words.base_forms(word)[:1])
    return Lexicon(words.VERBS | {verb for verb, times in verbs.items() if times >= least}, names, common)


def _is_open(word: str) -> bool:
    return bool(word) and word not in _CLOSED and word not in _PUNCTUATION and word not in words.ADVERBS


def _is_comparative(word: str) -> bool:
    stem = word.removesuffix("est").removesuffix("er")
    return (
        stem != word
        and word not in words.NOUNS
        and not words.ADJECTIVES.isdisjoint((stem, stem + "e", stem[:-1], stem[:-1] + "y"))
    )


class LexiconParser:
    """Parses by closed-class words, endings and a learned lexicon."""

    name = "lexicon"

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self._lexicon = lexicon or Lexicon()

    def parse(self, captions: Sequence[str]) -> list[tuple[Mention, ...]]:
        return [self._mentions(caption) if is_english(caption) else () for caption in captions]

    def _mentions(self, caption: str) -> tuple[Mention, ...]:
        words_of = tokens(without_names(caption, self._lexicon.names, self._lexicon.common))
        return tuple(dict.fromkeys(_Reading(words_of, self._lexicon, is_title(caption)).mentions()))


class _Reading:
    """One caption, read from left to right."""

    def __init__(self, caption: Sequence[str], lexicon: Lexicon, title: bool) -> None:
        self._words = [*caption, "."]
        self._title = title
        self._lexicon = lexicon
        self._phrase: _Phrase = []
        self._has_noun = False
        self._determiner = ""
        self._before = "."
        """The closed-class word or punctuation before the phrase, or `verb`."""
        self._joined = False
        """The phrase is the second subject of the next verb: a man and a woman."""

    def mentions(self) -> Iterator[Mention]:
        for at, word in enumerate(self._words[:-1]):
            following = self._words[at + 1]
            if word in words.ADVERBS:
                continue
            if word in _PUNCTUATION or (word in _BREAKS and (word != "round" or following in words.DETERMINERS)):
                yield from self._end(word)
            elif word in words.DETERMINERS:
                yield from self._determine(word)
            elif word == NAME:
                yield from self._name(following)
            elif self._title and word in words.WEARERS and not self._phrase and _is_open(following):
                yield from object_([word])
            elif self._is_verb(word, following):
                yield from self._end("verb")
                yield from action(words.base_forms(word) or (word,), self._lexicon.verbs)
            elif words.singular(word) in words.UNSEEN_NOUNS:
                yield from self._unseen()
            elif (role := self._role(word, following)) is not None:
                self._phrase.append((word, role))
                self._has_noun |= role == "noun"
        yield from self._end(".")

    def _determine(self, word: str) -> Iterator[Mention]:
        before = "verb" if self._phrase else self._before
        yield from self._end(before)
        self._determiner, self._joined = word, before in ("and", "&")

    def _name(self, following: str) -> Iterator[Mention]:
        """A name goes with the words after it; what stands before it may be the thing, in a title."""
        last = self._phrase[-1][0] if self._phrase else NAME
        said = len(self._phrase) > 2 or words.is_plural(last) or not _is_open(following)
        if last != NAME and (said or not self._title):
            yield from self._end(NAME)
        self._phrase.append((NAME, "noun"))
        self._has_noun = True

    def _unseen(self) -> Iterator[Mention]:
        """End the phrase without what describes an unseen noun: *king* size."""
        if self._phrase and self._phrase[-1][1] == "noun":
            self._phrase.pop()
        while self._phrase and self._phrase[-1][1] != "noun":
            self._phrase.pop()
        yield from self._end(NAME)
        self._phrase.append((NAME, "noun"))

    def _end(self, by: str) -> Iterator[Mention]:
        """End the phrase before a foreign word."""
        if self._phrase:
            yield from noun_phrase(self._phrase, by == "of", self._title)
        self._phrase, self._has_noun, self._determiner, self._before, self._joined = [], False, "", by, False

    def _is_verb(self, word: str, following: str) -> bool:
        if word in words.PLURAL_ONLY or (word in words.PHOTO_WORDS and not self._has_noun):
            return False
        if word in words.ING_NOUNS:
            asked = self._before in words.AUXILIARIES and not self._determiner
            return asked or (self._has_noun and following in words.DETERMINERS)
        bases = words.base_forms(word)
        if (word in words.OF_WHAT and following == "of") or f"{word}_{following}" in words.FIXED:
            return False
        if word in words.ADJECTIVES and (self._title or not self._ends_plural()):
            return False
        if not bases:
            return self._is_base(word, following)
        if word in words.NOUNS and words.VERBS.isdisjoint(bases):
            return False
        if self._title and self._names_in_title(word, following):
            return False
        if word.endswith("s"):
            return not self._is_plural_noun(word, following) and self._is_third_person(bases, following)
        starts = not self._phrase and not self._determiner
        names_a_use = not word.endswith("ing") or word in words.COMPOUND_GERUNDS
        return self._has_noun or (starts and not (names_a_use and _is_open(following)))

    def _ends_plural(self) -> bool:
        return bool(self._phrase) and words.is_plural(self._phrase[-1][0])

    def _names_in_title(self, word: str, following: str) -> bool:
        """Whether a verb's form names or describes a thing in a title: *gaming* chair, *engraved* board, *drops*."""
        last = self._phrase[-1][0] if self._phrase else ""
        if words.singular(last) in words.PEOPLE or last.endswith(_DOERS):
            return word.endswith("ed") and _is_open(following)
        return word in words.NOUNS or (_is_open(following) and not word.endswith("s"))

    def _is_third_person(self, bases: Sequence[str], following: str) -> bool:
        known = any(base in self._lexicon.verbs for base in bases)
        if self._has_noun and bases[0] in words.LIGHT_VERBS and bases[0] not in words.NOUNS:
            return True
        if not self._phrase and not self._determiner:
            return self._before in _VERB_EXPECTED or (
                self._before in ("and", "verb") and following not in ("and", ",", ".") and following in _CLOSED
                and (known or following in words.DETERMINERS)
            )  # fmt: skip
        if self._phrase and self._phrase[-1][0] == NAME:
            return (known and not self._title) or (not _is_open(following) and (known or not self._title))
        if not self._has_noun or (words.is_plural(self._phrase[-1][0]) and self._before != "of"):
            return False
        if self._determiner in _SINGULAR_ONLY or following in words.DETERMINERS:
            return True
        return known and not _is_open(following)

    def _is_plural_noun(self, form: str, following: str) -> bool:
        """Whether a form like *leaves* or *drops* is a noun: where its phrase has no determiner."""
        if self._determiner or following in words.DETERMINERS or words.singular(form) not in words.NOUNS:
            return False
        if following in ("and", "or", ",", ".") or (self._before == "verb" and not self._phrase):
            return True
        one = bool(self._phrase) and not self._ends_plural()
        return one and (self._before == "of" or words.singular(form) in words.MOSTLY_NOUNS)

    def _is_base(self, word: str, following: str) -> bool:
        known = word in self._lexicon.verbs
        if not self._phrase and not self._determiner:
            asks = known and (following in words.PRONOUNS or following in _ASKED)
            light = word in words.LIGHT_VERBS and word not in words.NOUNS
            expected = known and (self._before in _SUBJECTS or self._before in words.AUXILIARIES or light)
            return asks or expected or (self._before == "to" and (known or following in words.DETERMINERS))
        if not self._phrase:
            return self._determiner in _COUNTED and known and not _is_open(following)
        if not self._has_noun:
            return False
        if self._before in ("and", "&") and not self._determiner and not self._title and known:
            return following in words.PREPOSITIONS or self._ends_plural()
        subjects = self._ends_plural() or self._joined or self._determiner in words.PLURAL_DETERMINERS
        return subjects and (known or following in words.DETERMINERS)

    def _role(self, word: str, following: str) -> Role | None:
        """A word's role in a noun phrase; None for an adverb and what says nothing."""
        is_last = not _is_open(following)
        if word in words.PHOTO_WORDS or (word in _ALSO_NOUNS and is_last and (self._phrase or self._determiner)):
            return "noun"
        if word in words.ADJECTIVES or words.singular(word) in words.UNSEEN_ADJECTIVES:
            return "adjective"
        if len(word) == 1 or (word.endswith("ly") and word not in words.LY_OTHERS) or _is_comparative(word):
            return None
        if f"{word}_{following}" in words.FIXED:
            return "noun"
        if words.is_participle(word):
            return _participle(word, is_last)
        if is_last and word in words.LIGHT_VERBS and word not in words.NOUNS:
            return None
        if is_last or word in words.NOUNS:
            return "noun"
        described = word.endswith(_ADJECTIVE_ENDINGS) or (word.endswith("y") and len(word) > 3)
        return "adjective" if described or ("-" in word and not words.is_plural(word)) else "noun"


def _participle(word: str, is_last: bool) -> Role | None:
    if not word.endswith("ing"):
        return "participle"
    if word in words.COMPOUND_GERUNDS:
        return "noun"
    if words.VERBS.isdisjoint(words.base_forms(word)):
        return "noun" if word in words.NOUNS else None
    return "noun" if is_last else "gerund"
