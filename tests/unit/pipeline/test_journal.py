"""The journal: images in progress at a crash become suspects; a second crash with one alone makes it poison."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import Failure
from tagstream_testing.memory import MemoryObjectStore
from tests.support.harness import IN, ColourTagger
from tests.support.inline_intake import InlineIntake
from tests.support.manual_pipeline import ManualPipeline
from tests.unit.pipeline.deadly import DEADLY_ONE, IMAGES
from workers.errors import Misconfigured
from workers.pipeline.journal import Journal
from workers.types import Coordinates, DecodedImage, Facts, Fetched, Partition, Transform


def at(offset: int) -> Coordinates:
    return Coordinates("images", 0, offset, 0)


def test_images_in_progress_at_a_crash_are_suspects_and_finished_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "that is missing" / "journal"
    first = Journal(path)
    for offset in (1, 2, 3):
        first.enter(at(offset))
    first.leave(at(2))
    assert Journal(path).suspects == {at(1), at(3)}


def test_a_suspect_that_comes_through_is_cleared(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").enter(at(1))
    second = Journal(tmp_path / "journal")
    second.enter(at(1))
    second.leave(at(1))
    assert second.suspects == frozenset()
    assert Journal(tmp_path / "journal").suspects == frozenset()


def test_a_suspect_that_is_dropped_with_its_partition_is_still_suspected(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").enter(at(1))
    second = Journal(tmp_path / "journal")
    second.enter(at(1))
    second.leave(at(1), came_through=False)
    third = Journal(tmp_path / "journal")
    assert third.suspects == {at(1)}
    assert not third.poison


def test_an_image_that_entered_twice_leaves_with_its_second_exit(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal")
    first.enter(at(1))
    first.enter(at(1))
    first.leave(at(1), came_through=False)
    assert Journal(tmp_path / "journal").suspects == {at(1)}
    first.leave(at(1))
    first.leave(at(1))
    first.enter(at(2))
    assert at(1) not in first.suspects


def test_a_suspect_that_was_alone_at_two_deaths_is_poison_and_stays_so(tmp_path: Path) -> None:
    for _ in range(3):
        Journal(tmp_path / "journal").enter(at(1))
    for _ in range(3):
        third = Journal(tmp_path / "journal")
        assert third.poison == {at(1)}
        assert third.suspects == frozenset()


def test_two_kills_from_outside_poison_no_image_and_a_death_alone_is_remembered(tmp_path: Path) -> None:
    """Guard: the second trial. A kill that happens to find a suspect alone would make poison of a sound image."""
    Journal(tmp_path / "journal").enter(at(1))
    Journal(tmp_path / "journal").enter(at(1))
    third = Journal(tmp_path / "journal")
    assert not third.poison
    third.enter(at(1))
    third.leave(at(1), came_through=False)
    Journal(tmp_path / "journal").enter(at(1))
    assert Journal(tmp_path / "journal").poison == {at(1)}


def test_a_suspect_that_was_not_tried_yet_is_still_suspected_after_another_death(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").enter(at(1))
    Journal(tmp_path / "journal").enter(at(2))
    assert Journal(tmp_path / "journal").suspects == {at(1), at(2)}


def test_a_clean_exit_leaves_it_empty(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").enter(at(1))
    second = Journal(tmp_path / "journal")
    second.enter(at(2))
    second.close()
    assert (tmp_path / "journal").read_bytes() == b""


def poison_at(path: Path, *offsets: int) -> Journal:
    for _ in range(3):
        dying = Journal(path)
        for offset in offsets:
            dying.enter(at(offset))
    journal = Journal(path)
    assert journal.poison == {at(offset) for offset in offsets}
    return journal


def test_a_clean_exit_keeps_images_without_a_committed_dead_letter(tmp_path: Path) -> None:
    """Guard: close keeps the poison. Stopped before the commit, the next process would die of it thrice again."""
    poison_at(tmp_path / "journal", 1, 2).close()
    second = Journal(tmp_path / "journal")
    assert second.poison == {at(1), at(2)}
    second.settled([at(0), at(1)])
    assert second.poison == {at(2)}
    second.close()
    third = Journal(tmp_path / "journal")
    assert third.poison == {at(2)}
    third.settled([at(2)])
    third.close()
    assert (tmp_path / "journal").read_bytes() == b""


def test_a_process_that_dies_has_forgotten_its_settled_images_too(tmp_path: Path) -> None:
    poison_at(tmp_path / "journal", 1, 2).settled([at(1)])
    assert Journal(tmp_path / "journal").poison == {at(2)}


def test_what_lies_before_a_partitions_committed_offset_is_poison_no_more(tmp_path: Path) -> None:
    journal = poison_at(tmp_path / "journal", 1, 2, 3)
    journal.begins(Partition("images", 1), 99)
    journal.begins(Partition("others", 0), 99)
    assert journal.poison == {at(1), at(2), at(3)}
    journal.begins(Partition("images", 0), 3)
    assert journal.poison == {at(3)}


@given(garbage=st.binary(max_size=60))
def test_garbage_and_a_line_that_was_cut_off_are_ignored(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("state") / "journal"
    path.write_bytes(b"+ images 0 1 0\n" + garbage.replace(b"\n", b"") + b"\n+ images 0 99 ")
    assert at(99) not in Journal(path).suspects


def test_no_number_that_only_python_reads_gets_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guard: `"²".isdigit()` is true, and int() raises on it; int() also reads Arabic digits, and thousands of them."""
    path = tmp_path / "journal"
    odd = [
        "+ images 0 ² 0",
        "+ images 0 ٣ 0",
        f"+ images 0 {'9' * 5000} 0",
        "+ images 0 -1 0",
        "+  images 0 1 0",
        "~ a 0 1 0",
    ]
    path.write_text("\n".join([*odd, "+ images 0 7 0", ""]), encoding="utf-8")
    assert Journal(path).suspects == {at(7)}
    [record] = caplog.records
    assert f"6 of the 7 lines of the journal {path}" in record.message


