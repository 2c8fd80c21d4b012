"""Files that are read again when they change, and secrets that may be in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.backends.renewed_file import RenewedFile, Secret, one_line


def test_a_secret_that_was_in_no_file_never_changes() -> None:
    assert Secret("s3cret")() == "s3cret"


def test_a_secret_is_what_its_file_says_now(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("first\n")
    secret = Secret("first", path)
    assert secret() == "first"
    path.write_text("second, with spaces \n")
    assert secret() == "second, with spaces "


@pytest.mark.parametrize("damage", ["", "\n", None])
def test_a_secret_whose_file_is_empty_or_gone_is_what_it_was(
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


def test_a_file_that_was_never_read_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RenewedFile(tmp_path / "token", one_line)()


def test_a_file_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x" * 70_000)
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        RenewedFile(path, one_line)()
