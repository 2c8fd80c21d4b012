"""The machine under a worker fails it: no disk, a clock that jumps, a stop at any moment, a long sleep."""

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.enriched_image import EnrichedImage
from tests.chaos.account import Account
from tests.chaos.broken_codec import DAWDLES_S, png_that
from tests.chaos.broken_codec import FOLDER as BROKEN_CODEC
from tests.chaos.scenes import BUSY, assert_finishes, assert_inherited, busy, load, published
from tests.chaos.shared_worker import in_flight, is_committed
from tests.support.lying_store import LyingStore, says
from tests.support.processes import family as with_descendants
from tests.support.processes import lives
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

GRACE_S = 30.0
_ROOT = Path(__file__).parents[2]


class OnSmallDisk(WorkerProcess):
    """A worker with a file system of 64 KiB as its state folder; `fill` runs there before the worker."""

    def __init__(self, site: Site, folder: Path, *, mount: str = "rw", fill: str = "true", **settings: str) -> None:
        self._script = (
            f'mount -t tmpfs -o size=64k,{mount} tmpfs "$TAGSTREAM_STATE_DIR"; cd "$TAGSTREAM_STATE_DIR"; {fill}; '
            'cd "$OLDPWD"; exec "$@"'
        )
        super().__init__(site, "w", folder, **settings)

    def command(self) -> Sequence[str]:
        return ["unshare", "--mount", "--propagation=private", "sh", "-euc", self._script, "sh", *super().command()]

    @property
    def disk(self) -> Path:
        return Path(f"/proc/{self.pid}/root{self.folder}/state")

    def fill(self) -> None:
        with (self.disk / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                return

    @property
    def journals(self) -> int:
        return sum(path.stat().st_size for path in (self.disk / "journals").iterdir())


@contextmanager
def on_small_disk(site: Site, folder: Path, **more: str) -> Iterator[OnSmallDisk]:
    process = OnSmallDisk(site, folder, **more)
    try:
        process.wait_ready()
        yield process
    finally:
        process.kill()


@pytest.mark.usefixtures("may_mount")
@pytest.mark.parametrize("when", ["from the start", "midway"])
def test_the_disk_of_the_state_folder_is_full(steady_site: Site, account: Account, tmp_path: Path, when: str) -> None:
    """Guard: a journal that can't be written is done without; as an error it would end the worker, for nothing."""
    load(steady_site, 500, images=40)
    fill = "cat /dev/zero > filler 2> /dev/null || true" if when == "from the start" else "true"
    with on_small_disk(steady_site, tmp_path, fill=fill, **BUSY) as process:
        busy(process)
        process.fill()
        eventually(lambda: "can't be written (No space left on device): continuing without it" in process.said(), 20)
        account.landed()
        assert not is_committed(steady_site)
        (process.disk / "filler").unlink()
        account.over()
        eventually(lambda: process.journals > 0 or is_committed(steady_site), 30, process.said)
        account.recovered()
        assert_finishes(steady_site, process, account)


@pytest.mark.usefixtures("may_mount")
def test_a_state_folder_that_can_not_be_written(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: an unwritable folder is an error of the setting, not a stack trace."""
    load(steady_site, 20)
    process = OnSmallDisk(steady_site, tmp_path, mount="ro", **BUSY)
    try:
        assert process.wait_gone(60) == 2, process.said()
    finally:
        process.kill()
    said = " ".join(process.said().split())
    assert said.startswith("TAGSTREAM_STATE_DIR: "), said
    assert "can't be written: Read-only file system. Name a folder that this user may write." in said
    assert "Traceback" not in process.said()
    account.landed()
    assert steady_site.outcomes() == []
    assert_inherited(steady_site, account, tmp_path, BUSY)


@pytest.mark.parametrize("hours", [1, -1], ids=["forwards", "backwards"])
def test_the_wall_clock_jumps_by_an_hour(steady_site: Site, account: Account, tmp_path: Path, hours: int) -> None:
    """Guards: monotonic clocks for all waits, or the failing object is dead-lettered at once (forwards) or read again
    in an hour (backwards); signatures with the store's time, or the store refuses every image."""
    wall_clock = tmp_path / "wall-clock"
    wall_clock.write_text("0")
    path = os.pathsep.join([str(Path(__file__).parent / "wall_clock"), str(_ROOT)])
    s3_port = int(steady_site.stack.s3.endpoint_url.rpartition(":")[2])
    with LyingStore(lambda: s3_port) as store:
        settings = BUSY | {
            "PYTHONPATH": path,
            "WALL_CLOCK": str(wall_clock),
            "TAGSTREAM_REDIS_URL": steady_site.stack.valkey.url,
            "cache_timeout_s": "5",  # on a busy machine a miss would say nothing of clocks
            "TAGSTREAM_S3_ENDPOINT": store.url,
            "retry_s": "1",
        }
        store.lies["fails.jpg"] = says(503)
        steady_site.upload("fails.jpg", photo(9_999))
        steady_site.send([(steady_site.own("fails.jpg"), ())])
        load(steady_site, 300, images=300)
        with worker(steady_site, "w", tmp_path, **settings) as process:
            busy(process)
            eventually(lambda: process.metric("tagstream_images_in_flight", stage="wait-store") > 0, 30)
            fresh = tmp_path / "wall-clock.new"
            fresh.write_text(str(3600 * hours))
            fresh.replace(wall_clock)
            jumped, told = datetime.now(UTC), store.told["fails.jpg"]
            account.over()
            eventually(lambda: any(off_by_an_hour(image, jumped) for image in images(steady_site)), 30, process.said)
            account.landed()
            eventually(lambda: store.told["fails.jpg"] > told + 1, 30, process.said)
            store.lies.clear()
            before = published(process)
            eventually(lambda: published(process) > before or is_committed(steady_site), 30)
            account.recovered()
            eventually(lambda: is_committed(steady_site), 60, process.said)
            load(steady_site, 100, images=100)
            eventually(lambda: is_committed(steady_site), 60, process.said)
            assert process.get("/livez")[0] == 200
            assert sum(image.cache.tags == "hit" for image in images(steady_site)) >= 90, "the cache forgot"
            assert "stalled" not in process.said()
            assert_finishes(steady_site, process, account)


def images(site: Site) -> list[EnrichedImage]:
    return [output for output in site.outputs() if isinstance(output, EnrichedImage)]


def off_by_an_hour(image: EnrichedImage, now: datetime) -> bool:
    produced = datetime.fromisoformat(image.produced_at)
    return abs(abs(produced - now) - timedelta(hours=1)) < timedelta(minutes=5)


@pytest.mark.timeout(900)
def test_sigterm_at_ten_random_moments_under_load(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: the drain; otherwise images in progress are left behind, and the next worker computes them again."""
    moments = random.Random(11)
    for _ in range(10):
        load(steady_site, 300, images=40)
        with worker(steady_site, "w", tmp_path, **BUSY) as process:
            eventually(lambda process=process: in_flight(process) > 0, 30, process.said)  # type: ignore[misc]
            account.landed()
            time.sleep(moments.uniform(0, 1))
            began = time.monotonic()
            assert process.terminate() == 0, process.said()
            assert time.monotonic() - began < GRACE_S
    assert process.said().count("drained, 0 records left uncommitted") == 10
    assert_inherited(steady_site, account, tmp_path, BUSY)


def test_a_worker_sleeps_for_twenty_seconds_with_all_its_decoders(
    steady_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: a decoder's clock stops while it is not watched; by the plain clock it would be killed on waking."""
    settings = BUSY | {"decode_timeout_s": str(2 * DAWDLES_S), "PYTHONPATH": str(BROKEN_CODEC)}
    steady_site.upload("slow.png", png_that("dawdles", "at first"))
    steady_site.send([(steady_site.own("slow.png"), ())])
    load(steady_site, 300, images=40, side=700)
    with worker(steady_site, "w", tmp_path, **settings) as process:
        assert process.pid is not None
        eventually(
            lambda: process.metric("tagstream_images_in_flight", stage="decode") > 0 and process.decoders(),
            30,
            process.said,
        )
        family = [pid for pid in with_descendants(process.pid) if lives(pid)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            done = len(steady_site.outcomes())
            assert done < 300
            time.sleep(20)
            assert len(steady_site.outcomes()) - done <= int(BUSY["transaction_outcomes"])
            account.landed()
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)
        account.over()
        eventually(lambda: len(steady_site.outcomes()) > done, 30, process.said)
        account.recovered()
        eventually(lambda: is_committed(steady_site), 60, process.said)
        assert process.metric("tagstream_decoders_lost_total") == 0, "a decoder was killed for its sleep"
        assert_finishes(steady_site, process, account)
