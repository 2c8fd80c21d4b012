"""The process intake at work: who runs what, and how it ends."""

import functools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.waiting import bounded, eventually
from tests.unit.intake.deadly import GOOD, HANGS, LARGEST, arm, decoding, job, parent_of, read, sleeping_job
from workers.errors import Broken, Misconfigured
from workers.intake import Limits, ProcessIntake
from workers.intake.processes.pending import Child, PendingRequest
from workers.intake.processes.shared_memory import PLACE_BYTES, PLACES, Layout, Region, make_shared_memory
from workers.intake.processes.wire import Completed, Garbled, Kind, Refused, Withdrawn
from workers.intake.threads import LargeImages
from workers.types import Assignment, Coordinates, DecodedImage, Job, Partition, Transform

SMALL = Transform(8)
Painted = Callable[..., ProcessIntake]


@pytest.fixture
def intake(painted: Painted) -> ProcessIntake:
    return painted(children=2, fetch_threads=4)


def refuse() -> None:
    raise Misconfigured("no such codec")


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def tell() -> None:
    """Say in an error which parts of torch this process has loaded."""
    loaded = sorted(name for name in sys.modules if name.split(".")[0] in {"torch", "torchvision", "timm"})
    raise Misconfigured(f"loaded: {loaded}")


def request(kind: Kind = "decode", losses: int = 0) -> PendingRequest:
    return PendingRequest(kind, Future(), 1.0, 1, losses=losses)


@pytest.fixture
def child() -> Iterator[Child]:
    """A child's end of the socket from our side; no process holds the other end."""
    layout = Layout((SMALL,))
    shared = make_shared_memory(layout)
    ours, theirs = socket.socketpair()
    with theirs:
        child = Child(0, 1, ours, -1, Region(shared, layout), Limits())
        child.ready = True
        yield child
        child.channel.close()
    os.close(shared)


def test_a_suspect_gets_a_child_that_has_seen_no_other_image(child: Child) -> None:
    assert child.open_to(request(losses=1))
    assert child.open_to(request("check"))
    seen = request()
    child.give(seen)
    assert child.open_to(request())
    child.take_from(Completed(seen.request_id))
    assert child.open_to(request())
    assert not child.open_to(request(losses=1))
    assert not child.open_to(request("check"))


def test_a_suspect_shares_its_child_with_no_other_image(child: Child) -> None:
    suspect = request(losses=1)
    child.give(suspect)
    assert not child.open_to(request())
    assert not child.open_to(request("inspect"))
    child.take_from(Completed(suspect.request_id))
    assert child.open_to(request())


def test_a_small_body_goes_through_the_region_and_a_larger_one_over_the_socket(child: Child) -> None:
    small, large = request("inspect"), request("inspect")
    small.body, large.body = b"s" * PLACE_BYTES, b"l" * (PLACE_BYTES + 1)
    child.give(small)
    waits = child.channel.unsent
    assert not waits
    assert child.region.get(0, PLACE_BYTES) == small.body
    child.give(large)
    waits = child.channel.unsent
    assert waits
    assert child.region.get(0, PLACE_BYTES) == small.body


def test_each_body_has_a_place_of_its_own_until_its_image_is_done(child: Child) -> None:
    inspections = [request("inspect") for _ in range(PLACES + 1)]
    for number, each in enumerate(inspections):
        each.body = bytes([number])
    for each in inspections[:PLACES]:
        assert child.open_to(each)
        child.give(each)
    assert [child.region.get(place, 1)[0] for place in range(PLACES)] == list(range(PLACES))
    assert not child.open_to(inspections[PLACES])
    child.take_from(Refused(inspections[0].request_id, "broken-image", ""))
    child.give(inspections[PLACES])
    assert [child.region.get(place, 1)[0] for place in range(PLACES)] == [PLACES, *range(1, PLACES)]


def test_a_child_that_has_much_to_read_gets_no_more_than_the_next_image(child: Child) -> None:
    """Guard: what takes long is shared out when a child is free, not before."""
    large = [request() for _ in range(3)]
    for each in large:
        each.body = bytes(PLACE_BYTES + 1)
    for each in large[:2]:
        assert child.open_to(each)
        child.give(each)
    assert not child.open_to(large[2])
    assert not child.open_to(request())


def test_background_requests_fill_no_child_ahead_of_live_ones(child: Child) -> None:
    job = Job(Coordinates("images", 0, 0, 0), Assignment(Partition("images", 0), "m", True), None)  # type: ignore[arg-type]
    behind = [PendingRequest("decode", Future(), 1.0, 1, image=job) for _ in range(3)]
    assert child.open_to(behind[0], 1.0)
    child.give(behind[0])
    assert not child.open_to(behind[1], 0.02)
    assert child.open_to(behind[1], 0.005)
    child.give(behind[1])
    assert not child.open_to(behind[2], 0.005)
    assert child.open_to(request(), 0.005)


