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
from tagstream_train.parse.mentions import FIXED, Mention, Role, action, noun_phrase, tokens
from tagstream_train.parse.web import NAME, is_english, seen_names, without_names

_ADJECTIVES = words.word_set(
    "red orange yellow green blue purple pink brown black white gray grey beige tan turquoise golden silver violet "
    "dark light bright pale colorful colourful big large small little tiny huge tall short long wide narrow thick thin "
    "high low deep flat round square steep young old new ancient modern vintage antique elderly adult hot cold warm "
    "cool wet dry dirty clean clear calm busy quiet empty full crowded open closed fresh ripe raw rotten sweet heavy "
    "soft hard smooth rough sharp bare blond blonde bald barefoot alone happy sad angry nervous beautiful pretty cute "
    "fat slim strong loose tight fancy ornate elegant grand bold lush wild tame outdoor indoor aerial urban "
    "rural suburban wooden woolen stainless fluffy frozen sunken broken pregnant professional electric lone still "
    "fine double single favorite male female human senior handsome homemade handmade floral rustic diverse abstract "
    "good best nice great lovely adorable delicious dead rear vector safe waterproof wireless adjustable military "
    "asian african american arab australian brazilian british canadian chinese dutch egyptian european french german "
    "greek indian iranian iraqi israeli italian japanese korean mexican polish russian spanish swedish swiss syrian "
    "turkish ukrainian vietnamese"
)
_Y_NOUNS = words.word_set(
    "baby city party pony country grocery factory story candy berry cherry body sky toy key donkey monkey turkey "
    "hockey jersey chimney valley alley money honey boy cowboy ray tray bay day birthday holiday play spray clay hay "
    "subway highway runway railway driveway doorway hallway library gallery bakery battery cemetery ferry daisy puppy "
    "kitty bunny guppy navy army lady enemy study copy trophy pottery jewelry belly lily family butterfly jelly "
    "cavity university strawberry blueberry raspberry blackberry assembly daddy mommy teddy hobby lobby curry century "
    "display laundry bay soy rugby derby victory laboratory canopy ivy buoy essay relay"
)
_ADJECTIVE_ENDINGS = ("ful", "ous", "less", "ish", "like", "ical", "ional", "able", "ible", "est")
_EVERY_VERB = words.word_set(
    "sit stand walk run play ride eat drink sleep fly swim jump wait talk look smile wear hold carry drive work read "
    "watch cook dance sing climb rest graze float hang lie pose perch march fight dive kneel lean travel speak "
    "celebrate arrive leave win block shake search cross bathe cheer wave greet meet hike build steal load unload "
    "throw catch kick push pull hug kiss wash pour serve sell paint draw write listen feed chase protest gather score"
)
_SINGULAR_ONLY = frozenset({"a", "an", "one", "this", "that", "each", "every", "another"})

_BREAKS = words.PREPOSITIONS | words.CONJUNCTIONS | words.PRONOUNS | words.AUXILIARIES
_CLOSED = _BREAKS | words.DETERMINERS
_PUNCTUATION = frozenset(',.;:!?()"')
_VERB_EXPECTED = frozenset({"who", "that", "which", "it", "he", "she", "they"})

_Phrase: TypeAlias = list[tuple[str, Role]]


@dataclass(frozen=True)
class Lexicon:
    """Open-class words learned from a corpus."""

    verbs: frozenset[str] = _EVERY_VERB
    """Verbs in their base form."""
    names: frozenset[str] = frozenset()


def learn(captions: Iterable[str], *, least: int = 3) -> Lexicon:
    """Learn a lexicon from captions.

    A verb occurs with -ing after a noun or an auxiliary, a name with a capital inside sentences. Nouns and adjectives
    are not learned: the last noun of many phrases is a verb in others ("the dog runs"), and a frequent word before
    nouns is mostly half of a name ("tennis ball").

    Args:
        least: the least occurrences of a verb.
    """
    english = [caption for caption in captions if is_english(caption)]
    names = seen_names(english)
    verbs: Counter[str] = Counter()
    for caption in english:
        for previous, word in pairwise(["", *tokens(without_names(caption, names))]):
            if word.endswith("ing") and (_is_open(previous) or previous in words.AUXILIARIES):
                verbs.update(words.base_forms(word)[:1])
    return Lexicon(_EVERY_VERB | {verb for verb, times in verbs.items() if times >= least}, names)


def _is_open(word: str) -> bool:
    return bool(word) and word not in _CLOSED and word not in _PUNCTUATION and word not in words.ADVERBS


