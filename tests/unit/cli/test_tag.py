"""`tagstream tag`: files and folders through the intake and the models, one line for each."""

import base64
import io
import json
import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sharpness import SharpnessKind
from sharpness.model import make_bundle
from tests.support.command import Tagstream
from tests.support.exif import TAKEN, whole
from tests.support.images import encoded, ramp
from tests.support.ran import Ran
from tests.support.remote import Counted, PlayedCaptioner, an_answer
from workers.cli import tag_page
from workers.errors import Unanswered
from workers.models import result_kinds
from workers.models.bundle import Bundle

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("TAGSTREAM_DEVICE", "cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "photos"
    (made / "b").mkdir(parents=True)
    for number in range(9):
        (made / f"c{number}.jpg").write_bytes(encoded(ramp(), "jpeg"))
    (made / "b" / "deep.PNG").write_bytes(encoded(ramp(), "png"))
    (made / "c4 cut.jpg").write_bytes(encoded(ramp(400, 300), "jpeg")[:700])
    (made / "notes.txt").write_text("no image")
    return made


def lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def test_a_folder_is_walked_in_order_and_a_broken_file_costs_one_line(tagstream: Tagstream, folder: Path) -> None:
    ran = tagstream("tag", folder, "--json")
    found = lines(ran)
    names = [Path(each["file"]).relative_to(folder).as_posix() for each in found]
    assert names == ["b/deep.PNG", *(f"c{n}.jpg" for n in range(4)), "c4 cut.jpg", *(f"c{n}.jpg" for n in range(4, 9))]
    (broken,) = (each for each in found if "error" in each)
    assert all(each["image"]["thumbhash"] for each in found if each is not broken)
    assert broken["file"].endswith("c4 cut.jpg")
    assert broken["error"]["reason"] == "broken-image"
    captions = [(each["tags"], each["caption"]) for each in found if each is not broken]
    assert all(caption.startswith("a picture of") if tags else caption is None for tags, caption in captions)
    assert "10 of 11 images tagged, 1 could not be" in ran.notes


def test_the_table_has_a_line_for_each_file(tagstream: Tagstream, folder: Path) -> None:
    good, broken = tagstream("tag", folder / "c0.jpg", folder / "c4 cut.jpg").done.splitlines()
    assert "c0.jpg" in good
    assert "✗ broken-image" in broken


def test_hostile_files_are_named_and_nothing_waits_for_them(tagstream: Tagstream, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "large.jpg").write_bytes(bytes(21 << 20))
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    hostile = [tmp_path / f"{name}.jpg" for name in ("pipe", "empty", "text", "large", "loop", "missing")]
    ran = tagstream("tag", *hostile, "--json")
    assert [each["error"]["reason"] for each in lines(ran)] == [
        "unreadable",
        "empty-object",
        "not-an-image",
        "object-too-large",
        "unreadable",
        "no-such-file",
    ]
    assert "0 of 6 images tagged, 6 could not be" in ran.fails()


def test_a_file_name_can_not_steer_the_terminal(tagstream: Tagstream, tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J\udcff.jpg").write_bytes(encoded(ramp(), "jpeg"))
    for options in ([], ["--json"]):
        shown = tagstream("tag", tmp_path, *options).done
        assert "\x1b[2J" not in shown
        assert len(shown.splitlines()) == 1


def test_options_name_the_models_before_the_settings_do(
    tagstream: Tagstream, folder: Path, ram: Bundle, tag2text: Bundle
) -> None:
    words = ("tag", folder / "c0.jpg", "--model", ram.folder, "--captioner", tag2text.folder, "--json", "--top", 3)
    ran = tagstream(*words, TAGGER=f"/no/such/bundle@sha256:{'0' * 64}")
    found = ran.json
    assert len(found["tags"]) <= 3
    assert {each["name"] for each in found["tags"]} <= set(ram.labels)
    assert isinstance(found["caption"], str)
    assert "are random: its answers mean nothing" in ran.err


def test_a_tag_has_the_wider_names_that_its_event_has(
    tagstream: Tagstream, cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "profiles.json").write_text('{"default": {"all": 0.001}}')
    bundle = Bundle.open(next((cache / "tagstream").rglob("model.json")).parent)
    wider = [names if number % 2 else () for number, names in enumerate(bundle.parents)]
    monkeypatch.setattr(Bundle, "parents", property(lambda _: wider))
    words = ("tag", folder / "c0.jpg", "--json", "--top", 999)
    found = tagstream(*words, PROFILES=tmp_path / "profiles.json").json
    expected = [list(wider[bundle.labels.index(tag["name"])]) or None for tag in found["tags"]]
    assert any(expected), found
    assert [tag.get("parents") for tag in found["tags"]] == expected


def test_a_service_captions_files_and_what_it_does_not_answer_says_why(
    tagstream: Tagstream, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = PlayedCaptioner(an_answer("a red car", {"people": 2, "place": "rome"}), fields=Counted)
    monkeypatch.setattr("workers.assembly.remote.remote_captioner", lambda settings: played)
    monkeypatch.setenv("TAGSTREAM_CAPTION_MODEL", "vlm")
    command = ("tag", folder / "c0.jpg", folder / "c1.jpg", "--captioner", "https://vlm.example/v1")
    for found in lines(tagstream(*command, "--json")):
        assert found["caption"] == "a red car"
        assert found["results"]["fields"] == {"people": 2, "place": "rome"}
        assert "missing" not in found
    assert played.closed
    assert played.asked[0].tags == tuple(tag["name"] for tag in found["tags"])
    played.answer = Unanswered("caption-refused", "no")
    for found in lines(tagstream(*command, "--json")):
        assert (found["caption"], found["missing"]) == (None, [{"want": "caption", "reason": "caption-refused"}])
    played.wrong = "the key is wrong"
    ran = tagstream(*command)
    assert "caption-refused" in ran.out
    assert "the key is wrong" in ran.err


def test_no_captioner_gives_no_caption(tagstream: Tagstream, folder: Path) -> None:
    assert tagstream("tag", folder / "c0.jpg", "--captioner", "none", "--json").json["caption"] is None


def test_a_page_shows_every_file_with_its_picture_upright_and_whole(
    tagstream: Tagstream, folder: Path, tmp_path: Path
) -> None:
    turned = Image.new("RGB", (400, 100), "black")
    turned.paste((250, 0, 0), (0, 0, 200, 100))
    turned.save(folder / "a.jpg", exif=b"Exif\0\0" + whole("<"))  # to be turned by a quarter, clockwise
    ran = tagstream("tag", folder, "--page", tmp_path / "out.html", "--json", "--top", 3)
    assert f"a page with the images: {tmp_path / 'out.html'}" in ran.notes
    found = (tmp_path / "out.html").read_text()
    cards = re.findall(r"<article.*?</article>", found, re.DOTALL)
    assert [json.loads(unescape(re.findall(r"<pre>(.*?)</pre>", card, re.DOTALL)[0])) for card in cards] == lines(ran)
    pictures = [Image.open(io.BytesIO(base64.b64decode(each))) for each in re.findall(r"base64,([^\"]+)", found)]
    assert len(pictures) == 11, "all but the broken file"
    assert pictures[0].size == (100, 400)
    assert [pictures[0].convert("L").getpixel((50, y)) for y in (50, 350)] == [pytest.approx(75, abs=9), 0]
    assert pictures[1].size == ramp().size
    assert [card.count(f"<dt>taken</dt><dd>{TAKEN}</dd>") for card in cards[:2]] == [1, 0]
    assert lines(ran)[0]["image"]["taken_at"] == TAKEN
    assert f"taken {TAKEN}" in tagstream("tag", folder / "a.jpg").out
    assert "broken-image" in next(card for card in cards if "not tagged" in card)
    assert "The compact model knows a thousand names" in found
    assert list(tmp_path.glob("*.part")) == []


class Hostile(SharpnessKind):
    def rows(self, result: dict[str, Any]) -> list[tuple[str, str]]:
        return [("sharpness", f"{result['text']}\n\x1b[2J<script>{'long ' * 200}")]


@pytest.mark.parametrize("made", ["json", "text", "page"])
def test_roles_give_their_results_too(
    made: str, tagstream: Tagstream, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_kinds, "kinds", lambda: {"sharpness": Hostile()})
    bundle = make_bundle(tmp_path / "sharpness", sharp=1e9)
    Image.effect_noise((300, 200), 60).convert("RGB").save(folder / "noise.png")
    files = (folder / "noise.png", folder / "c4 cut.jpg", folder / "c0.jpg")
    more: dict[str, list[object]] = {"json": ["--json"], "text": [], "page": ["--page", tmp_path / "out.html"]}
    ran = tagstream("tag", *files, *more[made], ROLES=f"sharpness={bundle.folder}")
    assert ran.code == 0, ran.err
    if made == "json":
        noise, cut, ramped = lines(ran)
        assert [each["results"]["sharpness"]["text"] for each in (noise, ramped)] == ["soft", "blurred"]
        assert "results" not in cut
        return
    found = ran.out if made == "text" else (tmp_path / "out.html").read_text()
    assert "\x1b" not in found
    if made == "text":
        assert "sharpness soft" in found
        assert max(map(len, found.splitlines())) < 500
    else:
        assert "<dt>sharpness</dt><dd>soft " in found
        assert found.count("<script") == 1, "the page's own"


def test_a_page_is_bounded_and_hostile_names_stay_text(
    tagstream: Tagstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_page, "MOST", 2)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("<script>alert(1).jpg", "\x1b[2J\udcff\u202e.jpg", "z.jpg"):
        (photos / name).write_bytes(encoded(ramp(), "jpeg"))
    assert tagstream("tag", photos, "--page", tmp_path / "out.html").code == 0
    found = (tmp_path / "out.html").read_text()
    assert found.count("<article") == 2
    assert "Left out of this page, which has 2 files at most: 1." in found
    assert found.count("<script") == 1, "the page's own"
    assert "&lt;script&gt;alert(1).jpg" in found
    assert all(line.isprintable() for line in found.splitlines())


def test_a_page_replaces_no_device_and_no_pipe(tagstream: Tagstream, folder: Path, tmp_path: Path) -> None:
    """As root, `--page /dev/null` would leave a file in its place."""
    os.mkfifo(tmp_path / "out.html")
    said = tagstream("tag", folder, "--page", tmp_path / "out.html").fails()
    assert said == f"{tmp_path / 'out.html'} can't be written: it is no regular file\n"
    assert (tmp_path / "out.html").is_fifo()


def test_a_run_that_fails_leaves_the_page_of_the_last_one(tagstream: Tagstream, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.html").write_text("the last one")
    tagstream("tag", folder, "--model", tmp_path / "no-bundle", "--page", tmp_path / "out.html").fails()
    assert (tmp_path / "out.html").read_text() == "the last one"
    assert list(tmp_path.glob("*.part")) == []


def test_a_folder_without_images_is_reported(tagstream: Tagstream, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "there are no images" in tagstream("tag", tmp_path / "empty").fails()
