"""The process intake at work: who runs what, and how it ends."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path

import numpy as np
import pytest

from tests.unit.intake.deadly import GOOD, DeadlyStore, job, sleeping_job
from workers import metrics
from workers.errors import Broken, Misconfigured
from workers.intake import ProcessIntake
from workers.intake.processes.orders import Child, Order
from workers.intake.processes.slab import Grant, Layout, Region, make_slab
from workers.ports import ObjectStore
from workers.vocabulary import Picture, StoredObject, Transform

SMALL = Transform(8)


@pytest.fixture
def store(tmp_path: Path) -> Callable[[], ObjectStore]:
    return functools.partial(DeadlyStore, tmp_path)


@pytest.fixture
def intake(store: Callable[[], ObjectStore]) -> Iterator[ProcessIntake]:
    intake = ProcessIntake(store, (SMALL,), fetch_threads=4, children=2)
    yield intake
    intake.close()


def broken_store() -> ObjectStore:
    raise Misconfigured("no such region")


def vanishing_store() -> ObjectStore:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class TellingStore(DeadlyStore):
    """Says in the error of every read what of torch its process has loaded."""

    def get(self, bucket: str, key: str, **_: object) -> StoredObject:
        loaded = sorted(name for name in sys.modules if name.split(".")[0] in {"torch", "torchvision", "timm"})
        raise Misconfigured(f"loaded: {loaded}")


class RetryingStore(DeadlyStore):
    """Counts as the real one does when it tries a GET again."""

    def get(self, bucket: str, key: str, **wanted: object) -> StoredObject:
        metrics.RETRIES.add(2, neighbour="s3")
        return super().get(bucket, key, **wanted)


def test_what_a_child_counts_is_in_our_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[object, ...]] = []
    monkeypatch.setattr(metrics, "_listeners", [lambda *count: heard.append(count)])
    intake = ProcessIntake(functools.partial(RetryingStore, tmp_path), (SMALL,), children=1)
    intake.fetch(job(GOOD)).result(30)
    intake.fetch(job(GOOD)).result(30)
    intake.close()
    assert heard == [("tagstream_retries", 2, {"neighbour": "s3"})] * 2


def test_the_copy_that_a_child_decodes_from_is_told(intake: ProcessIntake) -> None:
    fetched = intake.fetch(job(GOOD)).result(30)
    assert fetched.copied_bytes == fetched.facts.size


def suspect(ticket: int) -> Order:
    return Order("decode", Future(), deaths=1, ticket=ticket)


def test_a_suspect_shares_its_decoder_with_nobody() -> None:
    layout = Layout((SMALL,))
    slab = make_slab(layout, 1)
    ours, theirs = socket.socketpair()
    with theirs:
        child = Child(0, 1, ours, Region(slab, layout, 0))
        child.ready = True
        other = Order("decode", Future(), ticket=1)
        assert child.open_to(suspect(2), 4)
        child.give(other)
        assert child.open_to(Order("decode", Future()), 4)
        assert not child.open_to(suspect(2), 4)
        child.take_back(1)
        child.give(suspect(2))
        assert not child.open_to(other, 4)
        assert child.open_to(Order("fetch", Future()), 4)
        child.channel.close()
    os.close(slab)


def test_children_together_make_no_more_gets_than_was_asked_for(store: Callable[[], ObjectStore]) -> None:
    intake = ProcessIntake(store, (SMALL,), fetch_threads=1, children=2)
    while len(intake.pids) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    for future in [intake.fetch(sleeping_job(0.5)) for _ in range(2)]:
        future.result(30)
    assert time.monotonic() - began >= 1.0
    intake.close()


def test_no_child_loads_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")  # it is loaded here, so it would be there if children were copies of us
    intake = ProcessIntake(functools.partial(TellingStore, tmp_path), (SMALL,), children=1)
    assert str(intake.fetch(job(GOOD)).exception(30)) == "loaded: []"
    intake.close()


def test_pictures_are_decoded_in_other_processes_than_ours(intake: ProcessIntake) -> None:
    pictures = [intake.decode(intake.fetch(job(GOOD, shade=shade)).result(30)) for shade in range(20)]
    for shade, future in enumerate(pictures):
        assert (future.result(10).pixels[SMALL] == (shade, 0, 0)).all()
    assert len(intake.pids) >= 1
    assert os.getpid() not in intake.pids


def test_a_picture_stays_as_it_is_however_many_are_decoded_after_it(intake: ProcessIntake) -> None:
    first = intake.decode(intake.fetch(job(GOOD, shade=200)).result(30)).result(10)
    kept = first.pixels[SMALL]
    for shade in range(20):
        intake.decode(intake.fetch(job(GOOD, shade=shade)).result(10)).result(10)
    assert (kept == (200, 0, 0)).all()
    assert kept.flags.owndata
    assert kept.flags.writeable


def test_a_store_that_can_not_be_made_is_told_to_everybody() -> None:
    intake = ProcessIntake(broken_store, (SMALL,), children=1)
    with pytest.raises(Broken, match="no such region"):
        intake.fetch(job(GOOD)).result(30)
    with pytest.raises(Broken, match="no such region"):
        intake.fetch(job(GOOD)).result(30)
    intake.close()


def test_children_that_die_at_birth_are_not_replaced_for_ever() -> None:
    intake = ProcessIntake(vanishing_store, (SMALL,), children=1)
    with pytest.raises(Broken, match="before they are ready"):
        intake.fetch(job(GOOD)).result(30)
    intake.close()


def test_close_drops_what_waits_and_waits_for_what_runs(store: Callable[[], ObjectStore]) -> None:
    intake = ProcessIntake(store, (SMALL,), fetch_threads=1, children=1)
    intake.fetch(job(GOOD)).result(30)
    running, waiting = intake.fetch(sleeping_job(0.5)), intake.fetch(sleeping_job(0.5))
    time.sleep(0.2)
    intake.close()
    assert running.result(0).facts.width == GOOD
    assert waiting.cancelled()


def test_close_is_bounded_though_a_fetch_hangs_and_leaves_no_process(store: Callable[[], ObjectStore]) -> None:
    intake = ProcessIntake(store, (SMALL,), children=1, close_s=0.2)
    intake.fetch(job(GOOD)).result(30)
    (pid,) = intake.pids
    hung = intake.fetch(sleeping_job(1000))
    time.sleep(0.1)
    began = time.monotonic()
    intake.close()
    assert time.monotonic() - began < 5
    assert not wait([hung], 1).not_done
    with pytest.raises(CancelledError):
        hung.result(0)
    assert ended(pid)


def test_children_do_not_outlive_a_worker_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import functools, sys, time
        from pathlib import Path
        from tests.unit.intake.deadly import DeadlyStore, job
        from workers.intake import ProcessIntake
        from workers.vocabulary import Transform
        intake = ProcessIntake(functools.partial(DeadlyStore, Path({str(tmp_path)!r})), (Transform(8),), children=2)
        while len(intake.pids) < 2:
            time.sleep(0.01)
        print(*intake.pids, flush=True)
        time.sleep(1000)
    """)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as worker:
        assert worker.stdout is not None
        pids = [int(word) for word in worker.stdout.readline().split()]
        assert len(pids) == 2
        worker.kill()
    assert all(ended(pid) for pid in pids)


