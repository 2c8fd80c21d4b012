"""A process's resources: descriptors, slots, signals, and output of libraries."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from workers import metrics
from workers.errors import Misconfigured
from workers.service import process as service_process
from workers.service.process import Slot, default_transactional_id, stop_on_signals

RAISE = """
import resource
from workers.service.logs import start_logging
from workers.service.process import raise_descriptor_limit
start_logging("info", "text")
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("soft", "hard", "then"), [(256, 2048, 2048), (64, 512, 512), (2048, 2048, 2048)])
def test_a_process_may_open_files_up_to_the_hard_limit(soft: int, hard: int, then: int) -> None:
    code = RAISE.format(soft=soft, hard=hard)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == then
    assert ("raise the hard limit" in done.stderr) is (then < 1024)


def test_each_holder_gets_the_first_free_number(tmp_path: Path) -> None:
    with Slot(tmp_path, "group") as first, Slot(tmp_path, "group") as second, Slot(tmp_path, "group") as third:
        assert [first.number, second.number, third.number] == [0, 1, 2]
        second.close()
        with Slot(tmp_path, "group") as again:
            assert again.number == 1


def test_groups_do_not_share_numbers(tmp_path: Path) -> None:
    with Slot(tmp_path, "a/b") as one, Slot(tmp_path, "a_b") as other:
        assert one.number == other.number == 0


@pytest.mark.slow
def test_a_killed_process_gives_its_slot_back(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from workers.service.process import Slot\n"
        "slot = Slot(Path(sys.argv[1]), 'group'); print(slot.number, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "0\n"
        with Slot(tmp_path, "group") as ours:
            assert ours.number == 1
        holder.kill()
        holder.wait()
    with Slot(tmp_path, "group") as ours:
        assert ours.number == 0


def test_a_started_program_does_not_inherit_the_slot(tmp_path: Path) -> None:
    with Slot(tmp_path, "group"), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        pass_on = list(Path(f"/proc/{child.pid}/fd").iterdir()) if sys.platform == "linux" else []
        held = [os.readlink(descriptor) for descriptor in pass_on if descriptor.is_symlink()]
        assert not any(target.endswith(".lock") for target in held)
        child.kill()


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="TAGSTREAM_STATE_DIR"):
        Slot(tmp_path / "file" / "below", "group")


def test_the_default_transactional_id_differs_by_slot(tmp_path: Path) -> None:
    with Slot(tmp_path, "group") as first, Slot(tmp_path, "group") as second:
        ids = {default_transactional_id("group", first), default_transactional_id("group", second)}
    assert len(ids) == 2
    assert all(name.startswith("group-") for name in ids)


def test_the_first_signal_stops_and_each_further_one_hurries() -> None:
    stopped, hurried = threading.Event(), threading.Event()
    numbers: list[int] = []

    def hurry(number: int) -> None:
        numbers.append(number)
        if len(numbers) == 2:
            hurried.set()

    with stop_on_signals(stopped.set, hurry):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(30)
        assert numbers == []
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert hurried.wait(30)
    assert sorted(numbers) == [signal.SIGINT, signal.SIGTERM]


def test_stop_may_wait_for_a_lock_that_the_main_thread_holds() -> None:
    lock, stopped = threading.Lock(), threading.Event()

    def stop() -> None:
        with lock:
            stopped.set()

    with stop_on_signals(stop, lambda _: None):
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not stopped.wait(0.1)
        assert stopped.wait(30)


def test_the_handlers_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_on_signals(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_a_process_with_a_waiting_main_thread_and_the_code_of_a_shell(
    number: signal.Signals, code: int
) -> None:
    """Many times, because a handler in Python would miss the signal only when it comes just before the wait."""
    program = (
        "import threading; from workers.service.process import stop_on_signals\n"
        "with stop_on_signals(lambda: print('stopping', flush=True)):\n"
        "    print('up', flush=True); threading.Event().wait()"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "up\n"
                process.send_signal(number)
                assert process.stdout.readline() == "stopping\n"
                process.send_signal(number)
                assert process.wait(20) == code
            finally:
                process.kill()


def test_where_the_drain_can_not_begin_the_process_leaves_at_once(caplog: pytest.LogCaptureFixture) -> None:
    left: queue.SimpleQueue[int] = queue.SimpleQueue()

    def stop() -> None:
        raise RuntimeError("can't start new thread")

    with stop_on_signals(stop, left.put):
        os.kill(os.getpid(), signal.SIGTERM)
        assert left.get(timeout=30) == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        assert left.get(timeout=30) == signal.SIGINT
    assert "the drain can't begin: exiting without it" in caplog.messages


PROGRAM = """
import ctypes, os, sys, threading
from workers.service.logs import start_logging
from workers.service.process import stray_output_logged

with stray_output_logged() as stderr:
    start_logging("info", "json", stream=stderr)
    os.write(2, b"ZIPDecode: \\x1b[2J broken\\n\\nno end")
    print("in Python")
    thread = threading.Thread(target=lambda: 1 / 0, name="unlucky")
    thread.start()
    thread.join()
    %s
os.write(2, b"afterwards\\n")
print("and out")
"""


def run(more: str = "pass") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM % more], capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_output_of_libraries_is_logged_while_it_is_captured_and_no_longer() -> None:
    done = run()
    *logged, last = done.stderr.splitlines()
    messages = [json.loads(line)["message"] for line in logged]
    assert messages[0] == "a library wrote: ZIPDecode: \x1b[2J broken"
    assert "a library wrote: ZeroDivisionError: division by zero" in messages
    assert any("no end" in message for message in messages)
    assert any("in Python" in message for message in messages)
    assert (last, done.stdout) == ("afterwards", "and out\n")


@pytest.mark.slow
def test_a_writer_never_waits_even_where_no_thread_can_read() -> None:
    """A library may hold the interpreter's lock while it writes: here it floods the pipe with that lock held."""
    flood = "ctypes.PyDLL(None).write(2, b'x' * 999 + b'\\n', 1000)"
    done = run(f"[{flood} for _ in range(500)]")
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) < 100


@pytest.mark.slow
def test_a_file_held_open_by_a_child_does_not_keep_the_process_from_ending() -> None:
    done = run("import subprocess; child = subprocess.Popen(['sleep', '5'], stdout=2)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "and out\n"


def test_a_line_that_cant_be_logged_does_not_block_the_next_ones(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, b"first\nsecond\n")
    os.close(theirs)
    add, errors = metrics.STDERR_LINES.add, [MemoryError()]

    def short_of_memory(count: int, *, of: str) -> None:
        if errors:
            raise errors.pop()
        add(count, of=of)

    monkeypatch.setattr(metrics.STDERR_LINES, "add", short_of_memory)
    service_process._log_lines(ours)
    assert caplog.messages == ["a library wrote: second"]
