"""A hijacked decoder gets nothing, harms no other image, and its own image is dead-lettered."""

import functools
import hashlib
import os
import platform
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import eventually
from tests.unit.intake.deadly import GOOD, LARGEST, PaintedStore, decoding, job, parent_of, read
from tests.unit.intake.hostile import FORGERIES, FORGES, KEEPS, TRIES, Report, take_over
from workers.errors import Rejected
from workers.intake import ProcessIntake
from workers.intake.limits import MIB, Limits
from workers.intake.processes.sandbox import CALLS, CALLS_ON_OURSELVES, PROTECTIONS
from workers.types import Transform

pytestmark = pytest.mark.slow

SMALL = Transform(8)
Make = Callable[..., ProcessIntake]

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="its numbers of system calls are those of x86_64")


@pytest.fixture
def make(painted: Make, tmp_path: Path) -> Make:
    (tmp_path / "secret").write_text("s3cr3t")
    (tmp_path / "worker").write_text(str(os.getpid()))

    def build(children: int = 2, **how: str) -> ProcessIntake:
        prepare = functools.partial(take_over, tmp_path, **how)
        return painted(Limits(decode_bytes=256 * MIB), children, prepare=prepare)

    return build


FILES = {
    "read the file of a secret",
    "read the worker's environment",
    "read the worker's memory",
    "read the environment of its parent",
    "list a folder",
    "write a file",
    "write an old file",
    "remove a file",
    "make a link",
}
OTHERS = {"signal the worker", "end its parent"}


@on_x86
def test_a_decoder_that_was_taken_over_gets_nothing_done(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard: close_off. Without it every one of these succeeds for root, and most for any user."""
    monkeypatch.setenv("TAGSTREAM_S3_SECRET_KEY", "s3cr3t")
    intake = make()
    assert (decoding(intake, job(TRIES)).result(30).pixels[SMALL] == (7, 0, 0)).all()
    done = Report(tmp_path).read()
    assert {name: what for name, what in done.items() if what is not None} == {}
    assert len(done) > 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "secret", "worker"]
    assert (tmp_path / "secret").read_text() == "s3cr3t"
    assert (decoding(intake, job(GOOD)).result(30).pixels[SMALL] == (7, 0, 0)).all()


@on_x86
@pytest.mark.parametrize("missing", PROTECTIONS)
def test_a_kernel_that_lacks_one_protection_is_named_once_and_the_others_hold(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    intake = make(without=missing)
    decoding(intake, job(TRIES)).result(30)
    got = {name for name, what in Report(tmp_path).read().items() if what is not None}
    if missing == "Landlock":
        assert got == set()
    else:
        assert not got & (FILES | OTHERS), got
        assert not got & {"open a TCP socket", "connect by TCP", "raise its own limits", "take shared memory"}, got
    assert intake.lacks == (missing,)
    said = [record.message for record in caplog.records if "weaker sandbox" in record.message]
    assert said == [f"decoders run with a weaker sandbox: this kernel has no {missing}"]


def test_no_process_that_decodes_was_started_with_our_environment_or_descriptors(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guard: a process keeps its first environment in memory, whatever it deletes afterwards."""
    monkeypatch.setenv("TAGSTREAM_S3_SECRET_KEY", "s3cr3t")
    secret = os.open(tmp_path / "secret", os.O_RDONLY)
    os.set_inheritable(secret, True)
    intake = make(children=1)
    read(intake, job(GOOD))
    (child,) = intake.pids
    for pid in (child, parent_of(child)):
        with suppress(PermissionError):  # it is not dumpable: only root looks into it
            started_with = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            names = {each.partition(b"=")[0].decode() for each in started_with if each}
            paths = {"LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH"}
            threads_and_memory = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} | {
                "MALLOC_MMAP_THRESHOLD_",
                "MALLOC_TRIM_THRESHOLD_",
            }
            assert names <= paths | threads_and_memory
            open_files = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
            assert str(tmp_path / "secret") not in open_files
    os.close(secret)


