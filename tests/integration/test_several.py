"""`tagstream run --workers 2` on real servers: a parent and two workers, and what becomes of them."""

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.forked import MayFork
from tests.support.processes import children, family, lives, survivors
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, started, worker

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

TWO = {"TAGSTREAM_WORKERS": "2", "TAGSTREAM_LOG_FORMAT": "text"}


def done_by(parent: WorkerProcess) -> Mapping[str, float]:
    return {n: parent.metric("tagstream_outcomes_total", worker=n, kind="enriched") for n in ("1", "2")}


def assert_once_and_in_order(site: Site) -> None:
    assert site.outcomes() == site.inputs()
    site.assert_in_order()
    audited = site.audit()
    assert audited.proved, audited.as_json()


def test_two_divide_a_topic_and_one_port_tells_of_both(site: Site, tmp_path: Path) -> None:
    with worker(site, "w", tmp_path, **TWO) as parent:
        site.send_photos(range(60))
        eventually(lambda: site.behind() == 0, 90, parent.said)
        done = done_by(parent)
        assert min(done.values()) > 0, done
        assert sum(done.values()) == 60
        assert parent.get("/livez")[0] == parent.get("/startupz")[0] == 200
        assert len(set(started(parent))) == 2
        journals = sorted(path.name for path in (tmp_path / "w" / "state" / "journals").iterdir())
        assert journals == [f"{site.name}-w-1", f"{site.name}-w-2"]
        assert parent.pid is not None
        everyone = family(parent.pid)
        assert parent.terminate() == 0, parent.said()
        assert survivors(everyone) == []
    assert_once_and_in_order(site)


def test_a_killed_worker_comes_back_with_its_id_and_the_other_goes_on(site: Site, tmp_path: Path) -> None:
    with worker(site, "w", tmp_path, **TWO) as parent:
        site.send_photos(range(30))
        (one, victim), (_, other) = sorted(started(parent))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(started(parent)) == 3, 30, parent.said)
        assert started(parent)[-1][0] == one
        eventually(lambda: parent.get("/readyz")[0] == 200, 60, parent.said)
        assert lives(other)
        site.send_photos(range(30, 60))
        parent.finish()
    assert_once_and_in_order(site)


def test_until_idle_ends_all_once_each_has_nothing_to_do(site: Site, tmp_path: Path) -> None:
    site.send_photos(range(20))
    process = WorkerProcess(site, "w", tmp_path, arguments=["--until-idle", "1"], **TWO)
    try:
        assert process.wait_gone(120) == 0, process.said()
    finally:
        process.kill()
    assert_once_and_in_order(site)


def test_workers_are_started_anew_where_a_fork_would_lose_threads(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA. Here the parent has made the compact bundle, with torch's threads."""
    monkeypatch.setattr(MayFork, "forks", False)
    first_start = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
    with worker(site, "w", tmp_path, **TWO, **first_start) as parent:
        assert "the workers share no memory" in parent.said()
        site.send_photos(range(20))
        eventually(lambda: site.behind() == 0, 90, parent.said)
        assert {number for number, _ in started(parent)} == {1, 2}
        assert parent.pid is not None
        everyone = family(parent.pid)
        parent.kill()
        assert survivors(everyone) == []
    assert_once_and_in_order(site)


def test_one_worker_has_no_parent_and_no_label(site: Site, tmp_path: Path) -> None:
    with worker(site, "w", tmp_path, TAGSTREAM_WORKERS="1") as process:
        site.send_photos(range(1))
        eventually(lambda: site.behind() == 0, 60, process.said)
        assert "worker=" not in process.get("/metrics")[1]
        assert process.pid is not None
        assert len(children(process.pid)) == 1, "the fork server of its decoders"
        assert [path.name for path in (tmp_path / "w" / "state" / "journals").iterdir()] == [f"{site.name}-w"]
        assert process.terminate() == 0, process.said()


def test_the_second_worker_costs_150_mb_at_most_because_the_loaded_model_is_shared(site: Site, tmp_path: Path) -> None:
    """With its decoders. By PSS: what all processes hold with it and without it."""
    with worker(site, "w", tmp_path, **TWO, TAGSTREAM_DECODE_THREADS="1") as parent:
        site.send_photos(range(8))
        eventually(lambda: site.behind() == 0, 90, parent.said)
        assert parent.pid is not None
        parent.freeze()  # so that it starts none in place of the one that is killed
        everyone = family(parent.pid)
        second = family(dict(started(parent))[2])
        with_it = sum(map(proportional, everyone))
        os.kill(second[0], signal.SIGKILL)
        assert survivors(second) == []
        without = sum(proportional(pid) for pid in everyone if pid not in second)
        parent.kill()
    assert 0 < with_it - without <= 150e6


def proportional(pid: int) -> int:
    """Bytes of memory, those of shared pages divided by the processes that share them (PSS)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE))