def test_the_journal_follows_no_symbolic_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guard: O_NOFOLLOW twice. Else a link makes poison of images, and has another file of ours overwritten."""
    forged, precious = tmp_path / "forged", tmp_path / "precious"
    forged.write_text("# images 0 1 0\n")
    precious.write_text("precious")
    path = tmp_path / "state" / "journal"
    path.parent.mkdir()
    path.symlink_to(forged)
    path.with_name("journal.new").symlink_to(precious)
    journal = Journal(path)
    journal.enter(at(2))
    assert not journal.poison
    assert [record.message for record in caplog.records] == [
        f"replacing the journal {path}, which can't be read: it is no regular file"
    ]
    assert (forged.read_text(), precious.read_text()) == ("# images 0 1 0\n", "precious")
    assert not path.is_symlink()
    assert Journal(path).suspects == {at(2)}


@pytest.mark.timeout(20)
def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "journal")
    Journal(tmp_path / "journal").enter(at(1))
    assert Journal(tmp_path / "journal").suspects == {at(1)}


def test_the_file_of_another_user_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal").write_text("# images 0 1 0\n")
    monkeypatch.setattr(os, "geteuid", lambda: 4_242)
    assert not Journal(tmp_path / "journal").poison
    assert "belongs to another user" in caplog.text


def test_a_file_of_any_size_takes_bounded_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (tmp_path / "journal").open("wb") as file:
        file.truncate(1 << 40)
    assert not Journal(tmp_path / "journal").suspects
    assert "more than" in caplog.text
    assert (tmp_path / "journal").stat().st_size == 0


def test_a_suspect_before_a_partitions_committed_offset_is_forgotten(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").enter(at(1))
    second = Journal(tmp_path / "journal")
    second.begins(Partition("images", 0), 2)
    assert second.suspects == frozenset()
    assert Journal(tmp_path / "journal").suspects == frozenset()


@pytest.mark.slow
def test_it_is_rewritten_when_it_has_grown(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.enter(at(0))
    for offset in range(1, 20_000):
        journal.enter(at(offset))
        journal.leave(at(offset))
    assert (tmp_path / "journal").stat().st_size < 300 * 1024
    assert Journal(tmp_path / "journal").suspects == {at(0)}


def test_a_new_line_does_not_rewrite_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    files = set()
    for number in range(20_000):
        journal.enter(Coordinates("images", 0, number, 0))
    for number in range(500):
        journal.leave(Coordinates("images", 0, number, 0))
        files.add(path.stat().st_ino)
    assert len(files) == 1


def test_a_folder_that_can_not_be_written_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(Misconfigured, match="TAGSTREAM_STATE_DIR"):
        Journal(tmp_path / "state" / "journal")


def test_a_disk_that_is_full_stops_no_work_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal")
    journal.enter(at(1))

    def full(file: int, line: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for offset in (2, 3):
            journal.enter(at(offset))
            journal.leave(at(offset))
        assert (tmp_path / "journal").read_bytes() == b""
    assert len([record for record in caplog.records if "continuing without it" in record.message]) == 1
    journal.enter(at(4))
    assert Journal(tmp_path / "journal").suspects == {at(1), at(4)}


def test_a_journal_that_could_not_be_rewritten_suspects_no_image_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal")
    journal.enter(at(0))
    monkeypatch.setattr("workers.pipeline.journal._REWRITE_BYTES", 1024)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", _refused)
        for offset in range(1, 100):
            journal.enter(at(offset))
            journal.leave(at(offset))
    assert (tmp_path / "journal").read_bytes() == b""
    journal.enter(at(9))
    assert Journal(tmp_path / "journal").suspects == {at(0), at(9)}


def _refused(path: Path, target: Path) -> Path:
    raise OSError(errno.ENOSPC, "No space left on device")


FIRST = Coordinates(IN, 0, 0, 0)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of a process that died with the first image in progress."""
    path = tmp_path / "journal"
    Journal(path).enter(FIRST)
    return path


