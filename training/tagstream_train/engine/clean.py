"""Cleaning: find a set's wrong tags by looking at regions.

A tag is dropped as

- *unconfirmed*: the first model sees it in no region of the image,
- *disagreement*: fewer than half of the models with this label see it, or
- *outlier*: its region is one of the farthest from all other regions of that label.

The first pass looks at the images. It writes each tag's best region, with the region's features, to a file. So a set
can be larger than memory, and an interrupted run resumes. The second pass decides label by label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from tagstream_train.data.images import BadImage, Carrier
from tagstream_train.data.samples import SAMPLES, DataSet, Ids, Sample, places, write_again
from tagstream_train.engine.journal import Journal
from tagstream_train.engine.regions import Box, Floats, Regions, crops, farthest
from tagstream_train.plan import Exact
from workers.errors import Misconfigured
from workers.models.files import sha256_of

Reason = Literal[
    "confirmed", "protected", "not-asked", "unknown-label", "unreadable", "unconfirmed", "disagreement", "outlier"
]
DROPPED: tuple[Reason, ...] = ("unconfirmed", "disagreement", "outlier")


class Looker(Protocol):
    """A model that looks at parts of an image."""

    name: str
    digest: str
    labels: Sequence[str]
    thresholds: Sequence[float]
    dimensions: int
    """The length of its feature vectors."""

    def look(self, parts: Sequence[Image.Image]) -> tuple[Floats, Floats]:
        """Scores (parts, labels) in 0..1 and features (parts, dimensions) of RGB images."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """Conditions under which a tag stays.

    Args:
        confirm: factor of each label's threshold.
        outliers: share of a label's regions that lose the tag as outliers; 0: off.
        clusters: the most clusters of a label's regions.
        least: a label with fewer regions has no outliers.
        protected: tags of these origins are never dropped.
        labels: names of the labels to check; None: all.
    """

    confirm: float = 1.0
    outliers: float = 0.1
    clusters: int = 8
    least: int = 20
    protected: frozenset[str] = frozenset({"given", "person"})
    labels: frozenset[str] | None = None
    seed: int = 0


class Decision(Exact):
    """A decision on one tag, with its reason: a line of decisions.jsonl."""

    image: str
    label: str
    tag: int
    """The label's id in the set."""
    kept: bool
    reason: Reason
    detail: str = ""
    scores: dict[str, float] = Field(default={})
    """The tag's best score in any region, by model."""
    box: Box | None = None
    """The region where the first model sees it best, in pixels."""


class _Seen(Exact):
    """Evidence for a tag. Its row of features is in features.bin."""

    label: int
    box: Box
    scores: dict[str, float]


class _Evidence(Exact):
    """A line of evidence.jsonl: all evidence of one image."""

    image: str
    seen: tuple[_Seen, ...] = ()
    unreadable: str | None = None


