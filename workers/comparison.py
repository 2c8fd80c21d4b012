"""Compares two taggers' tags of the same images, by tag name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from schemas.enriched_image import EnrichedImage, Retraction
from schemas.printable import counted
from schemas.version import Order, order

_NAMED = 3
"""A sentence names so many labels."""


class _Content(NamedTuple):
    """What was read: an object, or the rendition of one."""

    sha256: str
    etag: str
    rendition: bool = False

    def is_of(self, other: _Content) -> bool:
        """Whether both are of one content of an object."""
        return self.sha256 == other.sha256 or (self.etag == other.etag and (self.rendition or other.rendition))


_GONE: Final = _Content("", "")


@dataclass(slots=True)
class TagCounts:
    """How often a tag came from both taggers, or from one alone."""

    both: int = 0
    live: int = 0
    candidate: int = 0

    @property
    def by_live(self) -> int:
        return self.both + self.live

    @property
    def by_any(self) -> int:
        return self.both + self.live + self.candidate

    @property
    def share(self) -> float:
        """The share of given tags that both gave; 1 without any."""
        return self.both / self.by_any if self.by_any else 1.0


@dataclass(slots=True)
class Outcomes:
    """The newest outcome of each subject in one topic: its content and tags."""

    only: Set[str] | None = None
    taggers: dict[str, str] = field(default_factory=dict)
    """Name, digest and thresholds of each tagger that was seen, by digests."""
    _newest: dict[str, tuple[Order, _Content, Mapping[str, float]]] = field(default_factory=dict)

    def take(self, output: EnrichedImage | Retraction) -> None:
        """Keep an outcome unless a newer one is known.

        People's tags, and outcomes of events that wanted no tags, are left out: they are no tagger's answer.
        """
        if self.only is not None and output.subject not in self.only:
            return
        place = order(output)
        known = self._newest.get(output.subject)
        if known is not None and place <= known[0]:
            return
        if isinstance(output, Retraction):
            if output.scope == "object":
                self._newest[output.subject] = place, _GONE, {}
            return
        if output.options is not None and "tags" not in output.options.want:
            return
        if (model := output.models.tagger) is not None:
            name = f"{model.name} {model.digest[:12]} (thresholds {output.thresholds.digest[:12]})"
            self.taggers[f"{model.digest} {output.thresholds.digest}"] = name
        tags, source = {tag.name: tag.score for tag in output.tags if tag.source is None}, output.source
        self._newest[output.subject] = place, _Content(source.sha256, source.etag, source.read is not None), tags

    def subjects(self) -> Set[str]:
        return self._newest.keys()

    def images(self) -> Iterator[tuple[str, _Content, Mapping[str, float]]]:
        """Subject, content and tags, with scores, of each existing image."""
        return ((subject, content, tags) for subject, (_, content, tags) in self._newest.items() if content != _GONE)

    def tags_of(self, subject: str, content: _Content) -> Mapping[str, float] | None:
        """The tags of this content, with scores; None if the subject has another."""
        _, known, tags = self._newest.get(subject, (None, _GONE, None))
        return tags if known.is_of(content) else None


@dataclass(slots=True)
class TagAgreement:
    """How many images got the same tags, in all and by label."""

    compared: int = 0
    other_content: int = 0
    """Images that the candidate knows with other bytes, or not at all any more."""
    jaccard_sum: float = 0.0
    labels: dict[str, TagCounts] = field(default_factory=dict)

    @property
    def mean_jaccard(self) -> float | None:
        """The mean Jaccard index; None before the first image."""
        return self.jaccard_sum / self.compared if self.compared else None

    @property
    def tags(self) -> TagCounts:
        """The counts of all labels together."""
        found = self.labels.values()
        return TagCounts(sum(e.both for e in found), sum(e.live for e in found), sum(e.candidate for e in found))

    def count(self, live: Set[str], candidate: Set[str]) -> None:
        """Count one image with these names of tags."""
        both = live & candidate
        for name in live | candidate:
            found = self.labels.setdefault(name, TagCounts())
            found.both += name in both
            found.live += name not in candidate
            found.candidate += name not in live
        self.compared += 1
        self.jaccard_sum += len(both) / len(live | candidate) if live or candidate else 1.0


def agreement(
    live: Outcomes,
    candidate: Outcomes,
    tell: Callable[[str, str, Mapping[str, float], Mapping[str, float]], object] = lambda *_: None,
) -> TagAgreement:
    """The agreement on images that both topics hold with the same content."""
    found = TagAgreement()
    for subject, content, tags in candidate.images():
        known = live.tags_of(subject, content)
        if known is None:
            found.other_content += 1
        else:
            found.count(known.keys(), tags.keys())
            tell(subject, content.sha256, known, tags)
    return found


@dataclass(frozen=True, slots=True)
class PromotionRule:
    """The limits that a comparison must meet.

    Args:
        jaccard: the mean Jaccard index of the two sets of tags is no less.
        label_images: labels that the live tagger gave to so many images at least are judged each by itself:
        label_agreement: least share of a label's images with the label from both.
    """

    images: int
    jaccard: float
    label_images: int
    label_agreement: float
    may_lose_labels: bool


@dataclass(frozen=True, slots=True)
class Objection:
    """Why the candidate may not be promoted, and what to do next."""

    reason: str
    advice: str


def judged(found: TagAgreement, rule: PromotionRule) -> Mapping[str, TagCounts]:
    """The labels to judge one by one, the worst first."""
    often = {
        name: counts
        for name, counts in found.labels.items()
        if counts.by_live >= rule.label_images and counts.both + counts.candidate
    }
    return dict(sorted(often.items(), key=lambda item: (item[1].share, -item[1].by_any, item[0])))


def lost(found: TagAgreement, rule: PromotionRule) -> Mapping[str, int]:
    """The live tagger's frequent labels that the candidate never gives, with images."""
    often = {
        name: counts.live
        for name, counts in found.labels.items()
        if counts.by_live >= rule.label_images and not counts.both + counts.candidate
    }
    return dict(sorted(often.items(), key=lambda item: (-item[1], item[0])))