def test_a_child_returns_all_requests_but_its_present_one(child: Child) -> None:
    at, *behind = [request() for _ in range(4)]
    for each in (at, *behind):
        child.give(each)
    assert child.withdraw() == behind
    assert [child.region.is_withdrawn(place) for place in range(4)] == [False, True, True, True]
    assert child.first is at
    assert not child.has_lost(at)
    assert all(child.has_lost(each) for each in behind)
    assert child.withdraw() == []
    child.take_from(Completed(at.request_id))
    assert not child.open_to(behind[0])  # it may be answered still
    taken = [
        child.take_from(answer)
        for answer in (
            Withdrawn(behind[0].request_id),
            Completed(behind[1].request_id),  # it had begun
            Refused(behind[2].request_id, "broken-image", ""),
        )
    ]
    assert [request for request, _ in taken] == [None] * 3
    assert not child.in_hand
    assert child.open_to(behind[0])
    for each in behind:
        child.give(each)
    assert not any(child.region.is_withdrawn(place) for place in range(3))  # these it is to do


def test_a_child_cant_skip_requests_that_were_not_taken_back(child: Child) -> None:
    given = request()
    child.give(given)
    with pytest.raises(Garbled):
        child.take_from(Withdrawn(given.request_id))


@pytest.mark.slow
def test_a_child_is_left_to_its_work_as_long_as_it_has_much_of_it(
    intake: ProcessIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guard: each wake-up of the supervisor costs as much as its share of the image. No child may be idle either."""
    known = [read(intake, job(GOOD)) for _ in range(400)]
    eventually(lambda: len(intake.pids) == 2)
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        sleep(seconds)

    sleep = time.sleep
    monkeypatch.setattr("workers.intake.processes.supervisor.time.sleep", rest)
    wait([intake.decode(*each) for each in known], 30)
    monkeypatch.undo()
    assert 5 < len(rests) < 200
    assert min(rests) < max(rests) / 2  # such small images are done sooner


@pytest.mark.slow
def test_bodies_of_every_size_are_decoded(intake: ProcessIntake) -> None:
    """Through the region and over the socket, by the same children."""
    wanted = [job(width, "bmp") for width in (GOOD, 8_000, 9_000)]
    fetched = [intake.fetch(each, LARGEST).result(30) for each in wanted]
    assert [each.size <= PLACE_BYTES for each in fetched] == [True, True, False]
    for image in [decoding(intake, each) for each in wanted * 4]:
        assert (image.result(30).pixels[SMALL] == (7, 0, 0)).all()


@pytest.mark.slow
def test_a_child_that_gets_nothing_more_is_replaced_once_it_is_done(painted: Painted) -> None:
    """Guard: otherwise a slot is lost for good when a suspect got another child than the one that should make room."""
    intake = painted()
    read(intake, job(GOOD))
    (before,) = intake.pids
    (child,) = intake._supervisor._children
    assert child is not None
    child.retiring = True
    assert (decoding(intake, job(GOOD)).result(30).pixels[SMALL] == (7, 0, 0)).all()
    assert before not in intake.pids


@pytest.mark.slow
def test_no_child_loads_torch(painted: Painted) -> None:
    pytest.importorskip("torch")  # it is loaded here, so it would be there if children were copies of us
    with pytest.raises(Broken, match=r"loaded: \[\]"):
        read(painted(prepare=tell), job(GOOD))


@pytest.mark.slow
def test_an_image_stays_unchanged_however_many_are_decoded_after_it(intake: ProcessIntake) -> None:
    first = decoding(intake, job(GOOD, shade=200)).result(10)
    kept = first.pixels[SMALL]
    for shade in range(20):
        decoding(intake, job(GOOD, shade=shade)).result(10)
    assert (kept == (200, 0, 0)).all()
    assert kept.flags.owndata
    assert kept.flags.writeable


@pytest.mark.slow
def test_every_caller_learns_that_a_child_cant_start(painted: Painted) -> None:
    intake = painted(prepare=refuse)
    for _ in range(2):
        with pytest.raises(Broken, match="no such codec"):
            read(intake, job(GOOD))


@pytest.mark.slow
def test_children_that_die_at_birth_are_not_replaced_for_ever(painted: Painted) -> None:
    with pytest.raises(Broken, match="before they are ready"):
        read(painted(prepare=vanish), job(GOOD))


@pytest.mark.slow
def test_close_drops_waiting_requests_and_waits_for_running_ones(painted: Painted) -> None:
    intake = painted(fetch_threads=1)
    read(intake, job(GOOD))
    running, waiting = (intake.fetch(sleeping_job(1), LARGEST) for _ in range(2))
    eventually(running.running)
    time.sleep(0.1)  # a second thread would begin the other
    intake.close()
    assert running.result(0).size > 0
    assert waiting.cancelled()


@pytest.mark.slow
def test_close_is_bounded_though_a_decoder_hangs_and_leaves_no_process(painted: Painted, tmp_path: Path) -> None:
    intake = painted(close_s=0.2, prepare=functools.partial(arm, tmp_path))
    hung = decoding(intake, job(HANGS))
    (pid,) = intake.pids
    with bounded():
        intake.close()
    assert not wait([hung], 1).not_done
    with pytest.raises(CancelledError):
        hung.result(0)
    assert ended(pid)


@pytest.mark.slow
def test_children_do_not_outlive_a_worker_that_is_killed() -> None:
    program = textwrap.dedent("""
        import time
        from tests.unit.intake.deadly import PaintedStore
        from workers.intake import ProcessIntake
        from workers.types import Transform
        intake = ProcessIntake(PaintedStore(), (Transform(8),), children=2)
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


@pytest.mark.slow
def test_children_leave_the_draining_to_us_when_all_processes_are_asked_to_end(intake: ProcessIntake) -> None:
    read(intake, job(GOOD))
    pids = intake.pids
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)
    assert read(intake, job(GOOD))[1].width == GOOD
    assert set(pids) <= set(intake.pids)


