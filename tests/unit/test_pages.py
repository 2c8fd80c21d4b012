"""What the pages show, name and count is so."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import yaml

from schemas.enriched_image import EnrichedImage, read_output
from schemas.image_event import ImageEvent, parse_message
from tagstream_index.settings import IndexSettings
from tests.support.harness import Harness
from workers.capacity import BUILT_IN, ENRICHED_BYTES, EVENT_BYTES, STORED_BYTES, CapacityPlan, Demand
from workers.cli.app import COMMANDS, command_tree
from workers.environment import variable, variables
from workers.errors import not_installed

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


def test_its_rate_is_that_of_the_page_of_performance() -> None:
    page = (ROOT / "docs/guide/performance.md").read_text(encoding="utf-8")
    (measured,) = re.findall(r"^\| compact tagger \| ([\d.]+) \|", page, re.MULTILINE)
    (listed,) = re.findall(r"^\| `compact` in a worker \|.*\| (\d+) \|", TEXT, re.MULTILINE)
    (first,) = re.findall(r"(\d+) images per second with `compact`", TEXT)
    assert first == listed == f"{float(measured):.0f}"


def test_the_sizes_of_its_models_are_those_of_the_page_of_models() -> None:
    page = (ROOT / "docs/guide/models.md").read_text(encoding="utf-8")
    made = re.findall(r"\| (0\.\d+ GB) in bf16", page)
    assert len(made) == 3
    assert re.findall(r"^\| (?:RAM|RAM\+\+|Tag2Text) \|.*\| (0\.\d+ GB) \|$", TEXT, re.MULTILINE) == made


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


DOCS = Path(__file__).resolve().parents[2] / "docs"
OPERATING = (
    "reference/faults.md",
    "reference/alerts.md",
    "design/backpressure.md",
    "design/delivery.md",
    "reference/dead-letters.md",
    "reference/metrics.md",
    "design/security.md",
    "guide/quickstart.md",
    "guide/upgrading.md",
    "guide/faq.md",
    "guide/troubleshooting.md",
    "guide/concepts.md",
    "guide/operating.md",
    "guide/retag.md",
    "guide/forget.md",
    "guide/deploying.md",
    "guide/monitoring.md",
    *sorted(f"runbooks/{page.name}" for page in (DOCS / "runbooks").glob("*.md")),
)


@pytest.mark.parametrize("page", OPERATING)
def test_every_variable_that_a_page_names_can_be_set(page: str) -> None:
    named = set(re.findall(r"TAGSTREAM_[A-Z0-9_]+", (DOCS / page).read_text(encoding="utf-8")))
    assert named <= variables() | {variable(field) for field in IndexSettings.model_fields}


@pytest.mark.parametrize("page", OPERATING)
def test_a_query_for_open_breakers_holds_while_a_probe_hangs(page: str) -> None:
    """Where a dependency hangs, its breaker is half-open for most of the time: a probe is on its way."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\|", "|")
    asked = re.findall(r'breakers\{[^}]*state=~?"([^"]*)"', text)
    assert {states for states in asked if "open" in states} <= {"open|half-open"}


