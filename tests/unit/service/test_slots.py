"""Slots are distinct among living processes and free again after any end of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.errors import Misconfigured
from workers.service.slots import Slot, default_transactional_id


def test_each_holder_gets_the_first_free_number(tmp_path: Path) -> None:
    with Slot(tmp_path, "group") as first, Slot(tmp_path, "group") as second, Slot(tmp_path, "group") as third:
        assert [first.number, second.number, third.number] == [0, 1, 2]
        second.close()
        with Slot(tmp_path, "group") as again:
            assert again.number == 1


def test_groups_do_not_share_numbers(tmp_path: Path) -> None:
    with Slot(tmp_path, "a/b") as one, Slot(tmp_path, "a_b") as other:
        assert one.number == other.number == 0


def test_a_killed_process_gives_its_slot_back(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from workers.service.slots import Slot\n"
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


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="TAGSTREAM_STATE_DIR"):
        Slot(tmp_path / "file" / "below", "group")


def test_the_default_transactional_id_differs_by_slot(tmp_path: Path) -> None:
    with Slot(tmp_path, "group") as first, Slot(tmp_path, "group") as second:
        ids = {default_transactional_id("group", first), default_transactional_id("group", second)}
    assert len(ids) == 2
    assert all(name.startswith("group-") for name in ids)
