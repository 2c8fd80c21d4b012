"""The report of a cleaning."""

from __future__ import annotations

import re

from PIL import Image

from tagstream_train.data.images import BadImage
from tagstream_train.engine.clean import Decision
from tagstream_train.engine.regions import Box
from tagstream_train.engine.report import Examples, page


def decision(number: int, reason: str = "outlier", label: str = "dog") -> Decision:
    kept = reason == "confirmed"
    document = {"image": f"{number}.jpg", "label": label, "tag": 0, "kept": kept, "reason": reason, "detail": "why"}
    return Decision.model_validate(document | {"scores": {"ram": 0.5}, "box": Box(0, 0, 5, 5)})


def photo(name: str) -> Image.Image:
    if name == "7.jpg":
        raise BadImage(name, "gone <script>")
    return Image.new("RGB", (30, 10), (0, 128, 0))


def test_examples_are_bounded_and_spread_over_the_run() -> None:
    examples = Examples(10)
    for number in range(1000):
        examples.add(decision(number))
    shown = [int(each.image.removesuffix(".jpg")) for each in examples.of("outlier")]
    assert examples.counts == {"outlier": 1000}
    assert len(shown) == 10
    assert min(shown) < 100
    assert max(shown) > 500


def test_the_page_shows_each_reason_with_its_picture_and_nothing_from_elsewhere() -> None:
    examples = Examples()
    for each in (decision(1), decision(2, "confirmed"), decision(7, "unconfirmed", label="<b>cat</b>")):
        examples.add(each)
    html = page("Cleaned", examples, photo, {"model": "ram <7>"})
    assert "2 of 3 tags were dropped" in html
    assert html.count("<img ") == 2
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    assert "gone &lt;script&gt;" in html
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert re.findall(r"<h2>(\w+): 1 of 1", html) == ["unconfirmed", "outlier", "confirmed"]
