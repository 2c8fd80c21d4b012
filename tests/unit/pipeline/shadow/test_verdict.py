"""Whether a shadow tagger may be promoted: each condition alone can say no."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.pipeline.shadow.test_report import counted
from workers.pipeline.shadow.report import ShadowReport
from workers.pipeline.shadow.verdict import PromotionRule, judged, lost, objections

RULE = PromotionRule(images=10, jaccard=0.8, label_images=3, label_agreement=0.6, may_lose_labels=False)


@pytest.fixture
def good() -> ShadowReport:
    """Ten images, a mean Jaccard index of 0.9; a: 9 of 10, b: 2 of 3."""
    return counted(*[("a", "a")] * 7, ("ab", "ab"), ("ab", "ab"), ("ab", ""))


def reasons(report: ShadowReport, rule: PromotionRule = RULE) -> list[str]:
    found = objections(report, rule)
    assert all(each.advice for each in found)
    return [each.reason for each in found]


def test_one_that_fulfils_the_rule_may_be_promoted(good: ShadowReport) -> None:
    assert reasons(good) == []


def test_too_few_images_prove_nothing(good: ShadowReport) -> None:
    assert reasons(good, replace(RULE, images=11)) == ["10 images compared, and 11 asked for"]
    assert reasons(counted()) == ["0 images compared, and 10 asked for"]


def test_the_mean_of_all_images_counts(good: ShadowReport) -> None:
    assert reasons(good, replace(RULE, jaccard=0.91)) == ["the mean Jaccard index is 0.900, and 0.91 is asked for"]


def test_a_label_that_the_live_tagger_gives_often_counts_by_itself(good: ShadowReport) -> None:
    says = "of the images to which either gives the label b, both give it to less than 70%"
    assert reasons(good, replace(RULE, label_agreement=0.7)) == [says]
    assert reasons(good, replace(RULE, label_agreement=0.7, label_images=4)) == []
    both = "of the images to which either gives 2 labels (b, a), both give it to less than 95%"
    assert reasons(good, replace(RULE, label_agreement=0.95)) == [both]


def test_a_label_that_the_shadow_gives_too_often_does_not_agree() -> None:
    report = counted(*[("ac", "ac")] * 3, *[("c", "ac")] * 7)
    assert reasons(report, replace(RULE, jaccard=0.5)) == [
        "of the images to which either gives the label a, both give it to less than 60%"
    ]


def test_labels_that_would_be_lost_are_told_apart_and_can_be_accepted() -> None:
    """The letters a to f are known to both."""
    report = counted(*[("axyzz", "a")] * 3, *[("awvuts", "a")] * 7)
    says = "it does not have 8 labels (s, t, u and 5 more), which the live tagger gives"
    assert reasons(report) == [says]
    assert reasons(report, replace(RULE, may_lose_labels=True)) == []
    assert list(lost(report, replace(RULE, label_images=4))) == ["s", "t", "u", "v", "w"]


def test_one_that_was_ever_switched_off_is_not_promoted(good: ShadowReport) -> None:
    good.switched_off = ["it raised", "RuntimeError: no"]
    assert reasons(good) == ["it switched itself off, the last time because: RuntimeError: no"]


def test_the_worst_labels_come_first(good: ShadowReport) -> None:
    assert list(judged(good, RULE)) == ["b", "a"]
    assert list(judged(good, replace(RULE, label_images=4))) == ["a"]
