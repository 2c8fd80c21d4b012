"""The plan's file: whole or absent, and no damage goes unnoticed."""

import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from workers.errors import Misconfigured
from workers.retag.plan_file import PlanFile, PlanHead, Planned, write_plan

SETTINGS = {"tagger": "a" * 64, "captioner": "template", "want": "tags,caption", "profile default": "d" * 16}
RECORDS = [
    Planned(0, 5, "photos/ä.png", 1_700_000_000_000_000, "rescore", "tags,caption", 1000),
    Planned(0, 9, "photos/b.png", 1_700_000_000_000_001, "image", "below-floor", 2000),
    Planned(2, 0, "photos/c.png", 0, "rescore", "tags", 3000),
]


def head(lines: int = len(RECORDS)) -> PlanHead:
    return PlanHead(
        made_at="2026-01-01T00:00:00Z",
        topic="images.enriched",
        topic_id="f" * 32,
        ends={0: 10, 1: 0, 2: 1},
        settings=SETTINGS,
        counts={"subjects": 7, "unchanged": 4},
        lines=lines,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_plan(tmp_path / "plan", head(), RECORDS)
    return tmp_path / "plan"


def test_a_plan_reads_back_unchanged(path: Path) -> None:
    plan = PlanFile.open(path)
    assert plan.head == head()
    assert list(plan) == list(plan) == RECORDS
    assert plan.digest == hashlib.sha256(path.read_bytes()).hexdigest() == write_plan(path, head(), RECORDS)


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_every_damaged_byte_is_found_and_its_line_named(path: Path, line: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    whole = lines[line - 1]
    for place in range(1, len(whole) - 1, 7):
        lines[line - 1] = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path.write_bytes(b"".join(lines))
        with pytest.raises(Misconfigured, match=rf"line {line}\b|is no plan"):
            PlanFile.open(path)


ODD: tuple[object, ...] = (None, "5", "", 1.5, 1e3, -1, True, 2**63, [], {})
EDITS: list[tuple[int, bytes]] = [
    (0, b'"ends":{"0":10,"7":0,"2":1}'),
    (0, b'"ends":{"0":"10","1":0,"2":1}'),
    (0, b'"lines":"3"'),
    *((1, b'"partition":%b' % orjson.dumps(value)) for value in ODD),
    *((2, b'"offset":%b' % orjson.dumps(value)) for value in ODD),
    *((1, b'"version":%b' % orjson.dumps(value)) for value in ODD),
    *((3, b'"bytes":%b' % orjson.dumps(value)) for value in ODD),
    (1, b'"subject":5'),
    (2, b'"verdict":"forget"'),
    (2, b'"verdict":'),
    (3, b'"reason":"\xff"'),
]


@pytest.mark.parametrize(("line", "edit"), EDITS)
def test_a_line_that_was_edited_by_hand_with_its_checksum_is_a_sentence(path: Path, line: int, edit: bytes) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    field = re.escape(edit.partition(b":")[0])
    body, count = re.subn(field + rb':("[^"]*"|\{[^}]*\}|\d+)', edit, lines[line].rpartition(b',"check"')[0])
    assert count == 1
    lines[line] = b'%b,"check":"%08x"}\n' % (body, zlib.crc32(body))
    path.write_bytes(b"".join(lines))
    with pytest.raises(Misconfigured, match=rf"line {line + 1}\b.* Make a new plan"):
        PlanFile.open(path)


@pytest.mark.parametrize(
    ("order", "line"), [((0, 1, 2), 4), ((0, 2, 3), 4), ((0, 1, 1, 2, 3), 3), ((0, 2, 1, 3), 3), ((1, 2, 3), 1)]
)
def test_lines_that_are_missing_or_moved_are_found(path: Path, order: tuple[int, ...], line: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(Misconfigured, match=rf"line {line}\b|is no plan"):
        PlanFile.open(path)


@pytest.mark.parametrize("kept", [0, 1, -1, -30])
def test_a_plan_that_was_cut_short_is_found(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Misconfigured, match=r"line \d|is no plan"):
        PlanFile.open(path)


def test_a_missing_file_and_a_foreign_file_are_reported(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(5_000_000))
    for name in ("none", "zeros", "."):
        with pytest.raises(Misconfigured, match=r"can't be read|is no plan"):
            PlanFile.open(tmp_path / name)


def test_a_plan_that_can_not_be_finished_leaves_the_old_one(path: Path) -> None:
    before = path.read_bytes()

    def breaking() -> Iterator[Planned]:
        yield RECORDS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_plan(path, head(), breaking())
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["plan"]


def test_a_plan_fits_its_topic_and_settings_alone(path: Path) -> None:
    plan = PlanFile.open(path)
    plan.require_fit("images.enriched", "f" * 32, 3, dict(SETTINGS))
    for topic, topic_id, partitions, settings, says in (
        ("other", "f" * 32, 3, SETTINGS, "other"),
        ("images.enriched", "e" * 32, 3, SETTINGS, "made anew"),
        ("images.enriched", "f" * 32, 4, SETTINGS, "had 3 partitions, and has 4"),
        ("images.enriched", "f" * 32, 3, SETTINGS | {"tagger": "b" * 64}, "tagger was a{12} and is b{12}"),
        ("images.enriched", "f" * 32, 3, SETTINGS | {"profile strict": "x"}, "profile strict"),
    ):
        with pytest.raises(Misconfigured, match=says):
            plan.require_fit(topic, topic_id, partitions, settings)
