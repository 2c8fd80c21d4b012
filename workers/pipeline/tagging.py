"""The role of tags: labels that score above the thresholds of the event's profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import writing
from schemas.correction import Word
from schemas.enriched_image import CorrectedTags
from schemas.options import Want
from schemas.stored_scores import SCORES_HEADER, PackedScores, encode_pairs
from workers.pipeline import cache_entries as entries
from workers.pipeline.annotation import Annotation, OptionRules, RoleDefaults, changes_nothing
from workers.pipeline.answers import one_each, scores_of
from workers.pipeline.profiles import Profile
from workers.pipeline.published import NotStored, StoredOutcome
from workers.pipeline.task import Attempt
from workers.ports import CorrectionLog, Model, SelfTested, SubsetTagger, Tagger
from workers.types import SCORE_PAIR, LabelScores, Pixels, Subset


def _scored_labels(image: Annotation, results: Mapping[str, Any]) -> str | None:
    """The option rule for scores: only the labels of a profile change them."""
    return image.profile.subset.digest if image.profile.subset is not None else None


_OPTION_RULES: OptionRules = {"want": changes_nothing, "guide_tags": changes_nothing, "profile": _scored_labels}


class Tagging(RoleDefaults):
    name: Want = "tags"
    use = "tagger"
    essential = True
    kind = "scores"
    option_rules = _OPTION_RULES
    in_general = True

    def __init__(self, tagger: Tagger, corrections: CorrectionLog | None = None, keep: bool = True) -> None:
        self.model: Model = tagger
        self._corrections = corrections
        self._keep = keep
        self._ids = {name: number for number, name in reversed(list(enumerate(tagger.labels)))}
        self._tagger = tagger
        self._tags: dict[int, writing.Fields] = {}
        self._known: dict[int, tuple[Any, Any]] = {}
        """Translations and parents by label, for `agrees`."""
        self._parents: Sequence[Sequence[str]] = getattr(tagger, "parents", ())  # taggers from elsewhere may have none
        self.made_by = entries.tagger_key(tagger)
        self._floor = float(np.float32(tagger.floor))

    def pack(self, value: LabelScores) -> bytes:
        return entries.pack_scores(value)

    def unpack(self, value: bytes | None) -> LabelScores | None:
        return entries.unpack_scores(value, len(self._tagger.labels))

    def header(self, image: Annotation) -> tuple[str, bytes] | None:
        """The header with the scores of the profile's labels, best first."""
        scores: LabelScores | None = image.results.get(self.name)
        if scores is None or not self._keep:
            return None
        subset = image.profile.subset
        ids, values = scores.label_ids, scores.scores
        if subset is not None:
            counted = np.isin(ids, subset.ids)
            ids, values = ids[counted], values[counted]
        pairs = np.empty(len(ids), SCORE_PAIR)
        pairs["label"], pairs["score"] = ids, values
        pairs = pairs.take((-values).argsort(kind="stable"))
        tagger, labels = self._tagger, None if subset is None else subset.digest
        return SCORES_HEADER, encode_pairs(tagger.digest, labels, tagger.precision, tagger.floor, pairs.tobytes())

    def restore(self, outcome: StoredOutcome, image: Annotation) -> LabelScores:
        """The scores in the header; of other labels than the profile's they are of no use."""
        try:
            stored = PackedScores.decode(outcome.header(SCORES_HEADER))
        except ValueError:
            raise NotStored("no-scores") from None
        if stored.tagger != self._tagger.digest:
            raise NotStored("no-scores")
        subset = image.profile.subset
        if stored.labels is not None and (subset is None or subset.digest != stored.labels):
            raise NotStored("labels")
        scores = _unpack_pairs(stored.pairs, len(self._tagger.labels), stored.floor)
        if scores is None:
            raise NotStored("no-scores")
        if stored.floor > self._floor and self._hides(image.profile, scores, stored.floor):
            raise NotStored("below-floor")
        return scores

    def _hides(self, profile: Profile, scores: LabelScores, floor: float) -> bool:
        """Whether a label below the header's floor may exceed its threshold."""
        hidden = profile.thresholds < floor
        hidden[scores.label_ids] = False
        scored: NDArray[np.bool_] | None = getattr(self._tagger, "scored", None)
        return bool((hidden if scored is None else hidden & scored).any())

    def run(self, attempts: Sequence[Attempt]) -> Sequence[Any]:
        images = [attempt.pixels(self._tagger) for attempt in attempts]
        answers = self._score(images, [attempt.annotation.profile.subset for attempt in attempts])
        return one_each(self._tagger, answers, len(attempts))

    def finish(self, answer: Any) -> LabelScores:
        return scores_of(self._tagger, answer)

    def self_test(self, attempt: Attempt) -> None:
        """Score the self-test image for the same labels."""
        self.finish(self._score([self._tagger.self_test_image()], [attempt.annotation.profile.subset])[0])

    def check_self_test(self, answer: Any) -> None:
        self.finish(answer)
        if isinstance(self._tagger, SelfTested):
            self._tagger.check_self_test(answer)

    def render(self, image: Annotation) -> Mapping[str, Any]:
        word = self.word(image)
        said = None if word is None else CorrectedTags(added=word.added, removed=word.removed, by=word.by or None)
        return {"tags": self.tags(image) if self.name in image.event.options.want else (), "corrections": said}

    def tags(self, image: Annotation) -> Sequence[writing.Fields]:
        """The tags in the output: manual tags first, then the tagger's, best first."""
        scores: LabelScores | None = image.results.get(self.name)
        if scores is None:
            return ()
        known, unknown = self._added(image)
        persons = [{**self._tag(label), "score": 1.0, "source": "person"} for label in known]
        alone = [writing.tag(name=name, score=1.0, label_id=None, source="person") for name in unknown]
        made, tag = self._tags, self._tag
        models = [{**(made.get(i) or tag(i)), "score": score} for i, score in self._selected(image, scores)]
        return (*persons, *alone, *models)

    def has_labels_of(self, image: Annotation, tags: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the scores select the labels of these tags, in order."""
        scores: LabelScores | None = image.results.get(self.name)
        if scores is None:
            return False
        shown = self._selected(image, scores)
        return len(shown) == len(tags) and all(
            label == tag["label_id"] for (label, _), tag in zip(shown, tags, strict=True)
        )

    def agrees(self, tags: Sequence[Mapping[str, Any]]) -> bool:
        """Whether these published tags have the tagger's translations and parents.

        Raises IndexError: a label id is out of range.
        """
        for tag in tags:
            label = tag["label_id"]
            if label is not None:
                known = self._known.get(label)
                if known is None:
                    made = self._tag(label)
                    known = self._known[label] = made.get("translations"), made.get("parents")
                if tag.get("translations") != known[0] or tag.get("parents") != known[1]:
                    return False
        return True

    def names(self, image: Annotation, *, by_label: bool = False) -> list[str]:
        """The names of all tags, in the order of `tags`; by label, for captioners, those without a label come last."""
        scores: LabelScores | None = image.results.get(self.name)
        if scores is None:
            return []
        known, unknown = self._added(image)
        labels, shown = self._tagger.labels, [label for label, _ in self._selected(image, scores)]
        if by_label:
            return [*(labels[label] for label in sorted([*known, *shown])), *unknown]
        return [*(labels[label] for label in known), *unknown, *(labels[label] for label in shown)]

    def word(self, image: Annotation) -> Word | None:
        """The manual corrections of the image, read once for all uses."""
        if self._corrections is not None and not image.word_asked:
            image.word = self._corrections.on(image.event.subject, image.sha256, image.etag, image.since)
            image.word_asked = True
        return image.word

    def _selected(self, image: Annotation, scores: LabelScores) -> Sequence[tuple[int, float]]:
        """See `_select`; computed once for these scores."""
        if image.selected is None or image.selected[0] is not scores:
            image.selected = scores, self._select(image, scores)
        return image.selected[1]

    def _select(self, image: Annotation, scores: LabelScores) -> Sequence[tuple[int, float]]:
        word = self.word(image)
        found = image.profile.select(scores)
        if word is None:
            return found
        said = {*word.added, *word.removed}
        return [(label, score) for label, score in found if self._tagger.labels[label] not in said]

    def _added(self, image: Annotation) -> tuple[list[int], list[str]]:
        """Added labels that the tagger knows, and names that it does not."""
        if (word := self.word(image)) is None:
            return [], []
        known = sorted(self._ids[name] for name in word.added if name in self._ids)
        return known, [name for name in word.added if name not in self._ids]

    def _tag(self, label: int) -> writing.Fields:
        """A tag of this label, to which its score is missing; made once."""
        made = self._tags.get(label)
        if made is None:
            translations = {code: names[label] for code, names in self._tagger.translations.items()} or None
            parents = list(self._parents[label]) if self._parents else None
            name = self._tagger.labels[label]
            made = writing.tag(name=name, score=0.0, label_id=label, translations=translations, parents=parents or None)
            self._tags[label] = made
        return made

    def _score(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        """Score each image for its labels; None: for all labels."""
        if any(subset is not None for subset in subsets) and isinstance(self._tagger, SubsetTagger):
            return self._tagger.forward_subsets(images, subsets)
        return self._tagger.forward(images)


def _unpack_pairs(pairs: bytes, labels: int, floor: float) -> LabelScores | None:
    """The scores of a header for a tagger with this many labels; None if invalid."""
    found = np.frombuffer(pairs, SCORE_PAIR)
    values, count = found["score"], len(found)
    if not count:
        return LabelScores(np.empty(0, np.int32), np.empty(0, np.float32))
    # Comparisons with NaN are false.
    if not (values[0] <= 1 and values[-1] >= floor and np.count_nonzero(values[1:] <= values[:-1]) == count - 1):
        return None
    by_label = found["label"].argsort()
    ids = found["label"].take(by_label)
    if ids[-1] >= labels or np.count_nonzero(ids[1:] > ids[:-1]) < count - 1:
        return None
    return LabelScores(ids.astype(np.int32), values.take(by_label).astype(np.float32, copy=False))
