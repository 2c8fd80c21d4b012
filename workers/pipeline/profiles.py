"""Profiles: named thresholds and labels, which an event can choose.

A profile may name its only labels (`only`). Some taggers can score these labels alone, which is faster. With other
taggers, thresholds hide the other labels, so the tags are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.errors import Misconfigured, nearest
from workers.ports import SubsetTagger
from workers.types import LabelScores, Subset

SHAPE = '{"only": ["cat", "dog"], "all": 0.7, "labels": {"cat": 0.5}}'
"""An example with all rules, for error messages."""

OFF = 1.0
"""No score exceeds this threshold, so it switches a tag off."""


class Labelled(Protocol):
    """The part of a tagger, or of its bundle, that profiles need."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def thresholds(self) -> Sequence[float]: ...
    @property
    def profiles(self) -> Mapping[str, Sequence[float]]: ...


@dataclass(frozen=True, slots=True)
class Profile:
    """Named thresholds and labels.

    Args:
        thresholds: (n,) float32, by label id; a label becomes a tag if its score is greater.
        subset: the labels to score; None: all labels.
    """

    name: str
    thresholds: NDArray[np.float32]
    digest: str
    subset: Subset | None = None

    def shows(self, scores: LabelScores) -> NDArray[np.bool_]:
        """Whether each score becomes a tag: (n,) bool."""
        return scores.scores > self.thresholds.take(scores.label_ids)

    def select(self, scores: LabelScores) -> list[tuple[int, float]]:
        """The tags as (label id, score to 6 decimals), best first. Equal scores are in label order."""
        shown = self.shows(scores).nonzero()[0]
        if not len(shown):
            return []
        best = shown.take((-scores.scores.take(shown)).argsort(kind="stable"))
        ids, values = scores.label_ids.take(best).tolist(), scores.scores.take(best).tolist()
        return [(i, round(score, 6)) for i, score in zip(ids, values, strict=True)]


def make_profile(name: str, thresholds: Sequence[float] | NDArray[np.float32], subset: Subset | None = None) -> Profile:
    values = np.asarray(thresholds, np.float32)
    return Profile(name, values, hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()[:16], subset)


def default_profiles(tagger: Labelled | None) -> dict[str, Profile]:
    """The profiles of the bundle; `default` has the bundle's own thresholds."""
    if tagger is None:
        return {"default": make_profile("default", [])}
    offered = {**tagger.profiles, "default": tagger.thresholds}
    return {name: make_profile(name, thresholds) for name, thresholds in offered.items()}


def read_profiles(
    tagger: Labelled | None, wanted: Mapping[str, object], allowed: Collection[str] | None = None
) -> dict[str, Profile]:
    """The bundle's profiles and the profiles in `wanted`.

    Args:
        wanted: maps a name to {"only": [tag name], "all": number, "labels": {tag name: number}}. A profile starts with
            the bundle's thresholds. `all` replaces all thresholds, and `labels` the thresholds of single tags. A
            threshold of 1 switches a tag off. `only` switches all other tags off.
        allowed: names of the tags that the tagger scores; None: all.

    Raises:
        Misconfigured: a rule has a wrong shape, a tag is unknown or not allowed, or a number is outside 0 to 1.
    """
    profiles = default_profiles(tagger)
    for name, rules in wanted.items():
        profiles[name] = _Reading(name, tagger, allowed).read(rules)
    return profiles


class _Reading:
    """Reads the rules of one profile. Each error names the profile."""

    def __init__(self, name: str, tagger: Labelled | None, allowed: Collection[str] | None) -> None:
        self._name = name
        if tagger is None:
            raise self._error("without a tagger there are no thresholds to change")
        self._tagger = tagger
        self._allowed = allowed
        self._ids_of: dict[str, list[int]] = {}
        for label_id, label in enumerate(tagger.labels):
            self._ids_of.setdefault(label, []).append(label_id)

    def read(self, rules: object) -> Profile:
        if not isinstance(rules, Mapping) or not set(rules) <= {"only", "all", "labels"}:
            raise self._error(f"give {SHAPE}, or some of it")
        counted = self._counted(rules["only"]) if "only" in rules else None
        thresholds = self._thresholds(rules)
        if counted is None:
            return make_profile(self._name, thresholds)
        for label in rules.get("labels", {}):
            if label not in counted:
                raise self._error(f"{label!r} has a threshold, but is not among `only`: this tag is never shown")
        ids = sorted(label_id for label in counted for label_id in self._ids_of[label])
        thresholds[np.setdiff1d(np.arange(len(thresholds)), ids)] = OFF
        return make_profile(self._name, thresholds, self._subset(counted, ids))

    def _counted(self, names: object) -> set[str]:
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self._error("`only` is a list of tags' names, at least one")
        for name in names:
            self._known(name)
            if self._allowed is not None and name not in self._allowed:
                raise self._error(
                    f"{name!r} is not among the tags that TAGSTREAM_LABELS_FILE names, so it is never scored"
                )
        return set(names)

    def _thresholds(self, rules: Mapping[str, object]) -> NDArray[np.float32]:
        thresholds = np.array(self._tagger.thresholds, np.float32)
        if "all" in rules:
            thresholds[:] = self._number("all", rules["all"])
        labels = rules.get("labels", {})
        if not isinstance(labels, Mapping):
            raise self._error("`labels` is a mapping from a tag's name to its threshold")
        for label, value in labels.items():
            thresholds[self._known(label)] = self._number(label, value)
        return thresholds

    def _subset(self, counted: set[str], ids: Sequence[int]) -> Subset | None:
        """The labels to score; None: the tagger scores all labels."""
        scored = self._ids_of if self._allowed is None else self._allowed
        if not isinstance(self._tagger, SubsetTagger) or counted.issuperset(scored):
            return None
        return Subset(tuple(ids))

    def _known(self, label: str) -> list[int]:
        if label not in self._ids_of:
            raise self._error(f"{self._tagger.name} has no tag {label!r}.{nearest(label, self._ids_of)}")
        return self._ids_of[label]

    def _number(self, label: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise self._error(f"{label} is {value!r}, not a number from 0 to 1")
        return float(value)

    def _error(self, says: str) -> Misconfigured:
        return Misconfigured(f"threshold profile {self._name!r}: {says}")