def test_places_of_a_region_do_not_overlap() -> None:
    layout = Layout((SMALL, Transform(16)))
    shared = make_shared_memory(layout)
    ours, theirs = Region(shared, layout), Region(shared, layout)
    os.close(shared)
    shades = range(1, PLACES + 1)
    for place, shade in enumerate(shades):
        theirs.put(place, bytes([shade]) * PLACE_BYTES)
        sides = [transform.size for transform in layout.transforms]
        pixels = [np.full((side, side, 3), shade, np.uint8) for side in sides]
        theirs.write(place, DecodedImage(dict(zip(layout.transforms, pixels, strict=True))))
    theirs.current_request = 12
    for place, shade in enumerate(shades):
        assert ours.get(place, PLACE_BYTES) == bytes([shade]) * PLACE_BYTES
        assert all((pixels == shade).all() for pixels in ours.read(place, 0b11).pixels.values())
        assert list(ours.read(place, 0b10).pixels) == [Transform(16)]
    assert ours.current_request == 12


def test_the_size_of_a_region_is_sealed() -> None:
    """Guard: who could cut it would end us at our next access."""
    layout = Layout((SMALL,))
    shared = make_shared_memory(layout)
    assert os.fstat(shared).st_size == layout.region_bytes
    for size in (0, 2 * layout.region_bytes):
        with pytest.raises(PermissionError):
            os.ftruncate(shared, size)
    os.close(shared)


def mapped(pid: int | str) -> list[str]:
    """The memory files that a process has mapped, by inode, once for each mapping."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.split()[4] for line in lines if "tagstream-pixels" in line]


@pytest.mark.skipif(os.getuid() != 0, reason="a child is not dumpable: only root sees its mappings")
@pytest.mark.slow
def test_a_child_has_one_region_mapped_which_no_other_process_but_ours_has(intake: ProcessIntake) -> None:
    """Guard: memory that a child could map beyond its own region would be other images."""
    eventually(lambda: len(intake.pids) == 2)
    fork_server = parent_of(intake.pids[0])
    (one,), (other,) = (mapped(pid) for pid in intake.pids)
    assert one != other
    assert sorted(mapped("self")) == sorted([one, other])
    assert mapped(fork_server) == []


@pytest.mark.slow
def test_a_region_ends_with_its_child(painted: Painted) -> None:
    intake = painted()
    read(intake, job(GOOD))
    (before,), old = intake.pids, mapped("self")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: intake.pids not in {(), (before,)})
    new = mapped("self")
    assert len(old) == len(new) == 1
    assert old != new
    intake.close()
    assert mapped("self") == []


def ended(pid: int) -> bool:
    """Whether the process is gone within half a minute; one that is not reaped yet counts as gone."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


def test_an_image_above_its_processs_part_waits_for_that_of_another_and_a_smaller_one_does_not(
    painted: Painted, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    others: Future[None] = Future()
    held = threading.Event()
    LargeImages(lock, above=0).decode(others, held.set)
    assert held.wait(10)
    intake = painted(large=LargeImages(lock, above=1 << 20))
    fetched, facts = read(intake, job(GOOD))
    waiting = intake.decode(fetched, replace(facts, decode_bytes=(1 << 20) + 1))
    assert decoding(intake, job(GOOD)).result(30) is not None
    assert not waiting.done()
    eventually(lambda: intake.at_work() == (None, 0.0), 10)  # it waits for another process, which is no stall
    others.set_result(None)
    assert waiting.result(30) is not None
    fetched, facts = read(intake, job(GOOD))
    again = intake.decode(fetched, replace(facts, decode_bytes=(1 << 20) + 1))
    assert again.result(30) is not None, "the lock is free again"
