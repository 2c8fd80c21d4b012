"""Examples, names and numbers of the pages are right."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from schemas.enriched_image import EnrichedImage, read_output
from schemas.image_event import ImageEvent, parse_message
from tagstream_index.settings import IndexSettings
from tests.support.harness import OUT, Harness
from workers.capacity import ENRICHED_BYTES, EVENT_BYTES
from workers.cli.app import command_tree
from workers.environment import variable, variables
from workers.errors import not_installed
from workers.models.labels import label_names, label_parents

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def examples(text: str) -> list[str]:
    return re.findall(r"```json\n(.*?)```", text, re.DOTALL)


def names(document: Any) -> Any:
    """The fields of a document at every depth; of a list its first item's."""
    if isinstance(document, list):
        return [names(each) for each in document[:1]]
    return {name: names(each) for name, each in document.items()} if isinstance(document, dict) else None


def test_its_examples_of_events_are_read_and_its_output_is_of_an_image_without_cache_hits() -> None:
    own, notification, output = examples(TEXT)
    for message, dialect in ((own, "own"), (notification, "s3")):
        (event,) = parse_message(message.encode(), (), topic="images", partition=0, offset=0)
        assert isinstance(event, ImageEvent)
        assert (event.dialect, event.bucket, event.action) == (dialect, "photos", "enrich")
    harness = Harness()
    vars(harness.tagger)["parents"] = (("colour",), (), ())
    harness.put("cat.png", (255, 0, 0))
    with harness.running():
        harness.send(harness.event("cat.png"))
        harness.settled()
    shown = read_output(output.encode())
    assert isinstance(shown, EnrichedImage)
    written = json.loads(harness.broker.visible(OUT)[-1].value or b"")
    assert names(json.loads(output)) == names(written)
    of_label = dict(enumerate(zip(label_names(), label_parents(), strict=True)))
    for tag in shown.tags:
        assert (tag.name, list(tag.parents or ())) == of_label[tag.label_id or 0]
    (at_home,) = (json.loads(each) for each in examples((ROOT / "docs/index.md").read_text(encoding="utf-8")))
    assert at_home.items() <= json.loads(output).items()


def test_its_links_lead_to_pages_and_files_that_are_there() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_rate_and_the_sizes_of_its_models_equal_those_on_their_pages() -> None:
    performance, models = ((ROOT / f"docs/guide/{page}.md").read_text("utf-8") for page in ("sizing", "models"))
    (measured,) = re.findall(r"^\| compact tagger \| ([\d.]+) \|", performance, re.MULTILINE)
    (listed,) = re.findall(r"^\| `compact` in a worker \|.*\| (\d+) \|", TEXT, re.MULTILINE)
    (first,) = re.findall(r"(\d+) images per second with `compact`", TEXT)
    assert first == listed == f"{float(measured):.0f}"
    made = re.findall(r"\| (0\.\d+ GB) in bf16", models)
    assert len(made) == 3
    assert re.findall(r"^\| (?:RAM|RAM\+\+|Tag2Text) \|.*\| (0\.\d+ GB) \|$", TEXT, re.MULTILINE) == made


PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md"})
"""Not the changelog, which names what earlier versions had."""
NAMES = variables() | {variable(field) for field in IndexSettings.model_fields} | {"TAGSTREAM_INDEX_DSN_FILE"}
BY_KUBERNETES = {"TAGSTREAM_SERVICE_HOST"}
"""Set by Kubernetes in a pod next to a Service named tagstream."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_a_page_names_can_be_set(page: Path) -> None:
    named = set(re.findall(r"\bTAGSTREAM_[A-Z0-9_]+\b(?![…*])", page.read_text(encoding="utf-8")))
    assert named - NAMES <= BY_KUBERNETES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_query_for_open_breakers_holds_while_a_probe_hangs(page: Path) -> None:
    """Where a dependency hangs, its breaker is half-open for most of the time: a probe is on its way."""
    text = page.read_text(encoding="utf-8").replace("\\|", "|")
    asked = re.findall(r'breakers\{[^}]*state=~?"([^"]*)"', text)
    assert {states for states in asked if "open" in states} <= {"open|half-open"}


SCRIPT = runpy.run_path(str(ROOT / "scripts" / "sizing.py"))
SIZING = (ROOT / "docs" / "guide" / "sizing.md").read_text(encoding="utf-8")


def test_the_table_equals_the_programs_output() -> None:
    """`scripts/sizing.py docs/guide/sizing.md` repairs this."""
    assert SCRIPT["filled"](SIZING) == SIZING
    assert SIZING.count("| **workers** |") == 1


def test_the_bytes_equal_those_of_the_readmes_examples() -> None:
    own, _, enriched = examples(TEXT)
    for text, counted in ((own, EVENT_BYTES), (enriched, ENRICHED_BYTES)):
        sent = json.dumps(json.loads(text), separators=(",", ":"))
        assert len(sent) == pytest.approx(counted, rel=0.03)


TESTING = ROOT / "docs/design/testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", TESTING.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_no_command_or_configuration_has_a_password_but_the_files_for_development() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "docs", "deploy", "examples"], cwd=ROOT, capture_output=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.decode().split() if "/dev-only/" not in name]
    texts = [
        path.read_text() for path in paths if path.suffix in (".md", ".yaml", ".yml", ".properties", ".sql", ".sh")
    ]
    login, setting = r"://\w+:([^@/\s`]+)@(?!host\b)", r"^[\w.]*password\s*[=:]\s*(\S+)"
    values = [value for text in texts for form in (login, setting) for value in re.findall(form, text, re.M | re.I)]
    assert len(values) >= 4
    assert all(value.startswith("$") for value in values), values


def functions_of(example: str) -> list[FunctionType]:
    names: dict[str, Any] = {}
    exec(compile(example, str(TESTING), "exec"), names)
    return [value for name, value in names.items() if name.startswith("test_")]


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_is_a_test_of_twenty_lines_at_most(example: str) -> None:
    [test] = functions_of(example)
    assert len(example.splitlines()) <= 20
    if not test.__code__.co_argcount:
        test()


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A link that a reader follows may lead elsewhere; a browser's automatic requests may not."""
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


def test_the_page_of_fields_equals_the_published_schemas() -> None:
    """`scripts/list_fields.py` repairs this."""
    script = runpy.run_path(str(ROOT / "scripts" / "list_fields.py"))
    assert (ROOT / "docs" / "reference" / "fields.md").read_text(encoding="utf-8") == script["page"]()
    published = {file.stem for file in (ROOT / "schemas" / "published").glob("*.json")}
    assert published - {"asyncapi"} == set(script["MESSAGES"])


CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
ROOT_COMMAND: Any = command_tree()


def command_lines(page: Path) -> list[str]:
    code = "\n".join("".join(found) for found in CODE.findall(page.read_text(encoding="utf-8")))
    joined = code.replace("\\\n", " ")
    return re.findall(r"(?:^|[;&|(] |-- |\s{2})(?:\.venv/bin/)?tagstream ([a-z][^\n#|;&>]*)", joined, re.MULTILINE)


def wrong(line: str) -> str | None:
    """The unknown command or option of a command line; None: all are known."""
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
    "ocr",
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
    r"(?:-\S+\s+)*[\"'`]?tagstream(?:-index|-ocr|-testing|-train|-schemas)?(?![\w.-]|\s*@|/)"
    r"|\btagstream(?:-index|-ocr|-testing|-train|-schemas)?\[[a-z,]+\]"
)
"""An installer's command with a name of ours, on one line or two, and a name with extras wherever it stands."""


def found(text: str) -> list[str]:
    return [match.group() for match in BY_NAME.finditer(re.sub(r"\s*\n\s*(?:#\s*)?", " ", text))]


def test_no_text_says_to_install_tagstream_by_its_name() -> None:
    """The package index may hold a package of that name that is not ours."""
    below = [path for each in READ for path in ROOT.glob(each)]
    files = {file for path in below for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
    read = {file: file.read_text("utf-8", "replace") for file in files if file.suffix in SUFFIXES}
    assert {ROOT / "README.md", ROOT / "workers/errors.py", ROOT / "docs/guide/training.md"} <= read.keys()
    assert {str(file.relative_to(ROOT)): each for file, text in read.items() if (each := found(text))} == {}


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    assert str(not_installed("timm")).startswith("timm is not installed")
    assert "make install" in str(not_installed("timm"))
    assert re.search(r"(?m)^install:", (ROOT / "Makefile").read_text())
