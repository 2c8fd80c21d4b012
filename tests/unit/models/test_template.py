from __future__ import annotations

import pytest

from workers.models.template import TemplateCaptioner, describe, with_article
from workers.types import Caption


def test_a_caption_is_marked_as_made_by_rule() -> None:
    assert TemplateCaptioner()(["cat"]) == Caption(text="a picture of a cat", score=None, method="template")


@pytest.mark.parametrize(
    ("names", "caption"),
    [
        ([], None),
        (["cat"], "a picture of a cat"),
        (["cat", "dog"], "a picture of a cat and a dog"),
        (["cat", "dog", "umbrella"], "a picture of a cat, a dog and an umbrella"),
        (["cat", "dog", "umbrella", "house"], "a picture of a cat, a dog and an umbrella"),
        (["espresso", "cup"], "a picture of espresso and a cup"),
    ],
)
def test_a_caption_names_at_most_three_tags(names: list[str], caption: str | None) -> None:
    assert describe(names) == caption


def test_names_with_the_same_last_word_are_said_once() -> None:
    assert describe(["tiger cat", "Egyptian cat", "sofa", "tabby cat"]) == "a picture of a tiger cat and a sofa"


def test_a_remark_that_tells_two_labels_apart_is_left_out() -> None:
    assert describe(["crane (bird)"]) == "a picture of a crane"


def test_a_name_of_blanks_or_a_remark_alone_is_no_tag() -> None:
    assert describe([" ", "(bird)"]) is None


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("apple", "an apple"),
        ("Egyptian cat", "an Egyptian cat"),
        ("European fire salamander", "a European fire salamander"),
        ("unicycle", "a unicycle"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("house", "a house"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("sunglasses", "sunglasses"),
        ("swimming trunks", "swimming trunks"),
        ("jeans", "jeans"),
        ("bus", "a bus"),
        ("compass", "a compass"),
        ("lens", "a lens"),
        ("mantis", "a mantis"),
        ("red wine", "red wine"),
        ("wine bottle", "a wine bottle"),
    ],
)
def test_the_article_fits_the_name(name: str, named: str) -> None:
    assert with_article(name) == named
