"""A stalled process says where it stands and ends with 3; a live one is left alone."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from copy import copy
from itertools import count, cycle
from pathlib import Path
from typing import TextIO

import pytest

from tests.support.waiting import eventually
from workers.service.watchdog import Watchdog
from workers.types import Health

STALLED_PROGRAM = """
import logging, threading, time
from workers.types import Health
from workers.service.logs import start_logging
from workers.service.watchdog import Watchdog

start_logging("info", "text")

def stuck_in_the_driver():
    threading.Event().wait()

threading.Thread(target=stuck_in_the_driver, daemon=True).start()
Watchdog(
    lambda: Health(False, ("annotate: nothing moved for 16 s",)),
    unready=lambda reason: print(f"unready: {reason}", flush=True),
    every_s=0.05,
    patience=3,
).start()
time.sleep(60)
"""


@pytest.mark.slow
def test_a_stall_dumps_every_stack_turns_unready_and_exits_with_3() -> None:
    done = subprocess.run([sys.executable, "-c", STALLED_PROGRAM], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert done.stdout == "unready: stalled: annotate: nothing moved for 16 s\n"
    assert "critical service.watchdog: stalled: annotate: nothing moved" in done.stderr
    assert "stuck_in_the_driver" in done.stderr
    assert "Current thread" in done.stderr


@pytest.mark.slow
def test_in_a_log_of_json_every_stack_is_in_a_line_of_json() -> None:
    many = "threads = [threading.Thread(target=stuck_in_the_driver, daemon=True).start() for _ in range(70)]\nWatchdog("
    program = STALLED_PROGRAM.replace('"text"', '"json"').replace("Watchdog(", many, 1)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    stacks = "\n".join(line["message"] for line in lines[1:])
    assert stacks.count("stuck_in_the_driver") == 71
    assert "Current thread" in stacks
    assert {line["level"] for line in lines} == {"critical"}


LATE_PROGRAM = """
import threading, sys
from workers.service.logs import start_logging
from workers.service.watchdog import end_within

start_logging("info", "text")
end_within(float(sys.argv[1]), "it did not end within 0.3 s of being asked to")

def waits_for_no_one():
    threading.Event().wait()

if sys.argv[2:]:
    threading.Thread(target=waits_for_no_one).start()  # what the interpreter waits for at its end
"""


@pytest.mark.slow
def test_a_process_that_was_asked_to_end_and_does_not_is_ended_with_3() -> None:
    command = [sys.executable, "-c", LATE_PROGRAM, "0.3", "hang"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "critical service.watchdog: stalled: it did not end within 0.3 s of being asked to" in done.stderr
    assert "waits_for_no_one" in done.stderr


@pytest.mark.slow
def test_a_process_that_ends_in_time_is_not_held_up() -> None:
    done = subprocess.run([sys.executable, "-c", LATE_PROGRAM, "1000"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


class Ends:
    """Takes the place of os._exit."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.happened = threading.Event()
        self.reasons: list[str] = []

    def __call__(self, code: int) -> None:
        self.code = code
        self.happened.set()


def watch(
    alive: Callable[[], Health], ends: Ends, *, stacks: TextIO, patience: int = 4, silence: int = 1_000
) -> Watchdog:
    """`stacks` must be a real file: faulthandler writes to its descriptor."""
    return Watchdog(
        alive, unready=ends.reasons.append, every_s=0.02, patience=patience, silence=silence, leave=ends, stream=stacks
    )


@pytest.fixture
def stacks(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "stacks").open("w") as file:
        yield file


@pytest.mark.parametrize("bad", [False, MemoryError()], ids=["unwell", "it raises"])
def test_answers_that_recover_in_time_end_nothing(stacks: TextIO, bad: bool | Exception) -> None:
    ends, answers, asked = Ends(), cycle([bad, bad, bad, True]), count()

    def alive() -> Health:
        next(asked)
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return Health(answer)

    dog = watch(alive, ends, stacks=stacks, patience=4, silence=10)
    dog.start()
    eventually(lambda: next(copy(asked)) > 12)
    dog.stop()
    assert not ends.happened.is_set()


def test_a_check_that_does_not_return_is_a_stall(stacks: TextIO) -> None:
    ends, never = Ends(), threading.Event()

    def hang() -> Health:
        never.wait()
        return Health(True)

    dog = watch(hang, ends, stacks=stacks, silence=10)
    dog.start()
    assert ends.happened.wait(30)
    assert ends.code == 3
    assert ends.reasons == ["stalled: the check for progress does not return"]
    never.set()


def test_a_stopped_watchdog_ends_nothing(stacks: TextIO) -> None:
    ends = Ends()
    dog = watch(lambda: Health(False), ends, stacks=stacks, patience=50)
    dog.start()
    dog.stop()
    time.sleep(0.1)
    assert not ends.happened.is_set()


def test_a_check_that_keeps_raising_is_a_stall_that_names_the_error(stacks: TextIO) -> None:
    def alive() -> Health:
        raise MemoryError("no room")

    ends = Ends()
    watch(alive, ends, stacks=stacks).start()
    assert ends.happened.wait(30)
    assert ends.reasons == ["stalled: the check for progress fails: MemoryError('no room')"]


@pytest.mark.slow
def test_a_stalled_process_ends_without_a_descriptor_for_its_last_words() -> None:
    """In a log of JSON lines the stacks go through a file in memory."""
    short = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\nWatchdog("
    program = STALLED_PROGRAM.replace('"text"', '"json"').replace("Watchdog(", short, 1)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "stalled: annotate: nothing moved" in json.loads(done.stderr.splitlines()[0])["message"]