def test_children_leave_the_draining_to_us_when_all_processes_are_asked_to_end(intake: ProcessIntake) -> None:
    intake.fetch(job(GOOD)).result(30)
    pids = intake.pids
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert intake.fetch(job(GOOD)).result(30).facts.width == GOOD
    assert set(pids) <= set(intake.pids)


def test_a_region_is_out_of_reach_of_its_neighbours() -> None:
    layout = Layout((SMALL, Transform(16)))
    slab = make_slab(layout, 2)
    ours, theirs, again = Region(slab, layout, 0), Region(slab, layout, 1), Region(slab, layout, 0)
    os.close(slab)
    white = Picture(
        {transform: np.full((transform.size,) * 2 + (3,), 255, np.uint8) for transform in layout.transforms}
    )
    theirs.write(0, white)
    theirs.write(1, white)
    theirs.mark = 12
    assert not any(pixels.any() for slot in (0, 1) for pixels in ours.read(slot).pixels.values())
    assert ours.mark == 0
    again.write(1, white)
    assert all((pixels == 255).all() for pixels in ours.read(1).pixels.values())
    assert not any(pixels.any() for pixels in ours.read(0).pixels.values())
    assert Grant(0, 1) != Grant(0, 2)


def ended(pid: int) -> bool:
    """Whether the process is gone within some seconds; one that nobody has reaped yet counts as gone."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False
