"""Files that are read again after a change, secrets in files, and leases of services."""

import os
from pathlib import Path

import pytest

from tagstream_testing.memory import ManualClock
from workers.backends.renewal import Leased, RenewedFile, Secret, one_line


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


class Service:
    """Gives 1, 2, …, each for `life_s`; does not answer while `away`."""

    def __init__(self, clock: ManualClock) -> None:
        self.given, self.asked, self.life_s, self.away = 0, 0, 100.0, False
        self.leased = Leased(
            "number", self.ask, (OSError,), lambda error: ValueError(f"no: {error}"), 10.0, clock.monotonic
        )

    def ask(self) -> tuple[int, float]:
        self.asked += 1
        if self.away:
            raise OSError("away")
        self.given += 1
        return self.given, self.life_s


@pytest.fixture
def service(clock: ManualClock) -> Service:
    return Service(clock)


def given(service: Service, clock: ManualClock, *at_s: float) -> list[int]:
    """What it gives at each of these seconds from now."""
    began, found = clock.monotonic(), []
    for second in at_s:
        clock.advance(began + second - clock.monotonic())
        found.append(service.leased())
    return found


def test_what_is_leased_is_renewed_after_four_fifths_of_its_life(service: Service, clock: ManualClock) -> None:
    assert given(service, clock, 0, 79, 80, 159, 160) == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("life_s", [-50.0, 0.0, 9.0])
def test_a_life_that_is_too_short_to_use_counts_as_the_shortest(
    service: Service, clock: ManualClock, life_s: float
) -> None:
    """Guard: a service with another clock, or with lives of a second, would be called for every request."""
    service.life_s = life_s
    assert given(service, clock, 0, 7, 8) == [1, 1, 2]


def test_while_the_service_is_away_the_last_serves_until_its_end_and_it_is_asked_once_a_second(
    service: Service, clock: ManualClock
) -> None:
    service.leased()
    service.away = True
    assert given(service, clock, 99, 99.5) == [1, 1]
    assert service.asked == 2
    clock.advance(0.5)
    with pytest.raises(ValueError, match="no: away"):
        service.leased()
    assert service.asked == 3
    service.away = False
    assert given(service, clock, 1) == [2]


def test_it_can_be_renewed_sooner_and_never_later(service: Service, clock: ManualClock) -> None:
    service.leased()
    service.leased.ask_within(10.0)
    service.leased.ask_within(20.0)
    assert given(service, clock, 9, 10) == [1, 2]
