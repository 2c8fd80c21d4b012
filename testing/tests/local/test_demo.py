"""The demo: its photos, its waits, its page and its lines."""

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from schemas.dead_letter import dead_letter_headers
from tagstream_testing.local import demo_watch, photos
from tagstream_testing.local.demo_display import DemoDisplay
from tagstream_testing.local.demo_page import Scenes, render
from tagstream_testing.local.demo_retag import PLAN, Change, Retagged, tagstream
from tagstream_testing.local.demo_watch import Row, Watch
from tagstream_testing.local.photos import NoPhotographs, photographs
from tagstream_testing.local.server import CannotStart
from testing.tests.local.answers import dead_letter, enriched, retraction, row
from workers.types import ReadRecord


def test_the_wheels_carry_real_photographs() -> None:
    found = photographs(None)
    assert len(found) == 10
    assert found[0].key == "scikit-image/chelsea.png"
    for photo in found:
        with Image.open(io.BytesIO(photo.read())) as image:
            assert min(image.size) >= 300
            assert photo.content_type == f"image/{(image.format or '').lower()}"


def test_a_folder_of_ones_own_is_taken_with_its_folders_as_keys(tmp_path: Path) -> None:
    (tmp_path / "a holiday").mkdir()
    for name in ("b.JPG", "a holiday/c+d.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [photo.key for photo in photographs(tmp_path)] == ["a holiday/c+d.webp", "b.JPG"]


def test_without_the_wheels_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "_in_wheels", list)
    with pytest.raises(NoPhotographs, match="make install"):
        photographs(None)


def test_a_folder_without_images_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoPhotographs, match=r"There is no image in .*\.jpeg, \.jpg"):
        photographs(tmp_path)


class Canned:
    def __init__(self) -> None:
        self.records: list[ReadRecord] = []

    def poll(self, timeout_s: float) -> list[ReadRecord]:
        records, self.records = self.records, []
        return records

    def close(self) -> None: ...

    def bring(self, topic: str, key: bytes, value: bytes, headers: tuple[tuple[str, bytes | None], ...] = ()) -> None:
        self.records.append(ReadRecord(topic, 0, len(self.records), 0, key, value, headers))


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Canned:
    source = Canned()
    monkeypatch.setattr(demo_watch, "tail", lambda *_, **__: source)
    return source


@pytest.fixture
def watch(canned: Canned) -> Watch:
    return Watch("127.0.0.1:1", "out", "dead", "skipped")


def test_an_answer_goes_to_the_event_of_its_subject(watch: Watch, canned: Canned) -> None:
    cat, dog = Row("photos/cat.png", None), Row("photos/dog.png", None)
    watch.expect(cat)
    watch.expect(dog)
    canned.bring("out", b"photos/dog.png", enriched("dog.png").to_bytes())
    assert list(watch.poll(0)) == [dog]
    assert dog.outcome == "enriched"
    assert dog.work_ms == 35.0, "without 5 ms in queues"
    assert (cat.outcome, watch.waiting) == ("open", 1)


def test_two_events_of_one_object_are_answered_in_order(watch: Watch, canned: Canned) -> None:
    upload, removal = Row("photos/cat.png", None), Row("photos/cat.png", None)
    watch.expect(upload)
    watch.expect(removal)
    canned.bring("out", b"photos/cat.png", enriched().to_bytes())
    canned.bring("out", b"photos/cat.png", retraction().to_bytes())
    assert list(watch.poll(0)) == [upload, removal]
    assert (upload.outcome, removal.outcome, watch.waiting) == ("enriched", "retraction", 0)


def test_a_dead_letter_is_known_by_its_record_key(watch: Watch, canned: Canned) -> None:
    broken = Row("photos/cut short.jpg", None)
    watch.expect(broken)
    failures = dead_letter().failures
    headers = dead_letter_headers(
        topic="images", partition=2, offset=9, timestamp_ms=0, failures=failures, attempts=1, worker="0", models={}
    )
    canned.bring("dead", b"photos/cut short.jpg", b"{}", headers)
    assert list(watch.poll(0)) == [broken]
    assert broken.outcome == "dead-letter"
    assert watch.coordinates == [("images", 2, 9)]


def test_an_answer_that_comes_twice_is_counted_twice(watch: Watch, canned: Canned) -> None:
    watch.expect(Row("photos/cat.png", None))
    canned.bring("out", b"photos/cat.png", enriched().to_bytes())
    canned.bring("out", b"photos/cat.png", enriched().to_bytes())
    assert len(list(watch.poll(0))) == 1
    assert watch.coordinates == [("images", 0, 7)] * 2


