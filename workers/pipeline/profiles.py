"""Threshold profiles: which scores become tags. Changing one re-renders cached scores and touches no picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.errors import Misconfigured
from workers.ports import Tagger
from workers.vocabulary import LabelScores


@dataclass(frozen=True, slots=True)
class Profile:
    """Thresholds by label id, (n,) float32; a tag is shown when its score is greater."""

    name: str
    thresholds: NDArray[np.float32]
    digest: str

    def select(self, scores: LabelScores) -> list[tuple[int, float]]:
        """(label id, score to 6 decimals) of the tags to show, best first; equal scores in label order."""
        shown = scores.scores > self.thresholds[scores.label_ids]
        ids, values = scores.label_ids[shown], scores.scores[shown]
        order = np.argsort(-values, kind="stable")
        return [(int(ids[i]), round(float(values[i]), 6)) for i in order]


def make_profile(name: str, thresholds: Sequence[float] | NDArray[np.float32]) -> Profile:
    values = np.asarray(thresholds, np.float32)
    return Profile(name, values, hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()[:16])


def default_profiles(tagger: Tagger | None) -> dict[str, Profile]:
    """The bundle's own thresholds, as the profile `default`, and the others that it offers by name."""
    if tagger is None:
        return {"default": make_profile("default", [])}
    offered = {**tagger.profiles, "default": tagger.thresholds}
    return {name: make_profile(name, thresholds) for name, thresholds in offered.items()}


def read_profiles(tagger: Tagger | None, wanted: Mapping[str, object]) -> dict[str, Profile]:
    """Profiles from a mapping name → {"all": number, "labels": {tag name: number}}, beside the bundle's own.

    One of the same name takes the place of the bundle's; each begins with the bundle's thresholds. `all` replaces
    every threshold, `labels` those of single tags; a threshold of 1 switches a tag off.

    Raises:
        Misconfigured: it has another shape, an unknown tag, or a number outside 0..1.
    """
    profiles = default_profiles(tagger)
    for name, rules in wanted.items():
        profiles[name] = make_profile(name, _apply(name, rules, tagger))
    return profiles


def _apply(name: str, rules: object, tagger: Tagger | None) -> NDArray[np.float32]:
    if tagger is None:
        raise Misconfigured(f"threshold profile {name!r}: there is no tagger whose thresholds it could change")
    if not isinstance(rules, Mapping) or not set(rules) <= {"all", "labels"}:
        raise Misconfigured(f'threshold profile {name!r}: give {{"all": 0.7, "labels": {{"cat": 0.5}}}}')
    thresholds = np.asarray(tagger.thresholds, np.float32).copy()
    if "all" in rules:
        thresholds[:] = _threshold(name, "all", rules["all"])
    labels = rules.get("labels", {})
    if not isinstance(labels, Mapping):
        raise Misconfigured(f"threshold profile {name!r}: labels is a mapping from a tag's name to its threshold")
    ids_of: dict[str, list[int]] = {}
    for label_id, label in enumerate(tagger.labels):
        ids_of.setdefault(label, []).append(label_id)
    for label, value in labels.items():
        if label not in ids_of:
            raise Misconfigured(f"threshold profile {name!r}: {tagger.name} has no tag {label!r}")
        thresholds[ids_of[label]] = _threshold(name, str(label), value)
    return thresholds


def _threshold(profile: str, label: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Misconfigured(f"threshold profile {profile!r}: {label} is {value!r}, not a number from 0 to 1")
    return float(value)