def objections(found: TagAgreement, rule: PromotionRule, taggers: Sequence[str] = ()) -> Iterator[Objection]:
    """Every limit that a comparison misses; empty: the candidate may be promoted."""
    if len(taggers) > 1:
        yield Objection(
            f"the candidate's topic holds outcomes of {len(taggers)} taggers: {', '.join(taggers[:_NAMED])}",
            "send the images again, or take a new topic",
        )
    if found.compared < rule.images:
        yield Objection(
            f"{counted(found.compared, 'image')} compared; the rule wants {rule.images:,}",
            "wait, or raise TAGSTREAM_SAMPLE of the candidate's workers",
        )
    mean = found.mean_jaccard
    if mean is not None and mean < rule.jaccard:
        yield Objection(
            f"the mean Jaccard index is {mean:.3f}; the rule wants {rule.jaccard:g}",
            "look at images of the worst labels with `tagstream tag`; adapt the candidate's thresholds or its training",
        )
    bad = [name for name, counts in judged(found, rule).items() if counts.share < rule.label_agreement]
    if bad:
        yield Objection(
            f"of the images to which either gives {_labels(bad)}, both give it to less than {rule.label_agreement:.0%}",
            "look at these labels: it may be the live tagger that is wrong; --label-agreement accepts less",
        )
    missing = [] if rule.may_lose_labels else list(lost(found, rule))
    if missing:
        yield Objection(
            f"it never gives {_labels(missing)}, which the live tagger gives",
            "tell those who read the events, and accept it with --may-lose-labels",
        )


def _labels(names: Sequence[str]) -> str:
    named = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{len(names):,} labels ({named}{more})" if len(names) > 1 else f"the label {named}"