SCRIPT = runpy.run_path(str(ROOT / "scripts" / "sizing.py"))
SIZING = (ROOT / "docs" / "guide" / "sizing.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_program() -> None:
    """`scripts/sizing.py docs/guide/sizing.md` repairs this."""
    assert SCRIPT["filled"](SIZING) == SIZING
    assert SIZING.count("| **workers** |") == 1


def test_the_numbers_of_the_text_are_those_of_the_formulas() -> None:
    million = CapacityPlan(Demand(1_000_000, megapixels=2, cores=16), BUILT_IN["ram-bf16"])
    assert f"{million.mean:.1f} a second on average" in SIZING
    assert re.search(rf"{million.at_peak:.1f} in an hour with\s+three\s+times", SIZING)
    assert f"{million.core_s:.2f} × 10,000,000 ÷ 48 seconds: {million.core_s * 1e7 / 48 / 3600:.0f} hours" in SIZING
    assert f"and {million.profile.new_core_s:.3f} for all else" in SIZING
    own = million.profile
    assert f"some {round(1 / own.known_core_s, -2):,.0f} known images a second" in SIZING
    assert f"or {round(1 / (own.known_core_s + own.new_interpreter_s), -1):,.0f} new ones" in SIZING
    events, outcomes = 100 * EVENT_BYTES, 100 * ENRICHED_BYTES
    assert re.search(rf"{events / 1000:.0f} kB of events and\s+{outcomes / 1000:.0f} kB of outcomes", SIZING)
    assert f"{STORED_BYTES / 10:.0f} kB of [stored scores]" in SIZING
    assert f"| RAM in bf16, 50 labels | {STORED_BYTES} |" in SIZING.replace("| | RAM", "| RAM")
    assert million.output_bytes_a_day == 1_000_000 * (ENRICHED_BYTES + STORED_BYTES) * million.demand.copies


def test_the_bytes_are_those_of_the_examples_in_the_readme() -> None:
    own, _, enriched = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for text, counted in ((own, EVENT_BYTES), (enriched, ENRICHED_BYTES)):
        sent = len(re.sub(r"\s*\n\s*", "", text))
        assert sent == pytest.approx(counted, rel=0.15)


def test_the_settings_that_sizing_names_exist() -> None:
    assert set(re.findall(r"TAGSTREAM_[A-Z0-9_]+", SIZING)) <= variables()


TESTING = Path(__file__).resolve().parents[2] / "docs/design/testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", TESTING.read_text(encoding="utf-8"), flags=re.DOTALL)


def shown(example: str) -> list[FunctionType]:
    names: dict[str, Any] = {}
    exec(compile(example, str(TESTING), "exec"), names)
    return [value for name, value in names.items() if name.startswith("test_")]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_is_a_test_of_twenty_lines_at_most(example: str) -> None:
    [test] = shown(example)
    assert len(example.splitlines()) <= 20
    if not test.__code__.co_argcount:
        test()


def test_there_is_an_example_for_each_kind_that_needs_more_than_the_thing_itself() -> None:
    assert len(EXAMPLES) == 5


def pages(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from pages(below)


def test_the_navigation_names_every_page_once() -> None:
    named = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    there = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(named) == sorted(there)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A link may lead elsewhere when it is followed; what a browser loads by itself may not."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) >= len(list((ROOT / "docs").rglob("*.md")))
    loads = r"""<(?:script|img|iframe|source|video)[^>]*?\ssrc=["']?([^"' >]+)|<link[^>]*?\shref=["']?([^"' >]+)"""
    for page in built:
        loaded = ["".join(found) for found in re.findall(loads, page.read_text(encoding="utf-8"))]
        assert loaded
        assert not [address for address in loaded if re.match(r"\w+:|//", address)], page.name
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"""url\(["']?(https?:|//)|@import""", style.read_text(encoding="utf-8")), style.name


def test_the_home_shows_a_picture_and_the_event_of_the_readme_before_anything_else() -> None:
    home = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert home.index("![") < home.index("```json") < home.index("Kafka transaction")
    shown, whole = (json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[-1]) for text in (home, TEXT))
    assert shown == {name: whole[name] for name in shown}


def test_the_page_of_fields_is_that_of_the_published_schemas() -> None:
    """`scripts/list_fields.py` repairs this."""
    script = runpy.run_path(str(ROOT / "scripts" / "list_fields.py"))
    assert (ROOT / "docs" / "reference" / "fields.md").read_text(encoding="utf-8") == script["page"]()
    published = {file.stem for file in (ROOT / "schemas" / "published").glob("*.json")}
    assert published - {"asyncapi"} == set(script["MESSAGES"])


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
ROOT_COMMAND: Any = command_tree()


