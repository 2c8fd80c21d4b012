"""A decoder that hangs, grows or dies: its cost, the unharmed images, and its remains."""

import errno
import functools
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.unit.intake.deadly import (
    ABORTS_WITHOUT_MEMORY,
    DIES_ONCE,
    EXITS,
    FAILS,
    GOOD,
    GROWS,
    HANGS,
    HEADER_GROWS,
    HEADER_HANGS,
    HEADER_SEGFAULTS,
    LARGEST,
    SAYS_WHY_AND_EXITS,
    SEGFAULTS,
    SLOW_ONCE,
    TAKES_ITS_TIME,
    Once,
    arm,
    decoding,
    job,
    parent_of,
    read,
    slow_to_begin,
)
from workers import metrics
from workers.errors import Broken, Rejected
from workers.intake import Limits, ProcessIntake
from workers.intake.limits import MIB
from workers.intake.processes.pending import Child, PendingRequest
from workers.types import Transform

pytestmark = pytest.mark.slow

SMALL = Transform(8)
Make = Callable[..., ProcessIntake]


@pytest.fixture
def make(painted: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr("workers.intake.processes.intake._LEAST_S", 100.0)  # the clock is `decode_s` here

    def build(
        *, self_test_image_dies: bool = False, children: int = 1, decode_s: float = 2.0, decode_bytes: int = 256 * MIB
    ) -> ProcessIntake:
        limits = Limits(inspect_s=2.0, decode_bytes=decode_bytes)
        prepare = functools.partial(arm, tmp_path, self_test_image_dies)
        return painted(limits, children, fetch_threads=4, decode_s=decode_s, prepare=prepare)

    return build


def reason(error: BaseException | None) -> str:
    assert isinstance(error, Rejected), error
    assert error.stage == "decode"
    return error.reason


@pytest.mark.parametrize(
    ("width", "verdict"),
    [
        (HANGS, "decode-timeout"),
        (SEGFAULTS, "kills-decoder"),
        (EXITS, "kills-decoder"),
        (GROWS, "decode-memory"),
        (ABORTS_WITHOUT_MEMORY, "kills-decoder"),
        (FAILS, "broken-image"),
    ],
)
def test_a_deadly_image_costs_itself_and_no_other(make: Make, width: int, verdict: str) -> None:
    intake = make()
    known = [read(intake, job(each, shade=shade)) for shade, each in enumerate([GOOD, width, GOOD, GOOD])]
    others = [intake.fetch(job(GOOD), LARGEST).result(30) for _ in range(6)]
    decoded = [intake.decode(*each) for each in known]
    inspected = [intake.inspect(fetched) for fetched in others]
    assert reason(decoded[1].exception(30)) == verdict
    for shade in (0, 2, 3):
        assert (decoded[shade].result(30).pixels[SMALL] == (shade, 0, 0)).all()
    assert all(future.result(30).width == GOOD for future in inspected)


@pytest.mark.parametrize(
    ("width", "verdict"),
    [(HEADER_HANGS, "decode-timeout"), (HEADER_SEGFAULTS, "kills-decoder"), (HEADER_GROWS, "decode-memory")],
)
def test_a_deadly_header_costs_its_image_and_no_other(make: Make, width: int, verdict: str) -> None:
    """Guard: a header has its own clock and memory limit, far below those of pixels."""
    intake = make(decode_s=1000.0, decode_bytes=4096 * MIB)
    fetched = [intake.fetch(job(each), LARGEST).result(30) for each in (GOOD, width, GOOD, GOOD)]
    futures = [intake.inspect(each) for each in fetched]
    assert reason(futures[1].exception(30)) == verdict
    assert all(futures[each].result(30).width == GOOD for each in (0, 2, 3))


def test_images_behind_a_slow_one_are_done_by_another_child(make: Make, tmp_path: Path) -> None:
    """Guard: a child has eight images before it, and seven of them would wait for the first."""
    intake = make(children=2, decode_s=20.0)
    eventually(lambda: len(intake.pids) == 2)
    known = [read(intake, job(each)) for each in (TAKES_ITS_TIME, *[GOOD] * 30)]
    slow, *others = [intake.decode(*each) for each in known]
    for future in others:
        assert (future.result(30).pixels[SMALL] == (7, 0, 0)).all()
    assert not slow.done()
    Once(tmp_path).first(TAKES_ITS_TIME)
    assert (slow.result(30).pixels[SMALL] == (7, 0, 0)).all()
    assert (decoding(intake, job(GOOD)).result(30).pixels[SMALL] == (7, 0, 0)).all()


def test_the_clock_of_an_image_is_by_its_estimate(painted: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[PendingRequest] = []
    intake = painted(decode_s=20.0)
    fetched, facts = read(intake, job(GOOD))
    monkeypatch.setattr(intake._supervisor, "submit", given.append)
    for estimate in (10_000_000, 100_000_000, 1_000_000_000):
        fetched = intake.fetch(job(GOOD), LARGEST).result(30)
        intake.decode(fetched, replace(facts, decode_bytes=estimate))
    assert [request.limit_s for request in given] == [pytest.approx(3, 1e-3), pytest.approx(12, 1e-3), 20]


def test_no_partition_holds_the_last_child_with_images_that_may_take_long(make: Make) -> None:
    """Guard: the images of all others waited until one of them was done, or given up."""
    intake = make(children=2, decode_s=20.0)
    eventually(lambda: len(intake.pids) == 2)
    others = [read(intake, job(GOOD, partition=1)) for _ in range(2)]
    long = [read(intake, job(HANGS, shade=shade)) for shade in range(3)]
    before = intake.pids
    intake.decode(*others[0]).result(30)
    hung = [intake.decode(*each) for each in long]
    time.sleep(0.3)
    intake.decode(*others[1]).result(60)
    assert intake.pids == before, "another image waited until a decoder was given up"
    assert not any(future.done() for future in hung)


def test_an_image_that_waits_for_its_turn_is_in_no_childs_hands(make: Make) -> None:
    """Guard: otherwise a decoder's next image, or one in a waiting partition, has a wrong clock."""
    intake = make(children=1, decode_s=2.0)
    long = [read(intake, job(HANGS, shade=shade)) for shade in range(3)]
    assert intake.at_work()[0] in (None, long[-1][0].job)
    hung = [intake.decode(*each) for each in long]
    jobs, most = [each[0].job for each in long], 0.0
    while not all(future.done() for future in hung):
        at, seconds = intake.at_work()
        most = max(most, seconds)
        assert at is None or at in jobs
        time.sleep(0.05)
    assert 1.0 < most < 30.0, "each try has a clock of its own"
    eventually(lambda: intake.at_work()[0] is None)


def test_a_slow_only_child_gets_its_returned_requests_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned, withdraw = threading.Event(), Child.withdraw

    def heard(child: Child) -> list[PendingRequest]:
        returned.set()
        return withdraw(child)

    monkeypatch.setattr(Child, "withdraw", heard)
    intake = make(children=1, decode_s=20.0)
    known = [read(intake, job(each, shade=shade)) for shade, each in enumerate([TAKES_ITS_TIME, *[GOOD] * 12])]
    (before,) = intake.pids
    decoded = [intake.decode(*each) for each in known]
    assert returned.wait(60)
    Once(tmp_path).first(TAKES_ITS_TIME)
    for shade, future in enumerate(decoded):
        assert (future.result(30).pixels[SMALL] == (shade, 0, 0)).all()
    assert intake.pids == (before,)


def test_a_child_that_had_not_begun_does_not_skip_its_present_request(make: Make) -> None:
    """Guard: on a busy machine a child may not be let run for a second."""
    intake = make(children=1, decode_s=20.0)
    known = [read(intake, job(GOOD, shade=shade)) for shade in range(8)]
    (before,) = intake.pids
    os.kill(before, signal.SIGSTOP)
    decoded = [intake.decode(*each) for each in known]
    time.sleep(1.5)
    os.kill(before, signal.SIGCONT)
    for shade, future in enumerate(decoded):
        assert (future.result(30).pixels[SMALL] == (shade, 0, 0)).all()
    assert intake.pids == (before,)


def test_whenever_images_are_taken_back_each_is_decoded_rightly(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("workers.intake.processes.pending.HESITATION_S", 0.002)
    taken_back = 0

    def counted(child: Child) -> list[PendingRequest]:
        nonlocal taken_back
        requests = withdraw(child)
        taken_back += len(requests)
        return requests

    withdraw = Child.withdraw
    monkeypatch.setattr(Child, "withdraw", counted)
    intake = make(children=2, decode_s=20.0)
    eventually(lambda: len(intake.pids) == 2)
    chance = random.Random(1)
    for _ in range(20):
        shades = [chance.randrange(256) for _ in range(16)]
        known = [read(intake, job(GOOD, shade=shade)) for shade in shades]
        for pid in intake.pids:
            os.kill(pid, signal.SIGSTOP)
        decoded = [intake.decode(*each) for each in known]
        time.sleep(0.1)
        for pid in intake.pids:
            os.kill(pid, signal.SIGCONT)
        for shade, future in zip(shades, decoded, strict=True):
            assert (future.result(30).pixels[SMALL] == (shade, 0, 0)).all()
    assert taken_back > 20
    assert "was lost" not in caplog.text


def test_lost_children_are_counted_by_cause_and_logged_with_their_image(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []
    monkeypatch.setattr(metrics.DECODERS_LOST, "add", lambda cause: heard.append(cause))
    intake = make()
    for width in (SLOW_ONCE, DIES_ONCE):
        decoding(intake, job(width)).result(30)
    assert heard == ["clock", "death"]
    told = [record.getMessage() for record in caplog.records if "a decoder process died" in record.getMessage()]
    assert len(told) == 2
    assert all("at images:0:0, index 0: " in line for line in told)


def test_the_last_words_of_a_child_that_died_are_in_the_verdict_and_counted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[float] = []
    monkeypatch.setattr(metrics.STDERR_LINES, "add", lambda amount, of: lines.append(amount))
    error = decoding(make(), job(SAYS_WHY_AND_EXITS)).exception(30)
    assert reason(error) == "kills-decoder"
    assert str(error).endswith("the decoder's process died: exit code 3 (\ufffd[2Jheap is corrupt)")
    assert sum(lines) == 4  # two of each child that was lost


def test_a_child_that_comes_to_no_beginning_is_replaced(
    painted: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.intake.processes.pending._BIRTH_S", 2.0)
    assert read(painted(prepare=functools.partial(slow_to_begin, tmp_path)), job(GOOD))[1].width == GOOD
    assert not Once(tmp_path).first(0)


def test_no_image_is_blamed_when_a_good_one_kills_the_decoder_too(make: Make) -> None:
    intake = make(self_test_image_dies=True)
    with pytest.raises(Broken, match="known to be good"):
        decoding(intake, job(SEGFAULTS)).result(30)


def test_a_check_says_whether_a_good_image_can_be_decoded_here(make: Make) -> None:
    make().check().result(30)
    with pytest.raises(Broken, match="a decoder fails on an image known to be good"):
        make(self_test_image_dies=True).check().result(30)


def test_the_fork_server_is_started_again_when_it_dies(make: Make) -> None:
    intake = make()
    known = read(intake, job(GOOD))
    fork_server = parent_of(intake.pids[0])
    assert fork_server != os.getpid()
    os.kill(fork_server, signal.SIGKILL)
    assert (intake.decode(*known).result(60).pixels[SMALL] == (7, 0, 0)).all()


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("lost", ["child", "fork server"])
def test_without_a_descriptor_for_a_new_child_images_wait_and_nothing_ends(
    make: Make, caplog: pytest.LogCaptureFixture, lost: str
) -> None:
    """Guard: Supervisor._wait_for_room. Without it EMFILE is our own bug, and every later image fails with Broken."""
    intake = make()
    known = read(intake, job(GOOD))
    (child,) = intake.pids
    ended = child if lost == "child" else parent_of(child)
    with no_descriptors_left():
        os.kill(ended, signal.SIGKILL)
        eventually(lambda: "can't start a decoder process" in caplog.text)
        waiting = intake.decode(*known)
        time.sleep(1.2)
        assert not waiting.done()
    assert (waiting.result(30).pixels[SMALL] == (7, 0, 0)).all()
    assert caplog.text.count("can't start a decoder process") == 1


def test_a_sandbox_that_forbids_new_processes_ends_the_worker_with_a_sentence(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    with pytest.raises(Broken, match=r"start no decoder process \(Operation not permitted\): allow fork and exec"):
        make().check().result(30)


@pytest.mark.parametrize("deaths", [200, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])])
def test_many_deaths_leave_nothing_behind(make: Make, deaths: int) -> None:
    """Children die at random moments while images are decoded; every image comes out right, and nothing stays."""
    intake, rng = make(children=2), random.Random(1)
    decode(intake, 4)
    before = holdings()
    reaped: set[int] = set()
    while len(reaped) < deaths:
        for pid in intake.pids:
            if pid not in reaped:
                os.kill(pid, signal.SIGKILL)
                reaped.add(pid)
        if rng.random() < 0.1:
            decode(intake, 4)
        time.sleep(rng.random() * 0.01)
    decode(intake, 4)
    descriptors, threads, memory = (after - first for after, first in zip(holdings(), before, strict=True))
    assert descriptors <= 2
    assert threads <= 0
    assert memory < 32 * MIB


def decode(intake: ProcessIntake, count: int) -> None:
    decoded = [decoding(intake, job(GOOD, shade=shade)) for shade in range(count)]
    for shade, future in enumerate(decoded):
        assert (future.result(60).pixels[SMALL] == (shade, 0, 0)).all()


def holdings() -> tuple[int, int, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), pages * os.sysconf("SC_PAGE_SIZE")
