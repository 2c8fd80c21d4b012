"""The parts of a worker of several processes: how many there are, and what settings each has."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pydantic import ByteSize

from workers.assembly.decoders import decoders
from workers.assembly.requirements import opened
from workers.errors import Broken
from workers.service.gathering import socket_of
from workers.settings import MIB, Settings, WorkerPart

_DIVIDED = ("memory", "decoded_bytes", "encoded_bytes", "ledger_bytes", "polled_bytes")
"""Of memory. Limits of one image or batch are not divided, nor are corrections, which each process has whole."""

MOST = 8
_DECODERS_EACH = 4
_ON_DEVICE_BYTES = 1024 * MIB
"""Of a process on a CUDA device, beside twice its weights: context, libraries and a batch."""


class Hardware(NamedTuple):
    """What torch finds.

    Args:
        cuda_bytes: memory of the CUDA device that models run on; 0: they run on processors.
        threads: that torch computes with on processors.
    """

    cuda_bytes: int
    threads: int


def hardware(device: str) -> Hardware:
    """Ask torch in a process of its own.

    So this one has no threads and no CUDA, and can fork. Raises Broken: that process died.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sending.send(found_here(device)))
    process.start()
    sending.close()
    try:
        found: Hardware = receiving.recv()
    except EOFError:
        raise Broken("the process that looks for a CUDA device died") from None
    finally:
        process.join()
    return found


def found_here(device: str) -> Hardware:
    """As `hardware`, by torch in this process."""
    from workers.models.device import cpu_threads, cuda_bytes  # brings torch

    return Hardware(cuda_bytes(device), cpu_threads())


def wanted_processes(settings: Settings, found: Callable[[], Hardware]) -> int:
    """The number that TAGSTREAM_WORKERS stands for."""
    if settings.workers != "auto":
        return settings.workers
    device_bytes = 0 if settings.device == "cpu" else found().cuda_bytes
    weights = sum(opened(bundle.name_or_folder).size_bytes for bundle in settings.bundles().values())
    return max(1, min(MOST, decoders(settings) // _DECODERS_EACH, device_bytes // (_ON_DEVICE_BYTES + 2 * weights)))


@contextmanager
def tuning_siblings(bundle: str, use: str, device: str, part: WorkerPart) -> Iterator[None]:
    """Context in which a worker's other processes tune too, and keep nothing."""
    context = multiprocessing.get_context("spawn")
    arguments = (bundle, use, device, part)
    others = [context.Process(target=_tune_again, args=arguments, daemon=True) for _ in range(part.of - 1)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def _tune_again(bundle: str, use: str, device: str, part: WorkerPart) -> None:
    from workers.models.load import tune_model

    with TemporaryDirectory() as folder:
        while True:
            tune_model(bundle, Path(folder), use=use, device=device, threads=part.threads, share=1 / part.of)


def part_of(settings: Settings, part: WorkerPart) -> Settings:
    """The settings of one process of several."""
    identity = settings.transactional_id
    return settings.model_copy(
        update={
            "part": part,
            "transactional_id": f"{identity}-{part.number}" if identity else "",
            "http_host": str(socket_of(part)),
            "http_port": 0,
            "fetch_threads": max(1, settings.fetch_threads // part.of),
            "decode_threads": max(1, decoders(settings) // part.of),
            **{name: ByteSize(getattr(settings, name) // part.of) for name in _DIVIDED},
        }
    )