@pytest.mark.parametrize(
    ("source", "tags", "saved"),
    [("hit", "hit", "fetch and model"), ("miss", "hit", "model"), ("hit", "miss", None), ("miss", "miss", None)],
)
def test_the_caches_saving_is_read_from_the_event(source: str, tags: str, saved: str | None) -> None:
    answered = Row("photos/cat.png", None, answer=enriched(cache={"source": source, "tags": tags, "caption": None}))
    assert answered.remembered == saved


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
    for shown in ("tabby cat", "0.62", "--score:0.620", "A picture of a tabby cat", "35 ms", "PNG, 40 × 30"):
        assert shown in page


def test_the_caption_is_the_title_or_else_the_tags_or_the_file_name(image: Path) -> None:
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


def test_tags_can_be_searched_and_the_page_has_all_elements_of_its_script(page: str) -> None:
    assert page.count('data-tag="tabby cat"') == 1
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for name in re.findall(r'getElementById\("(.*?)"\)', script):
        assert page.count(f'id="{name}"') == 1
    assert '<div id="find" class="find" role="search" hidden>' in page, "without the script there is nothing to use"
    assert '<label for="words">' in page


FEWER = [{"name": "tabby cat", "score": 0.62, "label_id": 1}]


def test_changes_by_a_lower_threshold_are_on_the_page_before_and_after() -> None:
    changes = [Change("<cat>.png", enriched(tags=FEWER), enriched())]
    page = render(Scenes([], [], [], 1.0, Retagged({"subjects": 9, "unchanged": 8}, changes, "")), "s")
    cells = '<td class="key">&lt;cat&gt;.png</td><td>tabby cat</td><td>tabby cat, sofa</td>'
    assert cells in page
    assert cells not in render(Scenes([], [], [], 1.0), "s")


@pytest.mark.slow
def test_a_failing_command_is_shown_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"(?s)exit code 2:.*plan\.jsonl can't be read: No such file") as failed:
        tagstream(tmp_path, {**os.environ, "TAGSTREAM_KAFKA_SERVERS": "127.0.0.1:1"}, "retag", "go", PLAN)
    assert str(tmp_path) not in str(failed.value)


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


def plain() -> tuple[DemoDisplay, io.StringIO]:
    output = io.StringIO()
    return DemoDisplay(Console(file=output, highlight=False)), output


def test_in_a_pipe_each_answer_is_one_line_without_control_characters() -> None:
    display, output = plain()
    display.title("First pass")
    display.answered(row(enriched()))
    display.answered(row(dead_letter(), "cut.png"))
    display.answered(row(retraction(), "gone.png"))
    assert output.getvalue().splitlines() == [
        "",
        "First pass",
        "cat.png  tabby cat 0.62, sofa 0.31  a picture of a tabby cat  35 ms",
        "cut.png  dead letter broken-image  the file ends in the middle",
        "gone.png  retraction  indexers drop this image",
    ]


def test_tags_before_and_after_are_one_line() -> None:
    display, output = plain()
    display.change(Change("[b]\ncat.png", enriched(tags=[]), enriched()))
    (line,) = output.getvalue().splitlines()
    assert line.startswith("[b]")
    assert line.endswith("no tag is sure enough → tabby cat 0.62, sofa 0.31")


def test_nothing_from_outside_is_markup_or_steers_the_terminal() -> None:
    nasty = "\\[/x][bold]\x1b[2J\x9b\u202e\n:smile:"
    display, output = plain()
    display.say(nasty)
    display.title(nasty)
    display.leave(nasty)
    with display.step(nasty):
        pass
    tag = {"name": nasty, "score": 0.5, "label_id": 0}
    display.title(nasty)
    display.answered(row(enriched(nasty, tags=[tag], caption={"text": nasty, "method": "beam"}), nasty))
    assert all(line.isprintable() for line in output.getvalue().splitlines())
    assert output.getvalue().count("\\[/x][bold]\ufffd[2J\ufffd\ufffd") == 8
    assert output.getvalue().count(":smile:") == 8


@pytest.mark.slow
def test_a_printed_line_is_in_a_pipe_at_once() -> None:
    """`tagstream stack up > file`: a shell reads the file while the servers run."""
    program = (
        "import os; from tagstream_testing.local.demo_display import DemoDisplay; DemoDisplay().say('up'); os._exit(0)"
    )
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    ran = subprocess.run([sys.executable, "-c", program], env=buffered, capture_output=True, text=True, check=True)
    assert ran.stdout == "up\n", "what was only buffered is lost with the process"
