"""`make demo` and `make stack`, run as a person would run them."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tagstream_testing.local.demo_text import KEY, LINES
from tagstream_testing.local.photos import photographs
from tests.support.processes import survivors, with_environment

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

CHECKOUT = Path(__file__).parents[3]
PAGE = CHECKOUT / "build" / "demo.html"
IMAGES = len(photographs(None)) + 1
"""With the drawn one."""


def environment(temporary: Path) -> dict[str, str]:
    """The environment of a user with an own temporary folder, which identifies the started processes."""
    make = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    kept = {name: value for name, value in os.environ.items() if name not in make and not name.startswith("TAGSTREAM_")}
    return kept | {"TMPDIR": str(temporary)}


@dataclass(frozen=True)
class Ran:
    code: int
    output: str
    temporary: Path


@contextmanager
def running(temporary: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`make` as the leader of a terminal's foreground job; whatever is left of it afterwards is killed."""
    process = subprocess.Popen(
        ["make", *words],
        cwd=CHECKOUT,
        env=environment(temporary),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in with_environment("TMPDIR", str(temporary)):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def make(temporary: Path, *words: str) -> Ran:
    with running(temporary, *words) as process:
        output, _ = process.communicate(timeout=280)
        left = survivors(with_environment("TMPDIR", str(temporary)))
    assert left == [], "processes are left"
    return Ran(process.returncode, output, temporary)


def read_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"it ended before {wanted!r}:\n{''.join(lines)}")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    PAGE.unlink(missing_ok=True)
    return make(tmp_path_factory.mktemp("tmp"), "demo")


def test_it_ends_by_itself_and_well(ran: Ran) -> None:
    assert ran.code == 0, ran.output


def test_nothing_is_left_in_the_temporary_folder(ran: Ran) -> None:
    assert list(ran.temporary.iterdir()) == []


def test_every_photograph_comes_back_with_its_tags(ran: Ran) -> None:
    first, _, rest = ran.output.partition("Second pass")
    assert "espresso 0.9" in first
    assert re.search(r"scikit-learn/china\.jpg  palace 0\.\d\d.*  a picture of a palace.*  \d+ ms\n", first)
    for photo in photographs(None):
        assert f"\n{photo.key}  " in first
        assert f"\n{photo.key}  " in rest


def test_the_second_pass_is_answered_from_the_cache(ran: Ran) -> None:
    photos = IMAGES
    assert ran.output.count("cache saved fetch and model") == photos
    assert re.search(r"copies/100% chelsea \+ größer\?\.png  .*  cache saved model\n", ran.output)
    assert f"second pass: of {photos + 1}, {photos} needed no download and no model, 1 no model" in ran.output


def test_a_broken_file_and_a_deleted_image_have_their_outcomes(ran: Ran) -> None:
    assert "broken/cut short.jpg  dead letter broken-image" in ran.output
    assert "scikit-image/chelsea.png  retraction" in ran.output


def test_the_summary_counts_one_outcome_for_each_event(ran: Ran) -> None:
    photos = IMAGES
    assert f"outcomes: {2 * photos + 1} enriched, 1 dead-letter, 1 retraction" in ran.output
    assert f"{2 * photos + 3} events sent: 0 lost, 0 answered twice" in ran.output


def test_a_lower_threshold_changes_some_images_and_reads_none_again(ran: Ran) -> None:
    found = re.search(r"of (\d+) images, (\d+) made anew .*, (\d+) needed the image, (\d+) unchanged\n", ran.output)
    assert found is not None, ran.output
    images, remade, needed, unchanged = map(int, found.groups())
    assert (images, needed, remade + unchanged) == (IMAGES, 0, images)  # one deleted, one copied
    assert 0 < remade < unchanged
    assert f"{remade:9,} made anew from stored scores" in ran.output
    assert "coins.png  no tag is sure enough → bubble 0.1" in ran.output
    assert "audit: every audited record has its outcomes exactly once, in order\n" in ran.output


def test_a_search_finds_the_tagged_images(ran: Ran) -> None:
    _, _, found = ran.output.partition("$ tagstream search moped\n")
    table, _, _ = found.partition("Summary")
    for side in ("left", "right"):
        assert f"photos/scikit-image/motorcycle_{side}.png" in table
    assert "espresso" not in table