def command_lines(page: Path) -> list[str]:
    """What stands in code and begins with `tagstream`, up to the end of the command."""
    code = "\n".join("".join(found) for found in CODE.findall(page.read_text(encoding="utf-8")))
    joined = code.replace("\\\n", " ")
    return re.findall(r"(?:^|[;&|(] |-- |\s{2})(?:\.venv/bin/)?tagstream ([a-z][^\n#|;&>]*)", joined, re.MULTILINE)


def wrong(line: str) -> str | None:
    """What there is not of a command line: a command or an option; None: all of it is there."""
    command, words = ROOT_COMMAND, line.split()
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if not re.fullmatch(r"[a-z-]+", word):
            return None  # as in `models …`
        if word not in command.commands:
            return word
        command = command.commands[word]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"}
    used = [re.match(r"--?[a-z][a-z-]*", word) for word in words]
    return next((option[0] for option in used if option and option[0] not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_there(page: Path) -> None:
    assert [(line, what) for line in command_lines(page) if (what := wrong(line))] == []


def test_the_pages_show_many_and_a_wrong_one_is_found() -> None:
    assert len([line for page in PAGES for line in command_lines(page)]) > 60
    assert wrong("emit --bucket photos --sideways") == "--sideways"
    assert wrong("dead-letters lost") == "lost"
    assert wrong("dead-letters list --since 2h") is None


READ = (
    "*.md",
    "docs",
    "examples",
    "deploy",
    "index",
    "testing",
    "training",
    "schemas",
    "workers",
    ".github",
    "Dockerfile",
    "Makefile",
    "scripts",
)
SUFFIXES = {"", ".md", ".py", ".toml", ".yml", ".yaml", ".sh", ".java", ".txt"}
BY_NAME = re.compile(
    r"\b(?:pip3? install|uv add|poetry add|uvx|pipx (?:run|install))\s+"
    r"(?:-\S+\s+)*[\"'`]?tagstream(?:-index|-testing|-train|-schemas)?(?![\w.-]|\s*@|/)"
    r"|\btagstream(?:-index|-testing|-train|-schemas)?\[[a-z,]+\]"
)
"""An installer's command with a name of ours, on one line or two, and a name with extras wherever it stands."""


def texts() -> list[Path]:
    found = [path for each in READ for path in ROOT.glob(each)]
    files = [file for path in found for file in (path.rglob("*") if path.is_dir() else [path])]
    return sorted(file for file in files if file.is_file() and file.suffix in SUFFIXES)


def found(text: str) -> list[str]:
    return [match.group() for match in BY_NAME.finditer(re.sub(r"\s*\n\s*(?:#\s*)?", " ", text))]


def test_no_text_says_to_install_tagstream_by_its_name() -> None:
    read = texts()
    assert {ROOT / "README.md", ROOT / "workers/errors.py", ROOT / "docs/guide/training.md"} <= set(read)
    wrong = {str(path.relative_to(ROOT)): each for path in read if (each := found(path.read_text("utf-8", "replace")))}
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'tagstream[train]'",
        'pip install\n"tagstream"',
        "uv pip install -U tagstream",
        "uv add tagstream-schemas",
        "uvx tagstream demo",
        "brought by `tagstream[parse]`",
    ],
)
def test_each_way_of_saying_it_is_found(line: str) -> None:
    assert found(line)


@pytest.mark.parametrize(
    "line",
    [
        'pip install "tagstream-schemas @ git+https://…/tagstream#subdirectory=schemas"',
        "pip install ./schemas",
        "pip install dist/tagstream-0.1.0-py3-none-any.whl",
        "run make install in a checkout of tagstream",
    ],
)
def test_what_works_without_a_release_may_be_said(line: str) -> None:
    assert not found(line)


def test_what_is_missing_is_named_with_the_command_that_brings_it() -> None:
    assert str(not_installed("timm")).startswith("timm is not installed")
    assert "make install" in str(not_installed("timm"))
    assert re.search(r"(?m)^install:", (ROOT / "Makefile").read_text())
