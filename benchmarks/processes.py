"""Two worker processes of one parent beside two workers, with a model that sleeps: `python -m benchmarks processes`.

They take turns. The share of the parent is its own and that of the process that answers probes, which a client asks for
/readyz and /metrics once a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from benchmarks import simulated
from benchmarks.cached import cpu_s, spread
from benchmarks.photos import PHOTOS, ROUNDS, SLEEP_S, made_simulated, running_workers
from tagstream_testing.local.stack import LocalStack
from tagstream_testing.local.worker_process import WorkerProcess

COUNT = 2


def main() -> None:
    console = Console()
    console.print(f"{COUNT * PHOTOS} new JPEGs, a model that sleeps {SLEEP_S * 1000:.0f} ms an image, {ROUNDS} rounds")
    apart: list[float] = []
    together: list[float] = []
    parent: list[float] = []
    with LocalStack() as stack:
        stack.furnish()
        sleeping = made_simulated(stack.scratch.path / simulated.KIND, SLEEP_S)
        for number in range(ROUNDS):
            with running_workers(stack, f"apart-{number}", COUNT, sleeping) as work:
                work(8 * COUNT)
                apart.append(work(PHOTOS * COUNT).images_s)
            several = sleeping | {"TAGSTREAM_WORKERS": f"{COUNT}"}
            with running_workers(stack, f"together-{number}", 1, several) as work:
                work(8 * COUNT)
                with _share_of_parent(work.workers[0], parent):
                    together.append(work(PHOTOS * COUNT).images_s)
    table = Table("", "images/s", "to two workers, round by round", "parent's share of a processor")
    ratios = [one / other for one, other in zip(together, apart, strict=True)]
    table.add_row("two workers", spread(apart, ".1f", ""), "", "")
    table.add_row(
        "two of one parent", spread(together, ".1f", ""), spread(ratios, ".3f", ""), spread(parent, ".4f", "")
    )
    console.print(table)


@contextmanager
def _share_of_parent(worker: WorkerProcess, shares: list[float]) -> Iterator[None]:
    assert worker.pid is not None
    probes = min(int(child) for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split())
    pids, over = (worker.pid, probes), threading.Event()
    asking = threading.Thread(target=_ask, args=(worker.url, over))
    used, began = sum(map(cpu_s, pids)), time.perf_counter()
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
        shares.append((sum(map(cpu_s, pids)) - used) / (time.perf_counter() - began))


def _ask(url: str, over: threading.Event) -> None:
    """As a kubelet and Prometheus do, but more often."""
    while not over.wait(1.0):
        for path in ("/readyz", "/metrics"):
            with suppress(OSError), urlopen(url + path, timeout=5) as answer:
                answer.read()


if __name__ == "__main__":
    main()