def test_a_search_finds_a_word_in_a_picture(ran: Ran) -> None:
    _, _, found = ran.output.partition("$ tagstream search ocr:Tuesdays\n")
    table, _, _ = found.partition("Summary")
    assert re.findall(r"photos/(\S+)", table) == [KEY]
    assert f"{KEY}  no tag is sure enough  {' '.join(LINES)}  " in ran.output


def test_output_into_a_pipe_has_no_control_characters(ran: Ran) -> None:
    assert "\x1b" not in ran.output
    assert "\r" not in ran.output


def test_the_page_that_is_named_holds_every_image(ran: Ran) -> None:
    assert f"A page with the images: {PAGE}" in ran.output
    page = PAGE.read_text()
    assert page.count("data:image/jpeg;base64,") == IMAGES + 1  # the deleted one is shown as well
    for shown in ("A picture of espresso", "palace", "fetch and model", "broken-image", "retraction", "bubble"):
        assert shown in page


def test_ctrl_c_at_once_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    """A later one, when all is up: where images are kept."""
    with running(tmp_path, "demo") as process:
        assert survivors([process.pid], within_s=1.0), "it should take longer than that"
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert survivors(with_environment("TMPDIR", str(tmp_path))) == []
    assert process.returncode != 0
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []


def test_a_kill_of_make_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path, "demo") as process:
        read_until(process, "First pass")
        os.kill(process.pid, signal.SIGKILL)
        assert survivors(with_environment("TMPDIR", str(tmp_path)), within_s=40) == []


def test_images_of_ones_own_are_taken_and_kept_until_ctrl_c(tmp_path: Path) -> None:
    images, temporary = tmp_path / "my images", tmp_path / "tmp"
    images.mkdir()
    temporary.mkdir()
    Image.new("RGB", (64, 48), "#c04030").save(images / "red one.webp")
    shutil.copy(photographs(None)[0].path, images / "cat.png")
    with running(temporary, "demo", f"PHOTOS={images}", "KEEP=1") as process:
        lines = read_until(process, "search page, in a browser")
        assert exported(lines)["TAGSTREAM_OUTPUT_TOPIC"] == "images.enriched"
        output = "".join(lines)
        assert "\nred one.webp  " in output
        assert "\ncat.png  tiger cat" in output
        page = lines[-1].split()[-1]
        with urllib.request.urlopen(page, timeout=60) as answer:
            shown = re.findall(r'src="(/image[^"]+red.one.webp[^"]+)"', answer.read().decode())
        with urllib.request.urlopen(f"{page}{shown[0][1:]}".replace("&amp;", "&"), timeout=60) as answer:
            assert answer.headers["content-type"] == "image/jpeg"
        with urllib.request.urlopen(f"{page}picture?of=photos/red+one.webp", timeout=60) as answer:
            _, _, similar = answer.read().decode().partition("Similar pictures")
        assert re.search(r'href="/picture[^"]+copies', similar), "by the compact tagger's embedding"
        login = {"Authorization": f"Bearer {exported(lines)['TAGSTREAM_INDEX_PAGE_TOKEN']}"}
        content = hashlib.sha256((images / "red one.webp").read_bytes()).hexdigest()
        said = {"subject": "photos/red one.webp", "sha256": content, "added": ["red"], "removed": []}
        asked = urllib.request.Request(
            f"{page}api/corrections", json.dumps(said).encode(), {**login, "Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.status == 202
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert survivors(with_environment("TMPDIR", str(temporary))) == []
    assert process.returncode != 0
    assert "Traceback" not in output
    assert list(temporary.iterdir()) == []


def test_make_stack_prints_a_workers_settings_and_stays_until_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path, "stack") as process:
        lines = read_until(process, "up until Ctrl-C")
        assert lines[0].startswith("# starting the servers")
        settings = exported(lines)
        answer = subprocess.run(
            [CHECKOUT / ".venv" / "bin" / "tagstream", "check"],
            env=environment(tmp_path) | settings,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert survivors(with_environment("TMPDIR", str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


def exported(lines: Sequence[str]) -> dict[str, str]:
    return dict(line.removeprefix("export ").rstrip().split("=", 1) for line in lines if line.startswith("export "))
