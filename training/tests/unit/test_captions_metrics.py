"""BLEU and CIDEr-D against the numbers of pycocoevalcap 1.2 (bleu_scorer, `closest`; cider_scorer, n=4, sigma=6)."""

from __future__ import annotations

from random import Random

import pytest

from tagstream_train.captions_metrics import bleu, cider, words

WORDS = [
    "a",
    "the",
    "dog",
    "cat",
    "red",
    "blue",
    "circle",
    "square",
    "left",
    "of",
    "two",
    "three",
    "on",
    "grass",
    "runs",
    "jumps",
    "small",
    "large",
    "behind",
    "under",
    "and",
    "with",
    "ball",
]


def made(seed: int) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Forty captions that are one of their references with a quarter of the words changed, some cut short."""
    random = Random(seed)

    def pick(values: list[str]) -> str:
        return values[int(random.random() * len(values))]

    references = [
        [[pick(WORDS) for _ in range(3 + int(random.random() * 10))] for _ in range(1 + int(random.random() * 5))]
        for _ in range(40)
    ]
    captions = []
    for others in references:
        caption = list(others[int(random.random() * len(others))])
        for place in range(len(caption)):
            if random.random() < 0.25:
                caption[place] = pick(WORDS)
        captions.append(caption[:-2] or caption if random.random() < 0.3 else caption)
    return captions, references


EXPECTED = {
    1: (
        (0.8349321546432075, 0.6984524467595518, 0.5918547219672032, 0.4986483122532299),
        2.5663877718659758,
        [3.193684340122507, 7.7092805162738145, 1.2904185452820713],
    ),
    2: (
        (0.841760750615471, 0.7336874013516195, 0.6582829840255329, 0.5931152323873137),
        2.3483455152297994,
        [1.4499218024598735, 0.637349529846487, 5.44991165846212],
    ),
    3: (
        (0.8095404321266465, 0.6932606408206741, 0.6061354745447756, 0.5331940190649707),
        2.4705371350961918,
        [3.9065582541527952, 2.275092231474302, 1.8977664066814732],
    ),
}


@pytest.mark.parametrize("seed", sorted(EXPECTED))
def test_numbers_equal_those_of_coco(seed: int) -> None:
    captions, references = made(seed)
    expected_bleu, expected_cider, first = EXPECTED[seed]
    assert bleu(captions, references) == pytest.approx(expected_bleu, rel=1e-9)
    scores = cider(captions, references)
    assert sum(scores) / len(scores) == pytest.approx(expected_cider, rel=1e-9)
    assert scores[:3] == pytest.approx(first, rel=1e-9)


def test_a_reference_itself_is_perfect() -> None:
    references = [[words("a dog runs on the green grass")], [words("two cats sleep under a small tree")]]
    captions = [others[0] for others in references]
    assert bleu(captions, references) == pytest.approx((1, 1, 1, 1))
    assert cider(captions, references) == pytest.approx([10, 10])


def test_a_caption_without_words_is_worth_nothing() -> None:
    references = [[words("a dog runs on grass")], [words("a cat sleeps under a tree")]]
    assert cider([[], words("a cat")], references)[0] == 0
    assert bleu([[], []], references) == pytest.approx((0, 0, 0, 0), abs=1e-9)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog, on grass.", ["a", "dog", "on", "grass"]),
        ("The dog's ball isn't red!", ["the", "dog", "'s", "ball", "is", "n't", "red"]),
        ("It’s a T-shirt (blue) -- no. 42", ["it", "'s", "a", "t-shirt", "blue", "no", "42"]),
        ("", []),
        ("...", []),
        ("Ein Hund läuft übers Gras", ["ein", "hund", "läuft", "übers", "gras"]),
    ],
)
def test_words_are_lower_case_and_without_punctuation(caption: str, expected: list[str]) -> None:
    assert words(caption) == expected