class Cleaner:
    """Judges every tag of a set by models and rules."""

    def __init__(self, dataset: DataSet, models: Sequence[Looker], regions: Regions, rules: Rules) -> None:
        """
        Args:
            models: the first confirms, and its features give the outliers; the others vote. Labels match by name.

        Raises:
            Misconfigured: the first model knows no label of the check.
        """
        self._dataset, self._models, self._regions, self._rules = dataset, models, regions, rules
        ids = [places(model.labels) for model in models]
        self._columns = {
            number: [of.get(name) for of in ids]
            for number, name in enumerate(dataset.labels)
            if name in ids[0] and (rules.labels is None or name in rules.labels)
        }
        if not self._columns:
            raise Misconfigured(
                f"{models[0].name} knows none of the labels to be checked; labels are matched by their exact names."
            )

    def clean(
        self, read: Callable[[Sample], Image.Image], folder: Path, report: Callable[[int], None] = lambda _: None
    ) -> Iterator[tuple[Sample, list[Decision]]]:
        """Yield each cleaned sample with a decision for every old tag.

        Args:
            read: an image as RGB; raises `BadImage` for an unusable one, which keeps its tags.
            folder: of the evidence. An interrupted run resumes from it.

        Raises:
            Misconfigured: the folder's evidence is of other models, regions or samples.
        """
        evidence, features = self._looked(read, folder, report)
        outliers = self._outliers(evidence, features)
        row = 0
        for sample, found in zip(self._dataset, evidence, strict=True):
            marks = outliers[row : row + len(found.seen)]
            row += len(found.seen)
            decisions = self._decide(sample, found, marks)
            yield _without(sample, decisions), decisions

    def _looked(
        self, read: Callable[[Sample], Image.Image], folder: Path, report: Callable[[int], None]
    ) -> tuple[Journal[_Evidence], NDArray[Any]]:
        """All evidence, with a row of features for each tag in it."""
        identity = {
            "models": [model.digest for model in self._models],
            "samples": sha256_of(self._dataset.folder / SAMPLES),
            "regions": repr(self._regions),
        }
        evidence = Journal(folder / "evidence.jsonl", _Evidence, identity)
        done, tags = 0, 0
        for found in evidence:
            done, tags = done + 1, tags + len(found.seen)
        width = self._models[0].dimensions
        with (folder / "features.bin").open("ab", buffering=0) as file:
            file.truncate(2 * width * tags)  # drop rows that a killed run wrote without their line
            for sample in islice(self._dataset, done, None):
                found, rows = self._look(sample, read)
                file.write(rows.astype(np.float16).tobytes())
                evidence.write([found])
                done, tags = done + 1, tags + len(found.seen)
                report(done)
        if not tags:
            return evidence, np.zeros((0, width))
        return evidence, np.memmap(folder / "features.bin", np.float16, "r", shape=(tags, width))

    def _look(self, sample: Sample, read: Callable[[Sample], Image.Image]) -> tuple[_Evidence, Floats]:
        """One image's evidence, and the features of its tags' best regions."""
        nothing = np.zeros((0, self._models[0].dimensions), np.float32)
        tags = [tag for tag in sample.tags if tag in self._columns and not self._protects(sample, tag)]
        if not tags:
            return _Evidence(image=sample.image), nothing
        try:
            image = read(sample)
        except BadImage as error:
            return _Evidence(image=sample.image, unreadable=error.reason), nothing
        parts = crops(image, self._regions.propose(image, [self._dataset.labels[tag] for tag in tags]))
        if not parts:
            return _Evidence(image=sample.image, unreadable="no region of it was proposed"), nothing
        looks = [model.look([part for _, part in parts]) for model in self._models]
        first_scores, features = looks[0]
        seen, rows = [], []
        for tag in tags:
            best = int(first_scores[:, self._columns[tag][0]].argmax())
            scores = {
                model.name: round(float(look[:, column].max()), 4)
                for model, column, (look, _) in zip(self._models, self._columns[tag], looks, strict=True)
                if column is not None
            }
            seen.append(_Seen(label=tag, box=parts[best][0], scores=scores))
            rows.append(features[best])
        return _Evidence(image=sample.image, seen=tuple(seen)), np.stack(rows)

    def _outliers(self, evidence: Iterable[_Evidence], features: NDArray[Any]) -> NDArray[np.bool_]:
        """A mark for each row of features."""
        rules, marks = self._rules, np.zeros(len(features), np.bool_)
        if rules.outliers <= 0:
            return marks
        of_label: dict[int, list[int]] = defaultdict(list)
        for row, seen in enumerate(seen for found in evidence for seen in found.seen):
            of_label[seen.label].append(row)
        for label, rows in of_label.items():
            mine = np.asarray(features[rows], np.float32)
            far = farthest(mine, rules.outliers, clusters=rules.clusters, least=rules.least, seed=rules.seed + label)
            marks[np.array(rows)[far]] = True
        return marks

    def _decide(self, sample: Sample, found: _Evidence, outliers: NDArray[np.bool_]) -> list[Decision]:
        seen = {each.label: (each, bool(mark)) for each, mark in zip(found.seen, outliers, strict=True)}
        return [
            self._judged(sample, *seen[tag]) if tag in seen else self._kept_unseen(sample, tag, found)
            for tag in sample.tags
        ]

    def _judged(self, sample: Sample, seen: _Seen, outlier: bool) -> Decision:
        wanted = {
            model.name: self._rules.confirm * model.thresholds[column]
            for model, column in zip(self._models, self._columns[seen.label], strict=True)
            if column is not None
        }
        votes = [seen.scores[model] > least for model, least in wanted.items()]
        first = self._models[0].name
        reason: Reason = "confirmed"
        detail = ""
        if not votes[0]:
            reason = "unconfirmed"
            detail = f"{first} scores it {seen.scores[first]:.2f} in its best region and wants over {wanted[first]:.2f}"
        elif 2 * sum(votes) < len(votes):
            reason, detail = "disagreement", f"{sum(votes)} of {len(votes)} models see it"
        elif outlier:
            reason = "outlier"
            detail = f"among the {self._rules.outliers:.0%} of its regions that are farthest from the others"
        return Decision(
            image=sample.image,
            label=self._dataset.labels[seen.label],
            tag=seen.label,
            kept=reason not in DROPPED,
            reason=reason,
            detail=detail,
            scores=seen.scores,
            box=seen.box,
        )

    def _kept_unseen(self, sample: Sample, tag: int, found: _Evidence) -> Decision:
        name = self._dataset.labels[tag]
        reason: Reason
        if self._protects(sample, tag):
            reason, detail = "protected", f"its origin is {sample.origins[tag]!r}"
        elif self._rules.labels is not None and name not in self._rules.labels:
            reason, detail = "not-asked", "it is not among the labels to check"
        elif tag not in self._columns:
            reason, detail = "unknown-label", f"{self._models[0].name} does not know it"
        else:
            reason, detail = "unreadable", found.unreadable or ""
        return Decision(image=sample.image, label=name, tag=tag, kept=True, reason=reason, detail=detail)

    def _protects(self, sample: Sample, tag: int) -> bool:
        return sample.origins.get(tag) in self._rules.protected