def three(journal: Path) -> ManualPipeline:
    manual = ManualPipeline(journal=journal)
    manual.give("0", "1", "2")
    return manual


def test_a_suspect_runs_alone_and_is_cleared(journal: Path) -> None:
    manual = three(journal)
    manual.turn()
    assert manual.tagger.batches == [1, 2]
    assert len(manual.done) == 3
    assert Journal(journal).suspects == frozenset()


def test_a_suspect_that_is_dropped_is_suspected_where_it_comes_next(journal: Path) -> None:
    manual = three(journal)
    manual.pipeline.parse.work()
    manual.pipeline.lookup.work()
    manual.assignments[0].end()
    manual.turn()
    assert manual.tagger.batches == []
    assert Journal(journal).suspects == {FIRST}


def test_a_poison_image_is_not_read_and_others_in_progress_are(journal: Path) -> None:
    for _ in range(2):
        Journal(journal).enter(FIRST)
    manual = three(journal)
    manual.turn()
    assert manual.reads == ["1", "2"]
    [failure] = manual.done[0, 0, 0]
    assert isinstance(failure, Failure)
    assert (failure.index, failure.reason) == (0, "kills-worker")
    assert len(manual.done) == 3


class Decodes(InlineIntake):
    def __init__(self, store: MemoryObjectStore) -> None:
        super().__init__(store, [ColourTagger.transform])
        self.held: list[tuple[Future[DecodedImage], Fetched, Facts]] = []

    def decode(
        self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None
    ) -> Future[DecodedImage]:
        self.held.append((Future(), fetched, facts))
        return self.held[-1][0]

    def go_on(self) -> None:
        future, fetched, facts = self.held.pop(0)
        future.set_result(super().decode(fetched, facts).result())


def test_an_image_of_an_ended_assignment_is_not_decoded_after_its_wait_for_room() -> None:
    """Guard: the second check after the wait; otherwise a decoder works on a dropped image."""
    manual = ManualPipeline(partitions=2, make_intake=Decodes, decoded_bytes=1)
    manual.put("a", "b")
    manual.events("a", partition=0)
    manual.handle("b", partition=1)
    assert manual.in_flight == {"decode": 1, "wait-decode": 1}
    manual.assignments[1].end()
    manual.intake.go_on()
    manual.turn()
    assert manual.intake.held == []
    assert sorted(manual.done) == [(0, 0, 0)]
    assert (manual.in_flight, manual.pipeline.decode.budget.used) == ({}, 0)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["device", "header"])
def test_an_image_that_kills_the_process_is_poison_and_the_others_come_through(tmp_path: Path, where: str) -> None:
    """Guard: Journal.enter, before the header is read. Without it the process dies at every start, for ever."""
    journal, result = tmp_path / "journal", tmp_path / "result"
    command = [sys.executable, "-m", "tests.unit.pipeline.deadly", str(journal), str(result), where]
    codes = [subprocess.run(command, capture_output=True, check=False, timeout=60).returncode for _ in range(4)]
    assert codes == [-signal.SIGABRT, -signal.SIGABRT, -signal.SIGABRT, 0]
    deaths = (tmp_path / "result.deaths").read_text().split()
    assert deaths[1:] == ["1", "1"], "after its first try it was not alone"
    found = json.loads(result.read_text())
    assert found["failures"] == [["annotate", "kills-worker", DEADLY_ONE]]
    assert len(found["enriched"]) == IMAGES - 1
    assert journal.read_bytes() == b""
