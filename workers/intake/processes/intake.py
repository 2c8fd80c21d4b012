"""The port's side of the process intake: calls become orders, the supervisor does the rest."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from workers.intake.limits import MIB, Limits
from workers.intake.processes.child import Plan
from workers.intake.processes.orders import Order
from workers.intake.processes.slab import Layout
from workers.intake.processes.supervisor import Supervisor
from workers.intake.stages import encoded
from workers.ports import ObjectStore
from workers.vocabulary import Fetched, Job, Picture, Transform


class ProcessIntake:
    """`ports.Intake` in child processes, which no picture can hang or bring down for long.

    A child that is at one picture for more than `decode_s` is killed. Whether it was or died by itself, its picture is
    tried again, alone in its decoder, and all else that it had in hand is done by another child. If a second child is
    lost with the picture, that is rejected as `decode-timeout` or `kills-decoder`, after a picture known to be good
    was decoded. So a child that something else killed, or that was slow because the machine was, costs nothing. A
    picture that wants more memory than `decode_memory_bytes` is rejected as `decode-memory`.

    Futures are completed by the supervisor's thread, so their callbacks should be short. A call after `close`, and one
    that `close` could not wait for, has a cancelled future. If no child can be kept alive, every future fails with
    Broken.

    Args:
        store: makes a child's own object store; called once in each child. It is pickled, so it must be a function
            that can be imported, or a `functools.partial` of one.
        transforms: every distinct Transform of the models in use.
        limits: what an object and its picture may be.
        children: pictures being decoded at the same time; more than cores gain nothing.
        fetch_threads: GETs at the same time, of all children together.
        decode_s: wall clock of one try at one picture, in a decoder's hands.
        decode_memory_bytes: what a decoder may allocate for one picture.
        close_s: how long `close` waits for what runs.
    """

    def __init__(
        self,
        store: Callable[[], ObjectStore],
        transforms: Sequence[Transform],
        limits: Limits | None = None,
        *,
        children: int = 2,
        fetch_threads: int = 16,
        decode_s: float = 20.0,
        decode_memory_bytes: int = 2048 * MIB,
        close_s: float = 5.0,
    ) -> None:
        layout = Layout(tuple(dict.fromkeys(transforms)))
        plan = Plan(store, layout, limits or Limits(), -(-fetch_threads // children), decode_memory_bytes)
        self._supervisor = Supervisor(
            pickle.dumps(plan),
            layout,
            children=children,
            fetch_threads=fetch_threads,
            decode_s=decode_s,
            close_s=close_s,
        )

    def fetch(self, job: Job) -> Future[Fetched]:
        future: Future[Fetched] = Future()
        self._supervisor.submit(Order("fetch", future, event=job.event))
        return future

    def decode(self, fetched: Fetched) -> Future[Picture]:
        future: Future[Picture] = Future()
        try:
            body = encoded(fetched).take()
        except RuntimeError as error:
            future.set_exception(error)
            return future
        self._supervisor.submit(Order("decode", future, body=body, format=fetched.facts.format))
        return future

    def discard(self, fetched: Fetched) -> None:
        encoded(fetched).drop()

    def check(self) -> Future[None]:
        """Decode a picture known to be good of every format that is taken; Broken if it can't be done here."""
        future: Future[None] = Future()
        self._supervisor.submit(Order("check", future))
        return future

    def close(self) -> None:
        self._supervisor.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """The children that are alive and ready, for whoever wants to look at them."""
        return self._supervisor.pids
