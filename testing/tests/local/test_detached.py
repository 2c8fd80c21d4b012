"""Which stack a state file tells of, whether it runs, and how it is asked to end."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tagstream_testing.local import detached
from tagstream_testing.local.detached import Detached, Held, NotUp
from tagstream_testing.local.server import CannotStart
from tests.support.waiting import eventually
from workers.errors import Misconfigured

WHERE = {"TAGSTREAM_KAFKA_SERVERS": "127.0.0.1:1", "TAGSTREAM_REDIS_URL": "it's"}


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    monkeypatch.setattr(detached, "_LOCK_WITHIN_S", 0.2)


def state(folder: Path) -> Path:
    return folder / "stack.json"


def test_the_servers_addresses_appear_once_they_answer(tmp_path: Path) -> None:
    with Held(state(tmp_path)) as held:
        with pytest.raises(NotUp, match="still starting"):
            Detached(tmp_path).environment()
        held.announce(WHERE)
        assert Detached(tmp_path).environment() == WHERE
        assert Detached(tmp_path).up() is False
        assert state(tmp_path).stat().st_mode & 0o077 == 0, "it has the store's keys"
    assert not state(tmp_path).exists()


def test_only_one_stack_holds_a_file(tmp_path: Path) -> None:
    with Held(state(tmp_path)) as first:
        with pytest.raises(Misconfigured, match="up already"):
            Held(state(tmp_path))
        assert first.wanted


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotUp, match="`tagstream stack up --detach` starts one"):
        Detached(tmp_path).environment()
    assert Detached(tmp_path).down() is False


def test_a_stack_that_ended_by_itself_is_reported_with_its_last_words_and_does_not_block_the_next(
    tmp_path: Path,
) -> None:
    def end() -> None:
        with Held(state(tmp_path)) as held:
            held.announce(WHERE)
            os.close(held._descriptor)
            raise CannotStart("Valkey ended")

    with pytest.raises(CannotStart):
        end()
    (tmp_path / "stack.log").write_text("Valkey ended\n")
    with pytest.raises(NotUp) as told:
        Detached(tmp_path).environment()
    assert "ended by itself" in str(told.value)
    assert str(told.value).endswith("stack.log ends with:\nValkey ended")
    assert Detached(tmp_path).down() is False
    assert not state(tmp_path).exists()


def test_a_new_stack_takes_over_the_file_of_a_dead_one(tmp_path: Path) -> None:
    state(tmp_path).write_text(json.dumps({"pid": 1, "environment": WHERE}))
    with Held(state(tmp_path)), pytest.raises(NotUp, match="still starting"):
        Detached(tmp_path).environment()


def test_it_ends_when_it_is_asked_to_and_down_waits_for_that(tmp_path: Path) -> None:
    ended: list[float] = []

    def stay() -> None:
        with Held(state(tmp_path)) as held:
            held.announce(WHERE)
            while held.wanted:
                time.sleep(0.01)
            time.sleep(0.2)
            ended.append(time.monotonic())

    holder = threading.Thread(target=stay)
    holder.start()
    eventually(lambda: state(tmp_path).exists() and state(tmp_path).read_text())
    assert Detached(tmp_path).down() is True
    assert ended
    holder.join()


def test_one_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "_ENDS_WITHIN_S", 0.2)
    with Held(state(tmp_path)) as held:
        held.announce(WHERE)
        with pytest.raises(NotUp, match=f"its process {os.getpid()} does not end"):
            Detached(tmp_path).down()


def test_one_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\necho no java here\nexit 4\n")
    fails.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fails))
    with pytest.raises(CannotStart) as told:
        Detached(tmp_path / "new").up()
    assert str(told.value).startswith("the stack did not start. ")
    assert str(told.value).endswith("stack.log ends with:\nno java here")


def test_a_folder_that_can_not_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for ask in (Detached(tmp_path / "file").up, Detached(tmp_path / "file" / "below").environment):
        with pytest.raises(Misconfigured, match=r"Not a directory|File exists"):
            ask()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 50_000,
        "[1]",
        '{"pid": 1}',
        '{"pid": 1, "environment": [1]}',
        '{"pid": "x", "environment": {}}',
        '{"pid": 1e999, "environment": {}}',
        '{"pid": 1, "environment": {"BASH_ENV": "/theirs"}}',
        '{"pid": 1, "environment": {"TAGSTREAM_GROUP": "\\u001b"}}',
        '{"pid": 1, "environment": {"A; rm": "x"}}',
        "\ud800",
    ],
)
def test_an_invalid_state_file_sets_no_variable_of_a_shell(content: str, tmp_path: Path) -> None:
    with Held(state(tmp_path)):
        state(tmp_path).write_bytes(content.encode(errors="surrogatepass"))
        with pytest.raises(NotUp, match="still starting"):
            Detached(tmp_path).environment()


def _link(path: Path) -> None:
    path.symlink_to("theirs")


@pytest.mark.parametrize(("make", "says"), [(os.mkfifo, "is no file of yours"), (_link, "can't be opened")])
def test_only_a_regular_file_tells_of_a_stack(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text(json.dumps({"pid": 1, "environment": WHERE}))
    make(state(tmp_path))
    for ask in (Detached(tmp_path).environment, Detached(tmp_path).down, lambda: Held(state(tmp_path))):
        with pytest.raises(Misconfigured, match=says):
            ask()
    assert (tmp_path / "theirs").read_text()


def test_a_file_of_another_user_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state(tmp_path).write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: state(tmp_path).stat().st_uid + 1)
    with pytest.raises(Misconfigured, match="is no file of yours"):
        Detached(tmp_path).environment()


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    state(tmp_path).touch(0o666)
    with Held(state(tmp_path)):
        assert state(tmp_path).stat().st_mode & 0o077 == 0


def test_the_log_replaces_what_lies_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "stack.log").symlink_to(tmp_path / "theirs")
    with pytest.raises(CannotStart):
        Detached(tmp_path).up()
    assert (tmp_path / "theirs").read_text() == "theirs"
