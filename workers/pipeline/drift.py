"""Counts published tags, scores and caption lengths, so that drift shows.

A change of model or of images changes these distributions from one week to the next. They are counted in fixed classes,
one sum for each transaction, because a histogram takes a call for each value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from schemas.dead_letter import Failure
from workers import metrics
from workers.pipeline.commit.ledger import Rendered
from workers.pipeline.roles import Roles
from workers.ports import Model
from workers.types import Content

NUMBERS_OF_TAGS = {bound: f"{bound:02}" for bound in (0, 1, 2, 4, 8, 16, 32, 64)}
NUMBERS_OF_WORDS = {bound: f"{bound:02}" for bound in (0, 1, 4, 8, 12, 16, 20, 24, 32, 48)}
TENTHS = {tenth: f"0.{tenth}" for tenth in range(10)}
"""Where each class begins, and what it is called: names that sort as the classes do."""


def content_of(tags: Sequence[Mapping[str, Any]] | None, caption: Mapping[str, Any] | None) -> Content:
    """The content of an enriched image with these fields; `tags` is None if it did not want any."""
    return Content(
        None if tags is None else bytes(min(9, int(tag["score"] * 10)) for tag in tags if "source" not in tag),
        None if caption is None else len(caption["text"].split()),
    )


class Drift:
    """Counts what is published. On the publish thread.

    Args:
        roles: whose models name what is counted: with other weights it is another series, and compared with nothing.
    """

    def __init__(self, roles: Roles) -> None:
        models = {role.use: reference(role.model) for role in roles.models}
        self._tagger = models.get("tagger")
        self._captioner = models.get("captioner", "template")
        if self._tagger is not None:
            for tags in NUMBERS_OF_TAGS.values():
                metrics.TAGGED_IMAGES.begin(model=self._tagger, tags=tags)
            for score in TENTHS.values():
                metrics.TAGS.begin(model=self._tagger, score=score)
        for words in NUMBERS_OF_WORDS.values():
            metrics.CAPTIONED_IMAGES.begin(model=self._captioner, words=words)

    def count(self, outcomes: Iterable[Rendered | Failure]) -> None:
        """These are committed."""
        contents = [each.content for each in outcomes if isinstance(each, Rendered) and each.content is not None]
        scores = [content.scores for content in contents if content.scores is not None]
        words = [content.words for content in contents if content.words is not None]
        if self._tagger is not None:
            _count(metrics.TAGGED_IMAGES, self._tagger, "tags", _classes(map(len, scores), NUMBERS_OF_TAGS))
            _count(metrics.TAGS, self._tagger, "score", _classes(b"".join(scores), TENTHS))
        _count(metrics.CAPTIONED_IMAGES, self._captioner, "words", _classes(words, NUMBERS_OF_WORDS))


def reference(model: Model) -> str:
    """A model by name and weights, as dead letters name it: `ram 3f2a9c0d1e4b`."""
    return f"{model.name} {model.digest[:12]}"


def _classes(values: Iterable[int], classes: Mapping[int, str]) -> dict[str, int]:
    """The number of values in each class; empty classes are omitted."""
    found: Counter[str] = Counter()
    for value, count in Counter(values).items():
        found[classes[max(bound for bound in classes if bound <= value)]] += count
    return found


def _count(metric: metrics.Counter, model: str, label: str, counts: Mapping[str, int]) -> None:
    for value, count in counts.items():
        metric.add(count, model=model, **{label: value})
