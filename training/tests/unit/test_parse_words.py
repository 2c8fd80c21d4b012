"""Forms of English words, phrases, and what a lexicon learns."""

from __future__ import annotations

import pickle

import pytest

from tagstream_train.parse import words
from tagstream_train.parse.grammar import GrammarParser
from tagstream_train.parse.lexicon import LexiconParser, learn
from tagstream_train.parse.mentions import Mention
from tests.support.growth import LINEAR, growth
from workers.errors import Misconfigured


@pytest.mark.parametrize(
    ("form", "verb"),
    [
        ("riding", "ride"), ("sitting", "sit"), ("eating", "eat"), ("leaning", "lean"), ("juggling", "juggle"),
        ("dancing", "dance"), ("decorated", "decorate"), ("covered", "cover"), ("watches", "watch"),
        ("carries", "carry"), ("worn", "wear"), ("lying", "lie"), ("grazing", "graze"), ("visiting", "visit"),
        ("preparing", "prepare"), ("hanging", "hang"), ("rowing", "row"), ("chopping", "chop"), ("grilling", "grill"),
    ],
)  # fmt: skip
def test_a_verb_is_found_behind_its_forms(form: str, verb: str) -> None:
    assert words.base_forms(form)[0] == verb


@pytest.mark.parametrize(
    ("plural", "noun"),
    [
        ("dogs", "dog"), ("people", "person"), ("knives", "knife"), ("berries", "berry"), ("cookies", "cookie"),
        ("dresses", "dress"), ("vases", "vase"), ("benches", "bench"), ("boxes", "box"), ("tomatoes", "tomato"),
        ("shoes", "shoe"), ("scissors", "scissors"), ("grass", "grass"), ("tennis", "tennis"), ("saris", "sari"),
    ],
)  # fmt: skip
def test_a_noun_is_found_behind_its_plural(plural: str, noun: str) -> None:
    assert words.singular(plural) == noun


def texts(caption: str, parser: LexiconParser | None = None) -> list[str]:
    return [mention.text for mention in (parser or LexiconParser()).parse([caption])[0]]


@pytest.mark.parametrize(
    ("caption", "tags"),
    [
        ("", []),
        ("!!! ... 's & 42", []),
        ("the bus is red", ["red", "bus"]),
        ("A couple of bikes and a couple on a BIKE", ["bicycle", "couple"]),
        ("two women who are painting a painting", ["woman", "paint", "painting"]),
        ("ein Käse, très bon", ["ein käse", "très bon"]),
    ],
)
def test_a_lexicon_reads(caption: str, tags: list[str]) -> None:
    assert sorted(texts(caption)) == sorted(tags)


def test_words_of_any_caption_are_bounded_in_what_they_name() -> None:
    assert all(len(text.split()) <= 4 for text in texts("word " * 10_000))


@pytest.mark.parametrize("word", ["red", "painted", "dog", "the", "runs", "and"])
def test_a_caption_of_one_word_without_end_takes_linear_time(word: str) -> None:
    parser = LexiconParser()
    half, whole = (f"{word} " * count for count in (5_000, 10_000))
    assert growth(lambda: parser.parse([half]), lambda: parser.parse([whole])) < LINEAR


def test_what_stands_before_many_nouns_and_ends_no_phrase_is_an_adjective() -> None:
    captions = [f"a teal {thing} on the wall" for thing in ("lamp", "clock", "shelf", "flag", "photo", "map")]
    assert "teal lamp" in texts("a teal lamp")
    assert texts("a teal lamp", LexiconParser(learn(captions))) == ["teal", "lamp"]


def test_what_was_seen_in_ing_is_a_verb_after_a_plural() -> None:
    captions = [f"a {animal} is zorbing in the yard" for animal in ("dog", "cat", "cow")]
    assert texts("two dogs zorb in the yard", LexiconParser(learn(captions))) == ["dog", "zorb", "yard"]


@pytest.mark.slow
def test_parsers_travel_to_other_processes() -> None:
    caption = ["a young man riding a horse"]
    for parser in (LexiconParser(), GrammarParser()):
        there = pickle.loads(pickle.dumps(parser))
        assert there.parse(caption) == parser.parse(caption)
        assert Mention("action", "ride") in parser.parse(caption)[0]


def test_a_model_that_is_not_installed_is_a_sentence() -> None:
    with pytest.raises(Misconfigured, match="spaCy has no model 'nosuch'"):
        _ = GrammarParser("nosuch").name
