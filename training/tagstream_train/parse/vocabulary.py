"""Choose labels: common mentions or given names, and reviewed ones.

A text that was found as two kinds (the *orange* fruit, an *orange* shirt) is a label of its commoner kind alone; a
person can keep both, or merge one into another name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from tagstream_train.parse import words
from tagstream_train.parse.mentions import SYNONYMS, Mention
from tagstream_train.parse.review import ReviewDecision


@dataclass
class Seen:
    """A mention's count and one of its captions."""

    count: int
    example: str


class Vocabulary:
    """The labels, and each mention's label.

    *Running* is also given by the action *run*, *Dogs* by *dog*.

    Args:
        labels: their names, in the order of their ids.
        seen: what `settled` gives; it says which kind of mention is the commonest for each label.
    """

    def __init__(
        self, labels: Sequence[str], seen: Mapping[Mention, Seen], decisions: Mapping[Mention, ReviewDecision]
    ) -> None:
        self.labels = tuple(labels)
        self._spelled = _spellings(labels)
        self._kinds = self._kinds_of(seen, decisions)
        self._decisions = decisions
        self.id_of = cache(self._find)
        """The label of a mention, if any. Of *city street* it is *street* where the whole is no label."""

    def _kinds_of(
        self, seen: Mapping[Mention, Seen], decisions: Mapping[Mention, ReviewDecision]
    ) -> dict[int, set[str]]:
        """Kinds of mention that give each label."""
        kinds: dict[int, set[str]] = {}
        for mention in _by_count(seen):
            decision = decisions.get(mention)
            at = self._spelled.get(mention.text)
            if at is None or (decision is not None and decision.verdict != "keep"):
                continue
            if decision is not None or at not in kinds:
                kinds.setdefault(at, set()).add(mention.kind)
        return kinds

    def ids(self, mentions: Iterable[Mention]) -> tuple[int, ...]:
        """The label ids of mentions, ascending."""
        return tuple(sorted({at for mention in mentions if (at := self.id_of(mention)) is not None}))

    def _find(self, mention: Mention) -> int | None:
        for part in endings(mention):
            decision = self._decisions.get(part)
            if decision is not None and decision.verdict == "drop":
                return None
            if decision is not None and decision.verdict == "merge":
                return self._spelled.get(decision.into)
            at = self._spelled.get(part.text)
            if at is not None and part.kind in self._kinds.get(at, ()):
                return at
        return None


def ranked(
    seen: Mapping[Mention, Seen],
    decisions: Mapping[Mention, ReviewDecision],
    *,
    top: int,
    least: int,
    first: Sequence[str] = (),
) -> list[str]:
    """The labels: `first`, the commonest names, then reviewed rare ones.

    Args:
        top: how many of the commonest at most.
        least: how often a name must be seen.
    """
    counts: Counter[str] = Counter()
    kept: set[str] = set()
    commonest: dict[str, Mention] = {}
    for mention in _by_count(seen):
        decision = decisions.get(mention, ReviewDecision("keep"))
        if decision.verdict == "merge":
            counts[decision.into] += seen[mention].count
        elif mention in decisions and decision.verdict == "keep":
            counts[mention.text] += seen[mention].count
            kept.add(mention.text)
        elif decision.verdict == "keep" and commonest.setdefault(mention.text, mention) == mention:
            counts[mention.text] += seen[mention].count
    names = sorted((name for name in counts if counts[name] >= least), key=lambda name: (-counts[name], name))
    there = _spellings(first)
    return [*dict.fromkeys([*first, *(name for name in [*names[:top], *sorted(kept)] if name not in there)])]


def endings(mention: Mention) -> Iterable[Mention]:
    """A mention, then its shorter and shorter endings."""
    parts = mention.text.split()
    return (mention._replace(text=" ".join(parts[start:])) for start in range(len(parts)))


def _by_count(seen: Mapping[Mention, Seen]) -> list[Mention]:
    return sorted(seen, key=lambda mention: (-seen[mention].count, mention))


def _spellings(labels: Sequence[str]) -> dict[str, int]:
    """Label ids by every spelling a parser may write."""
    spelled: dict[str, int] = {}
    for at, label in enumerate(labels):
        spelled.setdefault(label, at)
    for at, label in enumerate(labels):
        for form in _forms(label):
            spelled.setdefault(form, at)
    return spelled


def _forms(label: str) -> Iterable[str]:
    plain = " ".join(label.lower().replace("_", " ").split())
    first, _, last = plain.rpartition(" ")
    name = f"{first} {words.singular(last)}".strip()
    yield from (plain, name, SYNONYMS.get(plain, plain), SYNONYMS.get(name, name))
    if not first:
        yield from words.base_forms(last)[:1]


def settled(seen: Mapping[Mention, Seen], least: int, decided: Collection[Mention] = ()) -> dict[Mention, Seen]:
    """Count rare compounds as their endings: *harbor seal* as *seal*."""
    result = {mention: Seen(found.count, found.example) for mention, found in seen.items()}
    for mention in sorted(seen, key=lambda each: -len(each.text.split())):
        found = result[mention]
        shorter = next(iter([*endings(mention)][1:]), None)
        if shorter is None or found.count >= least or mention in decided:
            continue
        result.setdefault(shorter, Seen(0, found.example)).count += found.count
        del result[mention]
    return result
