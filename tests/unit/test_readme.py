"""What the README shows is what the program takes and gives."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.enriched_image import EnrichedImage, read_output
from schemas.image_event import ImageEvent, parse_message
from tests.support.harness import Harness
from workers.cli.app import COMMANDS
from workers.settings import variables

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_examples_of_events_are_read_and_its_output_is_one() -> None:
    own, notification, output = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    for message, dialect in ((own, "own"), (notification, "s3")):
        (event,) = parse_message(message.encode(), (), topic="images", partition=0, offset=0)
        assert isinstance(event, ImageEvent)
        assert (event.dialect, event.bucket, event.action) == (dialect, "photos", "enrich")
    assert isinstance(read_output(output.encode()), EnrichedImage)


def test_its_output_has_the_timings_of_an_image_that_no_cache_knew() -> None:
    harness = Harness()
    harness.put("cat.png", (255, 0, 0))
    with harness.running():
        harness.send(harness.event("cat.png"))
        harness.settled()
    *_, output = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    shown = read_output(output.encode())
    assert isinstance(shown, EnrichedImage)
    assert shown.timings_ms.keys() == harness.enriched()["cat.png"].timings_ms.keys()


def test_the_settings_that_it_names_exist() -> None:
    assert set(re.findall(r"TAGSTREAM_[A-Z0-9_]+", TEXT)) <= variables()


def test_the_commands_that_it_names_exist() -> None:
    named = set(re.findall(r"`tagstream ([a-z-]+)", TEXT))
    assert {"run", "check", "models"} <= named
    assert named <= set(COMMANDS)


def test_the_pages_and_files_that_it_links_are_there() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in link]
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_it_tells_consumers_how_to_read_and_producers_to_give_keys() -> None:
    assert "isolation.level=read_committed" in TEXT
    assert "Give records a key" in TEXT


def test_its_first_screen_says_what_ram_is_how_fast_and_what_never_ran() -> None:
    screen = "\n".join(TEXT.splitlines()[:30])
    for named in ("arxiv.org/abs/2306.03514", "github.com/xinyu1205/recognize-anything", "CUDA", "EPYC"):
        assert named in screen
    assert re.search(r"\d images", screen)


def test_the_size_of_the_first_run_stands_before_its_command() -> None:
    before = TEXT.partition("make demo ")[0]
    assert re.search(r"\d GB", before)
    assert re.search(r"\d minutes", before)


def test_it_is_short_and_says_where_to_ask_how_to_behave_and_how_to_uninstall() -> None:
    assert len(TEXT.splitlines()) < 250
    assert "(CODE_OF_CONDUCT.md)" in TEXT
    assert "(SECURITY.md)" in TEXT
    assert re.search(r"(?m)^## .*uninstall", TEXT)
    assert "rm -rf .venv" in TEXT