class LexiconParser:
    """Parses by closed-class words, endings and a learned lexicon."""

    name = "lexicon"

    def __init__(self, lexicon: Lexicon | None = None) -> None:
        self._lexicon = lexicon or Lexicon()

    def parse(self, captions: Sequence[str]) -> list[tuple[Mention, ...]]:
        return [self._mentions(caption) if is_english(caption) else () for caption in captions]

    def _mentions(self, caption: str) -> tuple[Mention, ...]:
        words_of = tokens(without_names(caption, self._lexicon.names, _ADJECTIVES))
        return tuple(dict.fromkeys(_Reading(words_of, self._lexicon).mentions()))


class _Reading:
    """One caption, read from left to right."""

    def __init__(self, caption: Sequence[str], lexicon: Lexicon) -> None:
        self._words = [*caption, "."]
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
            if word in _PUNCTUATION or word in _BREAKS:
                yield from self._end(word)
            elif word in words.DETERMINERS:
                yield from self._determine(word)
            elif self._is_verb(word, following):
                yield from self._end("verb")
                yield from action(words.base_forms(word) or (word,), self._lexicon.verbs)
            elif (role := self._role(word, following)) is not None:
                self._phrase.append((word, role))
                self._has_noun |= role == "noun"
        yield from self._end(".")

    def _determine(self, word: str) -> Iterator[Mention]:
        before = "verb" if self._phrase else self._before
        yield from self._end(before)
        self._determiner, self._joined = word, before in ("and", "&")

    def _end(self, by: str) -> Iterator[Mention]:
        """End the phrase before a foreign word."""
        if self._phrase:
            yield from noun_phrase(self._phrase, before_of=by == "of")
        self._phrase, self._has_noun, self._determiner, self._before, self._joined = [], False, "", by, False

    def _is_verb(self, word: str, following: str) -> bool:
        if word in words.PLURAL_ONLY:
            return False
        if word in words.ING_NOUNS:
            return self._before in words.AUXILIARIES or (self._has_noun and following in words.DETERMINERS)
        bases = words.base_forms(word)
        if word in words.OF_WHAT or f"{word}_{following}" in FIXED:
            return False
        if not bases:
            return self._is_base(word, following)
        if word.endswith("s"):
            return self._is_third_person(bases, following)
        starts = not self._phrase and not self._determiner
        names_a_use = not word.endswith("ing") or word in words.COMPOUND_GERUNDS
        return self._has_noun or (starts and not (names_a_use and _is_open(following)))

    def _is_third_person(self, bases: Sequence[str], following: str) -> bool:
        known = any(base in self._lexicon.verbs for base in bases)
        if not self._phrase and not self._determiner:
            return self._before in _VERB_EXPECTED or (
                self._before in ("and", "verb") and following not in ("and", ",", ".") and following in _CLOSED
                and (known or following in words.DETERMINERS)
            )  # fmt: skip
        if self._phrase and self._phrase[-1][0] == NAME:
            return known or not _is_open(following)
        if not self._has_noun or (words.is_plural(self._phrase[-1][0]) and self._before != "of"):
            return False
        if self._determiner in _SINGULAR_ONLY or following in words.DETERMINERS:
            return True
        return known and not _is_open(following)

    def _is_base(self, word: str, following: str) -> bool:
        if self._before == "to" and not self._phrase and not self._determiner:
            return word in self._lexicon.verbs or following in words.DETERMINERS
        if not self._has_noun:
            return False
        subjects = words.is_plural(self._phrase[-1][0]) or self._joined or self._determiner in words.PLURAL_DETERMINERS
        return subjects and (word in self._lexicon.verbs or following in words.DETERMINERS)

    def _role(self, word: str, following: str) -> Role | None:
        """A word's role in a noun phrase; None for an adverb."""
        if word in _ADJECTIVES:
            return "adjective"
        if word.endswith("ly") and word not in words.LY_OTHERS:
            return None
        if f"{word}_{following}" in FIXED:
            return "noun"
        is_last = not _is_open(following)
        if words.is_participle(word):
            if word.endswith("ing"):
                return "noun" if word in words.COMPOUND_GERUNDS or is_last else "gerund"
            return "participle"
        if is_last:
            return "noun"
        in_y = word.endswith("y") and len(word) > 3 and word not in _Y_NOUNS
        return "adjective" if "-" in word or word.endswith(_ADJECTIVE_ENDINGS) or in_y else "noun"
