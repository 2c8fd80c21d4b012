"""The report of a fit, with made-up scores."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tagstream_train.data.images import BadImage
from tagstream_train.data.samples import Sample
from tagstream_train.fit.linear import fit_linear
from tagstream_train.fit.promise import Promise
from tagstream_train.fit.report import HIGHEST, MISTAKES, HeldOut, Unlabelled, doubtful, learning_curve, page

NAMES = ("cat", "<script>alert(1)</script>")


def measured(scores: list[list[float]], targets: list[list[float]], known: list[list[float]] | None = None) -> HeldOut:
    count = len(scores)
    return HeldOut(
        NAMES,
        [Sample(image=f"{number}.png", sha256=f"{number:064}") for number in range(count)],
        np.array(scores, np.float32),
        np.array(targets, np.float32),
        np.ones((count, 2), np.float32) if known is None else np.array(known, np.float32),
        np.array([0.5, 0.5], np.float32),
        [Promise(0.8, 0.6, 0.9, 0.9, 371)] * 2,
        0.01,
        0.5,
    )


def picture(name: str) -> Image.Image:
    if name == "0.png":
        raise BadImage(name, "it is broken")
    return Image.new("RGB", (40, 30), (200, 0, 0))


def cards(html: str, heading: str) -> list[str]:
    section = html.split(f"<h2>{heading}</h2>")[1].split("<h2>")[0]
    return re.findall(r"<article.*?</article>", section)


SCORES = [[0.9, 0.1], [0.05, 0.2], [0.6, 0.97], [0.4, 0.3]]
TARGETS = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]


def test_doubtful_annotations_and_wrong_and_missing_tags_stand_apart_the_surest_first_one_an_image() -> None:
    scores = [*SCORES, [0.3, 0.7], [0.2, 0.8]]
    html = page("t", measured(scores, [*TARGETS, [1.0, 0.0], [1.0, 0.0]]), [0.0, 0.0], picture, {})
    shown = {name: cards(html, name) for name in ("Doubtful annotations", "Wrong tags", "Missing tags")}
    assert {name: [re.findall(r"\d\.png", card)[0] for card in found] for name, found in shown.items()} == {
        "Doubtful annotations": ["1.png", "2.png"],
        "Wrong tags": ["5.png", "4.png"],
        "Missing tags": ["5.png", "4.png"],
    }
    assert "cat: tagged" in shown["Doubtful annotations"][0]
    assert "not tagged" in shown["Doubtful annotations"][1]


def test_an_unknown_label_is_no_mistake() -> None:
    known = [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    html = page("t", measured(SCORES, TARGETS, known), [0.0, 0.0], picture, {})
    assert [cards(html, name) for name in ("Doubtful annotations", "Wrong tags", "Missing tags")] == [[], [], []]


def test_labels_that_are_taken_for_each_other_are_counted() -> None:
    html = page("t", measured(SCORES, TARGETS), [0.0, 0.0], picture, {})
    assert "<td>cat</td><td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td>1</td>" in html


def test_an_image_that_can_not_be_read_and_a_hostile_name_are_text() -> None:
    wrong = [[0.0, 1.0], *SCORES[1:]]
    html = page("<b>", measured(wrong, TARGETS), [0.0, float("nan")], picture, {"from": "<i>"})
    assert "it is broken" in html
    assert "<script>alert" not in html
    assert "<b>" not in html
    assert "<i>" not in html


@pytest.mark.parametrize("name", ["$^$", "a$b$", r"$\frac$"])
def test_dollar_signs_in_a_label_are_text(name: str) -> None:
    shown = replace(measured(SCORES, TARGETS), names=(name, "cat"))
    assert f"<td>{name}</td>" in page("t", shown, [0.0, 0.0], picture, {})


@pytest.mark.slow
def test_a_label_that_is_hard_gains_by_more_images_and_an_easy_one_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(240, 40, generator=generator)
    hard = features.sum(1, keepdim=True) + torch.randn(240, 1, generator=generator)
    easy = torch.randn(240, 1, generator=generator)
    features = torch.cat((features, 30 * easy), dim=1)
    targets = torch.cat((hard, easy), dim=1).gt(0).float()
    known, folds = torch.ones_like(targets), torch.arange(240) // 2 % 5
    gains = learning_curve(features, targets, known, folds, fit_linear(features, targets, known, folds))
    assert gains[0] > 0.01
    assert abs(gains[1]) < 0.01
    html = page("t", measured(SCORES, TARGETS), gains, picture, {})
    assert html.count("more images help") == 1
    assert html.count("enough images") == 1


def test_a_label_that_few_negatives_measure_does_not_have_enough_images() -> None:
    shown = replace(measured(SCORES, TARGETS), promises=[Promise(0.8, low, 0.9, 0.9, 371) for low in (0.4, 0.6)])
    html = page("t", shown, [0.0, 0.0], picture, {})
    assert (html.count("371 images of none"), html.count("enough images")) == (1, 1)
    assert html.count("40.0% to 90.0%") == 1


def test_all_doubtful_annotations_are_shown_and_written_the_surest_first() -> None:
    count = MISTAKES + 6
    scores = [[0.01 + number / 1000, 0.0] for number in range(count)]
    shown = measured(scores, [[1.0, 0.0]] * count)
    assert len(cards(page("t", shown, [0.0, 0.0], picture, {}), "Doubtful annotations")) == count
    first, *rest = doubtful(shown).splitlines()
    assert first == "image,label,tagged,score"
    assert rest == [f"{number}.png,cat,1,{0.01 + number / 1000:.3f}" for number in range(count)]


def test_the_highest_drawn_images_of_each_label_are_shown_to_be_confirmed() -> None:
    samples = [Sample(image=f"s3://photos/{number}.png", sha256=f"{number:064}") for number in range(50)]
    drawn = Unlabelled(samples, np.linspace(0, 1, 100, dtype=np.float32).reshape(50, 2), picture)
    html = page("t", replace(measured(SCORES, TARGETS), drawn=drawn), [0.0, 0.0], picture, {})
    shown = [re.findall(r"photos/(\d+)\.png", card)[0] for card in cards(html, "Is it cat?")]
    assert shown == [str(number) for number in range(49, 49 - HIGHEST, -1)]
