"""Tags: the labels of an image that score above the thresholds of its event's profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.dead_letter import Reason, Stage
from schemas.enriched_image import Tag
from schemas.options import Options, Want
from workers.pipeline import cache_entries as entries
from workers.pipeline.answers import one_each, scores_of
from workers.pipeline.option_rules import OptionRules, changes_nothing
from workers.pipeline.task import Task
from workers.ports import Model, SubsetTagger, Tagger
from workers.types import LabelScores, Pixels, Subset


def _scored_labels(task: Task, known: Mapping[str, Any]) -> str | None:
    """The labels that are scored; thresholds are applied to what is kept."""
    return task.profile.subset.digest if task.profile.subset is not None else None


_OPTION_RULES: OptionRules = {"want": changes_nothing, "guide_tags": changes_nothing, "profile": _scored_labels}


class Tagging:
    """Scores of labels; the event shows those above the thresholds of its profile."""

    name: Want = "tags"
    use = "tagger"
    stage: Stage = "annotate"
    reason: Reason = "annotate-failed"
    essential = True
    kind = "scores"
    option_rules = _OPTION_RULES
    in_general = True
    """Where the scores of all labels are known, a profile shows no others than its own."""

    def __init__(self, tagger: Tagger) -> None:
        self.model: Model = tagger
        self._tagger = tagger
        self.made_by = entries.tagger_key(tagger)

    def needs(self, options: Options) -> frozenset[Want]:
        return frozenset()

    def pack(self, value: LabelScores) -> bytes:
        return entries.pack_scores(value)

    def unpack(self, value: bytes | None) -> LabelScores | None:
        return entries.unpack_scores(value, len(self._tagger.labels))

    def run(self, tasks: Sequence[Task]) -> Sequence[Any]:
        images = [task.pixels(self._tagger) for task in tasks]
        answers = self._score(images, [task.profile.subset for task in tasks])
        return one_each(self._tagger, answers, len(tasks))

    def finish(self, answer: Any) -> LabelScores:
        return scores_of(self._tagger, answer)

    def self_test(self, task: Task) -> None:
        """The good image is scored for the same labels: what fails may be what these take."""
        self.finish(self._score([self._tagger.self_test_image()], [task.profile.subset])[0])

    def render(self, task: Task) -> Mapping[str, Any]:
        return {"tags": self.tags(task) if self.name in task.event.options.want else ()}

    def tags(self, task: Task) -> tuple[Tag, ...]:
        """The tags above the task's thresholds, best first."""
        scores: LabelScores | None = task.results.get(self.name)
        if scores is None:
            return ()
        return tuple(
            Tag(
                name=self._tagger.labels[label_id],
                score=score,
                label_id=label_id,
                translations={code: names[label_id] for code, names in self._tagger.translations.items()} or None,
            )
            for label_id, score in task.profile.select(scores)
        )

    def names_by_label(self, task: Task) -> list[str]:
        """Names of the tags above the task's thresholds, in label order, as captioners were trained on."""
        scores: LabelScores | None = task.results.get(self.name)
        if scores is None:
            return []
        return [self._tagger.labels[label_id] for label_id, _ in sorted(task.profile.select(scores))]

    def _score(self, images: Sequence[Pixels], subsets: Sequence[Subset | None]) -> Sequence[Any]:
        """Each image for its labels. Where all want all, the way is the one that every tagger has."""
        if any(subset is not None for subset in subsets) and isinstance(self._tagger, SubsetTagger):
            return self._tagger.forward_subsets(images, subsets)
        return self._tagger.forward(images)
