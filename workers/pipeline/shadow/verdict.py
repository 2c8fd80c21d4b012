"""Whether a shadow tagger may take the place of the live one: a rule over its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.printable import counted
from workers.pipeline.shadow.report import ShadowReport, TagCounts

_NAMED = 3
"""A sentence names so many labels."""


@dataclass(frozen=True, slots=True)
class PromotionRule:
    """What has to be true of a report.

    Args:
        images: so many were compared at least.
        jaccard: the mean Jaccard index of the two sets of tags is no less.
        label_images: labels that the live tagger gave to so many images at least are judged each by itself:
        label_agreement: of the images to which either gave it, both gave it to this share at least.
        may_lose_labels: the shadow need not have all these labels.
    """

    images: int
    jaccard: float
    label_images: int
    label_agreement: float
    may_lose_labels: bool


@dataclass(frozen=True, slots=True)
class Objection:
    """Why the shadow may not be promoted, and what to do next."""

    reason: str
    advice: str


def objections(report: ShadowReport, rule: PromotionRule) -> list[Objection]:
    """Everything of the rule that the report does not fulfil; empty: it may be promoted."""
    return list(_objections(report, rule))


def judged(report: ShadowReport, rule: PromotionRule) -> Mapping[str, TagCounts]:
    """The labels that count for the rule each by itself, the worst first."""
    often = {name: found for name, found in report.labels.items() if found.by_live >= rule.label_images}
    return dict(sorted(often.items(), key=lambda item: (item[1].share, -item[1].by_any, item[0])))


def lost(report: ShadowReport, rule: PromotionRule) -> Mapping[str, int]:
    """How often the live tagger gave the labels that the shadow does not have, of those that count; most first."""
    often = {name: count for name, count in report.only_live_has.items() if count >= rule.label_images}
    return dict(sorted(often.items(), key=lambda item: (-item[1], item[0])))


def _objections(report: ShadowReport, rule: PromotionRule) -> Iterator[Objection]:
    if report.switched_off:
        yield Objection(
            f"it switched itself off, the last time because: {report.switched_off[-1]}",
            "correct that, delete the reports, and let it run anew",
        )
    if report.compared < rule.images:
        yield Objection(
            f"{counted(report.compared, 'image')} compared, and {rule.images:,} asked for",
            "let it see more: wait, or raise TAGSTREAM_SHADOW_SHARE",
        )
    mean = report.mean_jaccard
    if mean is not None and mean < rule.jaccard:
        yield Objection(
            f"the mean Jaccard index is {mean:.3f}, and {rule.jaccard:g} is asked for",
            "look at images of the worst labels with `tagstream tag`; adapt the shadow's thresholds or its training",
        )
    bad = [name for name, found in judged(report, rule).items() if found.share < rule.label_agreement]
    if bad:
        yield Objection(
            f"of the images to which either gives {_labels(bad)}, both give it to less than {rule.label_agreement:.0%}",
            "look at these labels: it may be the live tagger that is wrong; --label-agreement accepts less",
        )
    missing = [] if rule.may_lose_labels else list(lost(report, rule))
    if missing:
        yield Objection(
            f"it does not have {_labels(missing)}, which the live tagger gives",
            "tell those who read the events, and accept it with --may-lose-labels",
        )


def _labels(names: Sequence[str]) -> str:
    named = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{len(names):,} labels ({named}{more})" if len(names) > 1 else f"the label {named}"