def _without(sample: Sample, decisions: Sequence[Decision]) -> Sample:
    """Return the sample without its dropped tags."""
    dropped = {decision.tag for decision in decisions if not decision.kept}
    if not dropped:
        return sample

    def kept(ids: Ids) -> Ids:
        return tuple(each for each in ids if each not in dropped)

    return sample.model_copy(
        update={
            "tags": kept(sample.tags),
            "caption_tags": tuple(map(kept, sample.caption_tags)),
            "origins": {tag: origin for tag, origin in sample.origins.items() if tag not in dropped},
        }
    )


def write_cleaned(
    cleaned: Iterator[tuple[Sample, list[Decision]]],
    dataset: DataSet,
    out: Path,
    models: Sequence[Looker],
    each: Callable[[Decision], None] = lambda _: None,
) -> DataSet:
    """Write the cleaned set, its images and decisions.jsonl.

    Raises:
        Misconfigured: the folder can't be written to.
    """
    carrier = Carrier(dataset.folder, out)

    def samples(log: TextIO) -> Iterator[Sample]:
        for sample, decisions in cleaned:
            for decision in decisions:
                log.write(decision.model_dump_json(exclude_defaults=True) + "\n")
                each(decision)
            carrier.carry(sample)
            yield sample

    out.mkdir(parents=True, exist_ok=True)
    with (out / "decisions.jsonl").open("w", encoding="utf-8") as log:
        step = f"cleaned by {', '.join(model.name for model in models)}"
        parents = {model.name: model.digest for model in models}
        return write_again(dataset, out, samples(log), dataset.labels, step, name=out.name, parents=parents)
