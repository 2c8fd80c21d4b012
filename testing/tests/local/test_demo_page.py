from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tagstream_testing.local.demo_page import Scenes, render
from testing.tests.local.answers import dead_letter, enriched, retraction, row


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "cat.png"
    Image.new("RGB", (1600, 900), "#336699").save(path)
    return path


@pytest.fixture(scope="module")
def page(image: Path) -> str:
    cut = image.with_name("cut.png")
    cut.write_bytes(image.read_bytes()[:60])
    hit = {"source": "hit", "tags": "hit", "caption": None}
    scenes = Scenes(
        first=[row(enriched(), image=image), row(enriched("bare.png", tags=[]), "bare.png", image)],
        second=[row(enriched(cache=hit, timings_ms={"lookup": 2.0}), image=image)],
        faults=[row(dead_letter(), "cut.png", cut), row(retraction(), image=image)],
        seconds=2.0,
    )
    return render(scenes, "some servers")


class Balanced(HTMLParser):
    """Fails on a tag that is closed in the wrong order or not at all."""

    void = frozenset({"meta", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_the_page_loads_nothing_and_runs_its_own_script_alone(page: str) -> None:
    assert re.findall(r"(?:https?:)?//[a-z]", page) == []
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert page.count("<script") == 1
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', page)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.replace("&#x27;", "'").split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert page.index("Content-Security-Policy") < page.index("<style"), "it holds for what follows it"
    assert "url(" not in page
    assert set(re.findall(r'src="(.{0,22})', page)) == {"data:image/jpeg;base64"}


def test_an_image_is_shown_small_with_tags_scores_bars_caption_and_time(page: str) -> None:
    encoded = re.search(r"base64,([^\"]+)", page)
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded.group(1)))) as thumbnail:
        assert thumbnail.size == (1120, 630), "enough for a larger picture than the card's"
    for shown in ("tabby cat", "0.62", "--score:0.620", "A picture of a tabby cat", "40 ms", "PNG, 40 × 30"):
        assert shown in page


def test_waiting_for_a_turn_is_shown_as_one(page: str) -> None:
    assert 'title="waiting 5.0 ms"' in page
    assert "wait-fetch" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL), "but in the event itself"


def test_the_caption_is_what_the_picture_is_called_or_else_its_tags_or_its_name(image: Path) -> None:
    bare = enriched("bare.png", tags=[], caption=None)
    rows = [row(enriched(), image=image), row(enriched(caption=None), image=image), row(bare, "bare.png", image)]
    page = render(Scenes(rows, [], [row(retraction(), image=image)], 1.0), "s")
    assert re.findall(r'<img alt="(.*?)"', page) == [
        "A picture of a tabby cat",
        "tabby cat, sofa",
        "bare.png",
        "cat.png",
    ]


def test_each_outcome_is_there_as_json_that_reads_back(page: str) -> None:
    found = [json.loads(unescape(text)) for text in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]
    assert [each.get("schema", "dead letter") for each in found] == [
        "enriched-image/1",
        "enriched-image/1",
        "dead letter",
        "image-retraction/1",
    ]
    assert found[0] == enriched().model_dump(mode="json")


def test_no_colour_has_to_be_told_from_another(page: str) -> None:
    """The stages' bar is of colours alone, so that its numbers stand beside it."""
    assert '<div class="stages" aria-hidden="true">' in page
    assert "40 ms: waiting 5, fetch 10, annotate 25 · PNG, 40 × 30" in page


def test_tags_can_be_searched_and_what_the_script_asks_for_is_on_the_page(page: str) -> None:
    assert page.count('data-tag="tabby cat"') == 1
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for name in re.findall(r'getElementById\("(.*?)"\)', script):
        assert page.count(f'id="{name}"') == 1
    assert '<div id="find" class="find" role="search" hidden>' in page, "without the script there is nothing to use"
    assert '<label for="words">' in page


def test_it_says_what_the_models_know(page: str) -> None:
    assert "The compact model knows a thousand names, those of ImageNet; RAM knows 4,585 tags." in page


def test_an_image_without_tags_says_so(page: str) -> None:
    assert "no tag is sure enough" in page


def test_the_second_pass_shows_what_the_cache_saved(page: str) -> None:
    assert '<td class="number">40 ms</td><td class="number">2 ms</td><td class="hit">fetch and model</td>' in page


def test_dead_letter_and_retraction_are_told(page: str) -> None:
    for shown in ("broken-image", "the file ends in the middle", "images:2:9", "retraction", "no image in this file"):
        assert shown in page


def test_a_name_can_not_break_out_of_the_page(image: Path) -> None:
    key = '"><script>alert(1)</script>.png'
    nasty = enriched(key, tags=[{"name": "<b>", "score": 0.5, "label_id": 0}], caption=None)
    page = render(Scenes([row(nasty, key, image)], [], [], 1.0), "<servers>")
    assert page.count("<script") == 1, "the page's own"
    assert "alert(1)&lt;/script&gt;.png" in page
    assert "&lt;servers&gt;" in page
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []


def test_a_name_can_not_turn_the_direction_of_the_page(image: Path) -> None:
    key = "\u202egpj.\x1b[2J\u2066.png"
    page = render(Scenes([row(enriched(key), key, image)], [], [row(dead_letter(), key)], 1.0), "s")
    assert all(line.isprintable() for line in page.splitlines())


def test_it_follows_light_and_dark() -> None:
    page = render(Scenes([], [], [], 0.0), "")
    assert "prefers-color-scheme: dark" in page
