"""Makes captions from tags by rule, for workers without a captioning model; the event marks them as such."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from workers.types import Caption

NAMED = 3
"""Tags that a caption names at most: more reads like a list, which the event has already."""

_YOU_SOUND = re.compile(r"(uni|use|usu|uto|eu|ewe|one\b|once\b|ukulele)", re.IGNORECASE)
_SILENT_H = re.compile(r"(hour|honest|honou?r|heir)", re.IGNORECASE)
_REMARK = re.compile(r" ?\([^()]*\)")
"""The part that distinguishes two labels of one name: "crane (bird)"."""

_UNCOUNTED = """
    air art beef beer bread broccoli butter carbonara cash cheese chocolate clothing coffee corn cotton denim dirt
    dough electricity espresso equipment fish fog food fruit fur furniture garlic gold grass gravel guacamole hair
    hay honey ice jewelry juice land leather lightning luggage lumber makeup meat metal milk money mud music nature
    paper pasta pork potpie rain rice salt sand seafood silver smoke snow soap soil steel straw sugar sunlight tea
    traffic velvet water wheat wildlife wine wood wool
"""
UNCOUNTED = frozenset(_UNCOUNTED.split())
"""Names, by their last word, that take no article."""
_DETERMINED = re.compile(
    r"(an?|the|my|your|his|her|its|our|their|this|that|these|those|some|no|every|each)\b(?![-'])", re.I
)
"""Names that begin with a word in the article's place, as labels of a user's own words may."""
_SINGULAR_S = frozenset(
    ("atlas", "canvas", "chassis", "gas", "hen-of-the-woods", "lens", "pyrenees", "tennis", "triceratops")
)


class TemplateCaptioner:
    """Writes a sentence from tag names, best first. Pure; any thread.

    Such as "a picture of a tabby cat and a window".
    """

    method = "template"

    def __call__(self, names: Sequence[str]) -> Caption | None:
        text = describe(names)
        return None if text is None else Caption(text=text, score=None, method=self.method)


def describe(names: Sequence[str]) -> str | None:
    """One phrase that names the first few tags; None without a name.

    Tags that end in the same word ("tiger cat", "tabby cat") are one thing seen twice: the first stands for all.

    >>> describe(["tiger cat", "tabby cat", "umbrella", "sunglasses", "lens"])
    'a picture of a tiger cat, an umbrella and sunglasses'
    """
    by_last_word: dict[str, str] = {}
    for name in names:
        last_word, phrase = _phrase(name)
        if phrase:
            by_last_word.setdefault(last_word, phrase)
            if len(by_last_word) == NAMED:
                break
    if not by_last_word:
        return None
    *first, last = by_last_word.values()
    return f"a picture of {', '.join(first)} and {last}" if first else f"a picture of {last}"


def with_article(name: str) -> str:
    """The name with "a" or "an"; bare if plural, uncountable or with a determiner."""
    last = name.split()[-1].lower()
    if last in UNCOUNTED or _is_plural(last) or _DETERMINED.match(name):
        return name
    vowel = (name[0].lower() in "aeiou" and not _YOU_SOUND.match(name)) or _SILENT_H.match(name)
    return f"{'an' if vowel else 'a'} {name}"


@lru_cache(maxsize=10_000)
def _phrase(name: str) -> tuple[str, str]:
    """A name without remark: its last word, and it with its article."""
    plain = _REMARK.sub("", name).strip()
    return (plain.split()[-1].lower(), with_article(plain)) if plain else ("", "")


def _is_plural(word: str) -> bool:
    return word.endswith("s") and not word.endswith(("ss", "us", "is")) and word not in _SINGULAR_S
