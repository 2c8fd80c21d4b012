"""Lists of English words, and forms of nouns and verbs."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PARTS = Path(__file__).with_name("english.txt").read_text(encoding="utf-8").split("\n\n")
_LISTS = {head.partition(":")[0]: rest for head, _, rest in (each.partition("\n") for each in _PARTS)}
"""The lists of english.txt, which says what each holds."""


def _listed(name: str) -> frozenset[str]:
    return word_set(_LISTS[name])


def _pairs(name: str) -> dict[str, str]:
    found = _LISTS[name].split()
    return dict(zip(found[::2], found[1::2], strict=True))


NOUNS, VERBS, ADJECTIVES = map(_listed, ("nouns", "verbs", "adjectives"))
FIXED = _listed("fixed")
FOREIGN = _listed("foreign")
STRONG = _listed("strong")
SHARED = _listed("shared")
DETERMINERS = _listed("determiners")
NUMBERS = word_set("one two three four five six seven eight nine ten eleven twelve")
PLURAL_DETERMINERS = NUMBERS - {"one"} | word_set("both all many several few these those some most")
PREPOSITIONS = _listed("prepositions")
CONJUNCTIONS = _listed("conjunctions")
PRONOUNS = _listed("pronouns")
AUXILIARIES = _listed("auxiliaries")
ADVERBS = _listed("adverbs")
LIGHT_VERBS = _listed("light_verbs")
UNSEEN_ADJECTIVES = _listed("unseen_adjectives")
OF_WHAT = _listed("of_what")
PHOTO_WORDS = _listed("photo_words")
MATERIALS = _listed("materials")
COLORS = _listed("colors")
TITLES = _listed("titles")
WEARERS = _listed("wearers")
PEOPLE = _listed("people")
MOSTLY_NOUNS = _listed("mostly_nouns")
UNSEEN_NOUNS = _listed("unseen_nouns")
COMPOUND_GERUNDS = _listed("compound_gerunds")
ING_NOUNS = _listed("ing_nouns")
LY_OTHERS = _listed("ly_others")
PLURAL_ONLY = _listed("plural_only")

_IRREGULAR_PLURALS = _pairs("irregular_plurals")
_IRREGULAR_VERBS = _pairs("irregular_verbs")

_MUTE_E = re.compile(
    r"(?:[vucz]|[^aeioulrw]l|[aeiounrp]s|[dr]g)$"  # leave, dance, juggle, raise, charge
    r"|^[^aeiou]*[aeiouy][^aeiouwxy]$"  # one short syllable without a doubled last letter: ride, skate
    r"|[^aeiou](?:at|id|ir|ur|is|as|ud|ut|in|ar|ak|il)$"  # decorate, capture, exercise, recline
)
"""Stems with a final e in the base form."""
_DOUBLED = re.compile(r"([bdgkmnprt])\1$")


@lru_cache(100_000)
def singular(noun: str) -> str:
    """The singular of a noun, or the word itself."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if not noun.endswith("s") or noun in PLURAL_ONLY or len(noun) < 4 or noun.endswith(("ss", "us", "sis")):
        return noun
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    if noun.endswith(("ches", "shes", "sses", "xes", "zzes", "toes", "goes", "roes")):
        return noun[:-2]
    return noun[:-1]


@lru_cache(100_000)
def is_plural(noun: str) -> bool:
    return singular(noun) != noun


@lru_cache(100_000)
def base_forms(form: str) -> tuple[str, ...]:
    """Possible base verbs of a word, likeliest first."""
    return tuple(sorted(_bases(form), key=lambda base: base not in VERBS))


def _bases(form: str) -> tuple[str, ...]:
    if form in _IRREGULAR_VERBS:
        return (_IRREGULAR_VERBS[form],)
    if form.endswith("ing") and len(form) > 4:
        return _of_stem(form[:-3])
    if form.endswith("ied") and len(form) > 4:
        return (form[:-3] + "y",)
    if form.endswith("ed") and len(form) > 3 and not form.endswith("eed"):
        return _of_stem(form[:-2])
    if form.endswith("s") and len(form) > 3 and not form.endswith(("ss", "us", "is")):
        return _of_third_person(form)
    return ()


def _of_stem(stem: str) -> tuple[str, ...]:
    if not any(vowel in stem for vowel in "aeiouy"):
        return ()
    if _DOUBLED.search(stem):
        return stem[:-1], stem
    if stem.endswith("ll"):
        return stem, stem[:-1]
    return (stem + "e", stem) if _MUTE_E.search(stem) else (stem, stem + "e")


def _of_third_person(form: str) -> tuple[str, ...]:
    if form.endswith("ies"):
        return (form[:-3] + "y",)
    if form.endswith(("ches", "shes", "sses", "xes", "zzes", "oes")):
        return form[:-2], form[:-1]
    return (form[:-1],)


def is_participle(word: str) -> bool:
    """Whether a word looks like a present or past participle."""
    return word not in ING_NOUNS and bool(base_forms(word)) and not word.endswith("s")


@lru_cache(100_000)
def is_common(word: str) -> bool:
    """Whether a word is a form of a listed one."""
    parts = word.split("-") if "-" in word else [word.split("'")[0].split("’")[0]]
    return all(_is_listed(part) for part in parts)


def _is_listed(word: str) -> bool:
    bases = {word, singular(word), *base_forms(word)}
    if word.endswith(("er", "est", "ly")) and len(word) > 6:
        stem = word.removesuffix("er").removesuffix("est").removesuffix("ly")
        bases |= {stem, stem + "e", stem[:-1], stem[:-1] + "y"}
    return not (bases.isdisjoint(NOUNS) and bases.isdisjoint(VERBS) and bases.isdisjoint(ADJECTIVES))
