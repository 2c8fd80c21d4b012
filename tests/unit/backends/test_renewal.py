"""Files that are read again after a change, secrets in files, and leases of services."""

import os
from pathlib import Path

import pytest

from tagstream_testing.memory import ManualClock
from workers.backends.renewal import Lease, RenewedFile, Secret, one_line


def test_a_secret_has_its_files_present_content(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("first\n")
    secret = Secret("first", path)
    assert secret() == "first"
    path.write_text("second, with spaces \n")
    assert secret() == "second, with spaces "


@pytest.mark.parametrize("damage", ["", "\n", None])
def test_a_secret_with_an_empty_or_missing_file_keeps_its_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str | None
) -> None:
    path = tmp_path / "password"
    if damage is not None:
        path.write_text(damage)
    secret = Secret("from the start", path)
    assert [secret(), secret()] == ["from the start"] * 2
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]
    assert "from the start" not in caplog.text


def test_a_file_that_has_not_changed_is_not_read_again_until_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a token")
    read: list[str] = []

    def parse(text: str) -> str:
        read.append(text)
        return text

    file = RenewedFile(path, parse)
    assert [file(), file()] == ["a token"] * 2
    assert len(read) == 1
    file.forget()
    assert [file(), file()] == ["a token"] * 2
    assert len(read) == 2


def test_a_secret_that_was_refused_is_read_again_though_its_file_looks_the_same(tmp_path: Path) -> None:
    """Guard: on a file system with coarse times, nothing else distinguishes two secrets of one length."""
    path = tmp_path / "password"
    path.write_text("old")
    secret = Secret("old", path)
    assert secret() == "old"
    before = path.stat()
    path.write_text("new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert secret() == "old"
    secret.forget()
    assert secret() == "new"


def test_a_secret_that_was_in_no_file_never_changes_and_has_nothing_to_read_again() -> None:
    secret = Secret("s3cret")
    secret.forget()
    assert secret() == "s3cret"


def test_a_file_that_fails_again_after_a_success_is_reported_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "password"
    secret = Secret("first", path)
    for last, text in (("first", "second"), ("second", "third")):
        assert [secret() for _ in range(3)] == [last] * 3
        path.write_text(text)
        assert secret() == text
        path.unlink()
    assert caplog.messages == [f"{path} can't be used now; using its last content: No such file or directory"] * 2


def test_a_file_that_was_never_read_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RenewedFile(tmp_path / "token", one_line)()


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 65_536)
    assert RenewedFile(path, one_line)() == "x" * 65_536
    path.write_text("x" * 65_537)
    with pytest.raises(ValueError, match="more than 65,536 bytes"):
        RenewedFile(path, one_line)()


def test_no_byte_of_a_file_that_is_no_text_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"secret \xff")
    with pytest.raises(ValueError, match=r"^it is not text in UTF-8$"):
        RenewedFile(tmp_path / "token", one_line)()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def lease(clock: ManualClock) -> Lease:
    return Lease(10.0, clock.monotonic)


def states(lease: Lease, clock: ManualClock, *until_s: float) -> list[tuple[bool, bool]]:
    """Whether it is due and whether it is valid, at each of these seconds from now."""
    began, found = clock.monotonic(), []
    for second in until_s:
        clock.advance(began + second - clock.monotonic())
        found.append((lease.due, lease.valid))
    return found


def test_a_lease_that_was_never_granted_is_due_and_not_valid(lease: Lease) -> None:
    assert (lease.due, lease.valid) == (True, False)


def test_a_lease_is_due_after_four_fifths_of_its_life_and_valid_until_its_end(lease: Lease, clock: ManualClock) -> None:
    lease.granted(100.0)
    expected = [(False, True)] * 2 + [(True, True)] * 2 + [(True, False)]
    assert states(lease, clock, 0, 79, 80, 99, 100) == expected


@pytest.mark.parametrize("life_s", [-50.0, 0.0, 9.0])
def test_a_life_that_is_too_short_to_use_counts_as_the_shortest(
    lease: Lease, clock: ManualClock, life_s: float
) -> None:
    """Guard: a service with another clock, or with lives of a second, would be called for every request."""
    lease.granted(life_s)
    assert states(lease, clock, 7, 8, 9, 10) == [(False, True), (True, True), (True, True), (True, False)]


def test_after_a_failure_it_is_not_due_for_a_second_and_stays_valid(lease: Lease, clock: ManualClock) -> None:
    lease.granted(100.0)
    clock.advance(99)
    lease.failed()
    assert states(lease, clock, 0, 0.5, 1) == [(False, True), (False, True), (True, False)]


def test_it_can_be_made_due_sooner_and_never_later(lease: Lease, clock: ManualClock) -> None:
    lease.granted(100.0)
    lease.ask_within(10.0)
    lease.ask_within(20.0)
    assert states(lease, clock, 9, 10) == [(False, True), (True, True)]
