"""The weekly dashboard: drift of the models' answers."""

from __future__ import annotations

from scripts.dashboards.grafana import Choice, Dashboard, Panel, Row, graph, number, shares, warned

_LEAST = 0.0001
"""A class that is empty counts as this share, or the index would be infinite."""

EMPTY = 'tags="00",'


def rate(metric: str, by: str, *, matching: str = "", before: bool = False) -> str:
    """A counter's rates over the chosen window, now or in the baseline."""
    at = " offset $baseline" if before else ""
    return f"sum by ({by}) (rate({metric}{{{matching}WORKERS}}[$window]{at}))"


def share(metric: str, label: str, *, before: bool = False) -> str:
    """The share of each class, by model."""
    classes, all_ = rate(metric, f"model, {label}", before=before), rate(metric, "model", before=before)
    return f"{classes} / on (model) group_left {all_}"


def stability(metric: str, label: str) -> str:
    """The population stability index of a metric's classes, by model: 0 where they are as in the baseline.

    The sum over all classes of (p - q) ln(p / q), of the shares now, p, and in the baseline, q.
    """
    now, before = (f"clamp_min({share(metric, label, before=each)}, {_LEAST})" for each in (False, True))
    return f"sum by (model) (({now} - {before}) * ln({now} / {before}))"


def compared(title: str, meaning: str, unit: str, now: str, before: str) -> Panel:
    """A quantity, and its value in the baseline."""
    return graph(title, meaning, unit, (now, "{{model}}"), (before, "{{model}} in the baseline"), width=12)


def empty(before: bool) -> str:
    few = rate("tagstream_tagged_images_total", "model", matching=EMPTY, before=before)
    return f"{few} / {rate('tagstream_tagged_images_total', 'model', before=before)}"


def tags_an_image(before: bool) -> str:
    tags = rate("tagstream_tags_total", "model", before=before)
    return f"{tags} / {rate('tagstream_tagged_images_total', 'model', before=before)}"


DRIFT = Row(
    "Drift against the baseline",
    [
        warned(
            graph(
                "Population stability index",
                "How far the shares of the classes below are from those of the baseline. Under 0.1 nothing has "
                "changed; over 0.25 something has: the images, or a model's answers.",
                "none",
                (stability("tagstream_tagged_images_total", "tags"), "tags an image, {{model}}"),
                (stability("tagstream_tags_total", "score"), "scores, {{model}}"),
                (stability("tagstream_captioned_images_total", "words"), "words of captions, {{model}}"),
                (stability("tagstream_added_results_total", "words"), "words of a role, {{model}}"),
                width=24,
            ),
            (0.1, "yellow"),
            (0.25, "red"),
        ),
        compared(
            "Images without tags",
            "Share of the images that asked for tags and got none. It jumps with broken preprocessing, wrong "
            "thresholds or another kind of images.",
            "percentunit",
            empty(False),
            empty(True),
        ),
        compared(
            "Tags an image", "Mean number, persons' tags left out.", "none", tags_an_image(False), tags_an_image(True)
        ),
    ],
)

CLASSES = Row(
    "Classes",
    [
        shares(
            "Numbers of tags",
            "Share of images by number of tags: this many or more, and fewer than the next.",
            (share("tagstream_tagged_images_total", "tags"), "{{tags}} {{model}}"),
        ),
        shares(
            "Scores",
            "Share of tags by score: this or more, and less than the next. Nothing is under the thresholds.",
            (share("tagstream_tags_total", "score"), "{{score}} {{model}}"),
        ),
        shares(
            "Words of captions",
            "Share of captions by words: this many or more, and fewer than the next.",
            (share("tagstream_captioned_images_total", "words"), "{{words}} {{model}}"),
        ),
        shares(
            "Words of roles",
            "Share of the results of each role in TAGSTREAM_ROLES by words, as of captions; 00: it found none.",
            (share("tagstream_added_results_total", "words"), "{{words}} {{model}}"),
        ),
    ],
)

SELF_TEST = Row(
    "Self-test",
    [
        number(
            "Since the last right answer",
            "Of the worker for which it is longest. It grows past five minutes: its device is stuck.",
            "s",
            "max(tagstream_self_test_age_seconds{WORKERS})",
        ),
        number(
            "Right answers in an hour",
            "Self-tests of all workers that were right.",
            "short",
            'sum(increase(tagstream_self_tests_total{result="right",WORKERS}[1h]))',
            decimals=0,
        ),
    ],
)


QUALITY = Dashboard(
    "tagstream-quality",
    "tagstream: quality",
    "Whether the models' answers are what they were: drift against a baseline, and self-tests of the device.",
    [DRIFT, CLASSES, SELF_TEST],
    [
        Choice("window", "Window", ["1h", "6h", "1d"]),
        Choice("baseline", "Baseline, so long before", ["7d", "1d", "14d", "28d"]),
    ],
)
