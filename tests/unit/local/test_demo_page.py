from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.local.answers import dead_letter, enriched, retraction, row
from workers.local.demo_page import Scenes, render


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.new("RGB", (1600, 900), "#336699").save(path)
    return path


@pytest.fixture
def page(image: Path, tmp_path: Path) -> str:
    cut = tmp_path / "cut.png"
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

    void = frozenset({"meta", "img", "br"})

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


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert re.findall(r"(?:https?:)?//[a-z]", page) == []
    assert "<script" not in page
    assert "url(" not in page
    assert set(re.findall(r'src="(.{0,22})', page)) == {"data:image/jpeg;base64"}


def test_an_image_is_shown_small_with_tags_scores_bars_caption_and_time(page: str) -> None:
    encoded = re.search(r"base64,([^\"]+)", page)
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded.group(1)))) as thumbnail:
        assert thumbnail.size == (560, 315)
    for shown in ("tabby cat", "0.62", "--score:0.620", "A picture of a tabby cat", "40 ms", "PNG, 40 × 30"):
        assert shown in page


def test_waiting_for_a_turn_is_shown_as_one(page: str) -> None:
    assert 'title="waiting 5.0 ms"' in page
    assert "wait-fetch" not in page


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
    assert "<script" not in page
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
