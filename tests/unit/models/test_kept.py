"""Bundles of tests are made once for each recipe and state of the code."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import kept as module
from tests.support.kept import kept


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STORE", tmp_path / "store")


def writes(text: str, made: list[str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        made.append(text)
        folder.mkdir()
        (folder / "file").write_text(text)

    return make


def test_other_code_makes_bundles_again_and_those_of_old_code_go_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    kept(tmp_path / "before", "one", writes("one", made))
    (old,) = (tmp_path / "store").iterdir()
    for hours, left in ((1, 2), (25, 2)):
        os.utime(old, (0, old.stat().st_mtime - hours * 3600))
        monkeypatch.setattr(module, "_sources", lambda hours=hours: f"after {hours} h")
        kept(tmp_path / str(hours), "one", writes("one", made))
        assert len(list((tmp_path / "store").iterdir())) == left
    assert not old.exists()
    assert len(made) == 3