UNSEEN = {"two answers", "pixels outside its region"}
"""A forged first answer can't be recognised; the memory behind a region is the child's own."""


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_answer_costs_its_own_image_and_no_other(make: Make, forgery: str) -> None:
    """Guard: an answer is about the image that its child is at, and of a fixed form, or the child is ended."""
    intake = make(children=1, forgery=forgery)
    known = [read(intake, job(width, shade=shade)) for shade, width in enumerate([GOOD, FORGES, GOOD, GOOD])]
    decoded = [intake.decode(*each) for each in known]
    error = decoded[1].exception(60)
    if forgery in UNSEEN:
        assert error is None or isinstance(error, Rejected)
    else:
        assert isinstance(error, Rejected)
        assert error.reason in {"kills-decoder", "decode-failed"}
    for shade in (0, 2, 3):
        assert (decoded[shade].result(60).pixels[SMALL] == (shade, 0, 0)).all()


def test_a_decoder_that_was_taken_over_can_have_no_other_image_blamed_and_ends_no_worker(
    make: Make,
) -> None:
    """Guard: a suspected image, and the good image of its trial, gets a child that has seen no other."""
    intake = make(children=2)
    while len(intake.pids) < 2:
        time.sleep(0.01)
    known = [read(intake, job(KEEPS)) for _ in range(6)]
    for future in [intake.decode(*each) for each in known]:  # in both children
        assert (future.result(30).pixels[SMALL] == (7, 0, 0)).all()
    assert (decoding(intake, job(GOOD)).result(30).pixels[SMALL] == (7, 0, 0)).all()


def hashes(*shades: int) -> set[str]:
    store = PaintedStore()
    bodies = [store.get("photos", f"png/{GOOD}/{shade}").body for shade in shades]
    return {hashlib.sha256(body).hexdigest() for body in bodies}


@pytest.mark.parametrize("end", ["a signal", "a lie", "the clock"])
def test_answers_of_a_decoder_before_its_death_or_lie_are_doubted(make: Make, end: str) -> None:
    """Guard: it may have been taken over long before, by an image that it decoded as if nothing was."""
    told: list[Collection[str]] = []
    intake = make(children=1, forgery="garbage")
    intake.on_doubt(told.append)
    for shade in (1, 2):
        decoding(intake, job(GOOD, shade=shade)).result(30)
    (pid,) = intake.pids
    if end == "a lie":
        decoding(intake, job(FORGES)).exception(60)
    else:
        os.kill(pid, signal.SIGKILL if end == "a signal" else signal.SIGSTOP)
        if end == "the clock":
            waiting = intake.inspect(intake.fetch(job(GOOD), LARGEST).result(30))
            waiting.result(60)
    eventually(lambda: intake.pids not in {(), (pid,)})
    found = [hashes(1, 2) <= set(each) for each in told[:1]]
    assert found == ([] if end == "the clock" else [True])


def test_answers_of_longer_ago_are_not_doubted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.intake.processes.pending.DOUBTED_S", 0.5)
    told: list[Collection[str]] = []
    intake = make(children=1)
    intake.on_doubt(told.append)
    decoding(intake, job(GOOD, shade=1)).result(30)
    time.sleep(0.6)
    (pid,) = intake.pids
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: intake.pids not in {(), (pid,)})
    assert told == []


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize(("column", "machine"), list(enumerate(HEADERS)))
def test_the_numbers_of_system_calls_are_the_kernels(column: int, machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("there are no kernel headers here")
    lines = (line.split() for line in HEADERS[machine].read_text().splitlines() if line.startswith("#define __NR"))
    defined = {words[1]: words[2] for words in lines if len(words) > 2}
    numbers = {name.removeprefix("__NR_"): defined.get(number, number) for name, number in defined.items()}
    for name, pair in (CALLS | CALLS_ON_OURSELVES).items():
        assert numbers[name] == str(pair[column]), name
