"""How many processors a process takes for its own."""

import os
from pathlib import Path

import pytest

from workers import processors as subject
from workers.processors import processors


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of its control group, "a/b"; the machine has eight processors."""
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/a/b\n")
    folder = tmp_path / "cgroup" / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.setattr(subject, "_OWN", tmp_path / "own")
    monkeypatch.setattr(subject, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return folder


@pytest.mark.parametrize(
    ("quota", "taken"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("3200000 100000", 8),
        ("max 100000", 8),
        ("0 100000", 1),
        ("-5 100000", 1),
        ("5 0", 8),
        ("nonsense", 8),
        ("", 8),
    ],
)
def test_a_containers_share_of_time_bounds_the_number_of_processors(limited: Path, quota: str, taken: int) -> None:
    (limited / "cpu.max").write_text(quota)
    assert processors() == taken


def test_the_groups_around_it_bound_it_too(limited: Path) -> None:
    (limited / "cpu.max").write_text("max 100000")
    (limited.parent / "cpu.max").write_text("300000 100000")
    assert processors() == 3


def test_in_a_container_its_group_is_the_root(limited: Path, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/\n")
    (tmp_path / "cgroup" / "cpu.max").write_text("100000 100000")
    assert processors() == 1


@pytest.mark.parametrize("own", [None, b"", b"4:cpu:/only/v1\n", b"\xff\xfe"])
def test_without_a_limit_all_allowed_processors_count(limited: Path, tmp_path: Path, own: bytes | None) -> None:
    (tmp_path / "own").unlink()
    if own is not None:
        (tmp_path / "own").write_bytes(own)
    assert processors() == 8
