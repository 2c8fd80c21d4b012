from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tagstream_testing.local.scratch import Scratch, sweep

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


def test_a_folder_is_gone_with_all_that_is_in_it_when_closed(tmp_path: Path) -> None:
    with Scratch(tmp_path) as scratch:
        (scratch.path / "a" / "b").mkdir(parents=True)
        (scratch.path / "a" / "b" / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_program_leaves_elsewhere_goes_with_the_folder(tmp_path: Path) -> None:
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
