"""The `Intake` port over child processes: fetches objects itself, and has the supervisor's children look into them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future

from workers.intake.decoding import Decoding
from workers.intake.fetching import Fetching, encoded
from workers.intake.header import sniff
from workers.intake.limits import FLAT, FLAT_S, Limits
from workers.intake.processes.child import ChildPlan
from workers.intake.processes.pending import PendingRequest
from workers.intake.processes.shared_memory import Layout
from workers.intake.processes.supervisor import Supervisor
from workers.intake.threads import Pool
from workers.ports import ObjectStore
from workers.types import DecodedImage, Facts, Fetched, Job, Transform

_LEAST_S, _S_A_BYTE = 2.0, 1e-7
"""What a try at decoding an image may take, and how much more for each byte of its estimate: ten times the usual."""


class ProcessIntake:
    """`ports.Intake` with sandboxed child processes as decoders.

    No image can hang it, bring it down for long, or get out of a child. Objects are fetched by threads of this process.
    A child only ever gets bytes, and can do nothing but decode them: it has no secret, no network, no file and no
    descriptor but its own socket (`sandbox.py`), and what it answers is checked as if its worst enemy had written it
    (`wire.py`).

    A child that works on one image for more than its time (by `decode_s`, or `Limits.inspect_s` for a header) is
    killed. If it was killed or died by itself, its image is tried again in a child that has seen no other, and another
    child does its other requests. If a second child is lost with the image, the image is rejected as `decode-timeout`
    or `kills-decoder`, after the self-test image was decoded. So a child that something else killed, or that was slow
    because the machine was, costs nothing. The answers of the last minute of a child that died or lied are doubted. An
    image that needs more memory than its limit is rejected as `decode-memory`.

    Futures are completed by the supervisor's thread or by the one that fetched, so their callbacks should be short. A
    call after `close`, and one that `close` could not wait for, has a cancelled future. If no child can be kept alive,
    every future of an image's second and third step fails with Broken.

    Args:
        store: where the objects are; its pool should allow `fetch_threads` connections.
        transforms: every distinct Transform of the models in use.
        limits: what an object and its image may be.
        children: images being inspected or decoded at the same time; more than cores gain nothing.
        fetch_threads: GETs at the same time.
        decode_s: wall clock of one try at decoding one image, at most; a small one has 2 s, and 0.1 s for each
            megabyte of its estimate.
        reducing_gap: as in `geometry.scale_of`.
        close_s: how long `close` waits for what runs.
        prepare: as in `ChildPlan`.
    """

    def __init__(
        self,
        store: ObjectStore,
        transforms: Sequence[Transform],
        limits: Limits | None = None,
        *,
        children: int = 2,
        fetch_threads: int = 16,
        decode_s: float = 20.0,
        reducing_gap: float = 0.0,
        close_s: float = 5.0,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._decode_s = decode_s
        self._close_s = close_s
        decoding = Decoding(transforms, self._limits, reducing_gap)
        self._fetching = Fetching(store, self._limits, decoding, copies=True)
        self._fetchers = Pool(fetch_threads, "tagstream-fetch")
        layout = Layout(tuple(dict.fromkeys(transforms)))
        plan = ChildPlan(layout, self._limits, reducing_gap, prepare)
        self._supervisor = Supervisor(pickle.dumps(plan), layout, self._limits, children=children, close_s=close_s)

    def fetch(self, job: Job, max_bytes: int) -> Future[Fetched]:
        return self._fetchers.submit(lambda: self._fetching.fetch(job, max_bytes))

    def inspect(self, fetched: Fetched) -> Future[Facts]:
        future: Future[Facts] = Future()
        limits = self._limits
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

    def decode(self, fetched: Fetched, facts: Facts) -> Future[DecodedImage]:
        future: Future[DecodedImage] = Future()
        try:
            body = encoded(fetched).take()
        except RuntimeError as error:
            future.set_exception(error)
            return future
        most = min(self._limits.decode_address_bytes(facts.decode_bytes), self._limits.decode_bytes)
        usual_s = FLAT_S if facts.format in FLAT else _LEAST_S + _S_A_BYTE * facts.decode_bytes
        limit_s = min(self._decode_s, usual_s)
        self._supervisor.submit(
            PendingRequest(
                "decode", future, limit_s, most, image=fetched.job, fetched=fetched, body=body, format=facts.format
            )
        )
        return future

    def discard(self, fetched: Fetched) -> None:
        encoded(fetched).drop()

    def at_work(self) -> tuple[Job | None, float]:
        job, since = self._supervisor.longest
        return job, time.monotonic() - since

    def on_doubt(self, doubted: Callable[[Collection[str]], None]) -> None:
        self._supervisor.doubted = doubted

    def check(self) -> Future[None]:
        """Decode the self-test image of every allowed format; Broken if one fails."""
        future: Future[None] = Future()
        self._supervisor.submit(PendingRequest("check", future, self._decode_s, self._limits.decode_bytes))
        return future

    def close(self) -> None:
        until = time.monotonic() + self._close_s
        self._fetchers.stop()
        self._supervisor.close()
        self._fetchers.wait(max(0.0, until - time.monotonic()))

    @property
    def lacks(self) -> tuple[str, ...]:
        """Protections that this kernel does not give to children; known once one of them has answered."""
        return self._supervisor.lacks

    @property
    def caveat(self) -> str:
        """Missing protections, for people; empty: none. Known as `lacks` is."""
        return f"they lack {' and '.join(self.lacks)}, which this kernel does not have" if self.lacks else ""

    @property
    def pids(self) -> tuple[int, ...]:
        """The children that are alive and ready, for tests and checks."""
        return self._supervisor.pids
