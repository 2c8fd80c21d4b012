"""The `Intake` port: threads fetch objects, the supervisor's children inspect and decode them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from workers.errors import Rejected
from workers.intake.decoding import Decoding
from workers.intake.fetching import Fetching, encoded
from workers.intake.header import sniff
from workers.intake.limits import FLAT, FLAT_S, Limits
from workers.intake.processes.child import ChildPlan
from workers.intake.processes.pending import PendingRequest
from workers.intake.processes.shared_memory import Layout
from workers.intake.processes.supervisor import Supervisor
from workers.intake.threads import LargeImages, Pool
from workers.ports import ObjectStore
from workers.rendition import NO_RENDITIONS, Rendition
from workers.types import DecodedImage, Facts, Fetched, Job, Transform

_LEAST_S, _S_A_BYTE = 2.0, 1e-7
"""Time limit of decoding an image, and its addition for each byte of the estimate: ten times the usual."""


@dataclass(eq=False)
class ProcessIntake:
    """`ports.Intake` with sandboxed child processes as decoders.

    docs/design/intake.md says who is blamed for a child's death.

    The supervisor's thread or a fetching thread completes the futures, so their callbacks should be short. A call after
    `close`, or too late for it, has a cancelled future. If no child can be kept alive, `inspect` and `decode` fail with
    Broken.

    Args:
        store: where the objects are; its pool should allow `fetch_threads` connections.
        transforms: every distinct Transform of the models in use.
        children: number of child processes; more than processors gain nothing.
        decode_s: time limit of one try at decoding one image; a small one has 2 s, and 0.1 s for each megabyte of its
            estimate.
        close_s: how long `close` waits for running requests.
        large: for images that need more than this process's part of the memory; None: it has all.
    """

    store: ObjectStore
    transforms: Sequence[Transform]
    limits: Limits = field(default_factory=Limits)
    children: int = 2
    fetch_threads: int = 16
    decode_s: float = 20.0
    reducing_gap: float = 0.0
    close_s: float = 5.0
    prepare: Callable[[], object] | None = None
    large: LargeImages | None = None
    rendition: Rendition = NO_RENDITIONS

    def __post_init__(self) -> None:
        self._decoding = Decoding(self.transforms, self.limits, self.reducing_gap)
        self._fetching = Fetching(self.store, self.limits, self._decoding, self.rendition)
        self._fetchers = Pool(self.fetch_threads, "tagstream-fetch")
        layout = self._layout = Layout(tuple(dict.fromkeys(self.transforms)))
        plan = pickle.dumps(ChildPlan(layout, self.limits, self.reducing_gap, self.prepare))
        self._supervisor = Supervisor(plan, layout, self.limits, children=self.children, close_s=self.close_s)

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        return self._fetchers.submit(lambda: self._fetching.fetch(job, max_bytes))

    def inspect(self, fetched: Fetched) -> Future[Facts]:
        future: Future[Facts] = Future()
        limits = self.limits
        try:
            body = encoded(fetched).read()
        except RuntimeError as error:
            future.set_exception(error)
            return future
        name = sniff(body)
        limit_s = min(limits.inspect_s, FLAT_S) if name in FLAT else limits.inspect_s
        most = limits.inspect_address_bytes(name, len(body))
        self._supervisor.submit(
            PendingRequest("inspect", future, limit_s, most, image=fetched.job, fetched=fetched, body=body)
        )
        return future

    def decode_bytes(self, facts: Facts, transforms: Sequence[Transform] | None = None) -> int:
        return self._decoding.decode_bytes(facts, transforms)

    def decode(
        self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None
    ) -> Future[DecodedImage]:
        future: Future[DecodedImage] = Future()
        try:
            needed = self.decode_bytes(facts, transforms)
            body = encoded(fetched).take()
        except (Rejected, RuntimeError) as error:
            future.set_exception(error)
            return future
        most = min(self.limits.decode_address_bytes(needed), self.limits.decode_bytes)
        usual_s = FLAT_S if facts.format in FLAT else _LEAST_S + _S_A_BYTE * needed
        limit_s = min(self.decode_s, usual_s)
        request = PendingRequest(
            "decode",
            future,
            limit_s,
            most,
            image=fetched.job,
            fetched=fetched,
            body=body,
            format=facts.format,
            transforms=self._layout.bits(transforms),
        )
        if self.large is not None and needed > self.large.above:
            self.large.decode(future, lambda: self._supervisor.submit(request))
        else:
            self._supervisor.submit(request)
        return future

    def discard(self, fetched: Fetched) -> None:
        encoded(fetched).drop()

    def at_work(self) -> tuple[Job | None, float]:
        job, since = self._supervisor.longest
        if job is None and self.large is not None and self.large.waiting:
            return None, 0.0  # another process decodes a large image
        return job, time.monotonic() - since

    def on_doubt(self, doubted: Callable[[Collection[str]], None]) -> None:
        self._supervisor.doubted = doubted

    def check(self) -> Future[None]:
        """Decode the self-test image of every allowed format; Broken if one fails."""
        future: Future[None] = Future()
        self._supervisor.submit(PendingRequest("check", future, self.decode_s, self.limits.decode_bytes))
        return future

    def close(self) -> None:
        until = time.monotonic() + self.close_s
        self._fetchers.stop()
        self._supervisor.close()
        self._fetchers.wait(max(0.0, until - time.monotonic()))

    @property
    def lacks(self) -> tuple[str, ...]:
        """Protections that this kernel lacks; known after a child's first answer."""
        return self._supervisor.lacks

    @property
    def caveat(self) -> str:
        """A sentence's end about missing protections, or empty."""
        return f"they lack {' and '.join(self.lacks)}, which this kernel does not have" if self.lacks else ""

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the ready children, for tests and checks."""
        return self._supervisor.pids
