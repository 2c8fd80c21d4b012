"""Where images are fetched and decoded, as the settings say."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import PIL

from workers import __version__
from workers.cli.clients import object_store
from workers.errors import Misconfigured
from workers.intake import Limits, ProcessIntake, ThreadIntake
from workers.ports import ObjectStore
from workers.settings import Settings
from workers.types import Transform

logger = logging.getLogger(__name__)


def intake(
    settings: Settings, transforms: Sequence[Transform], store: ObjectStore | None = None
) -> ThreadIntake | ProcessIntake:
    """The intake of these settings, which reads the store that they name, or else the one that is given.

    Off Linux there are threads only: the default becomes that, and a log line says so.

    Raises:
        Misconfigured: there can be no such object store, or no such intake here.
    """
    store = store or object_store(settings)
    if _form(settings) == "threads":
        return ThreadIntake(
            store,
            transforms,
            limits(settings),
            fetch_threads=settings.fetch_threads,
            decode_threads=decoders(settings),
        )
    return ProcessIntake(
        store,
        transforms,
        limits(settings),
        fetch_threads=settings.fetch_threads,
        children=decoders(settings),
        decode_s=settings.decode_timeout_s,
        decode_memory_bytes=settings.decode_memory,
    )


def decoders(settings: Settings) -> int:
    """How many images are decoded at the same time."""
    return settings.decode_threads or processors()


def processors() -> int:
    """How many processors this process may use: in a container they can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limits(settings: Settings) -> Limits:
    return Limits(
        max_object_bytes=settings.max_object_bytes,
        fetch_s=settings.get_timeout_s,
        max_pixels=settings.max_pixels,
        min_side=settings.min_side,
        decode_bytes=settings.decode_memory,
        formats=settings.formats,
    )


def judge(settings: Settings) -> str:
    """Names all that the rejection of an image depends on besides its bytes: other limits or decoders judge anew."""
    bounds = (settings.max_pixels, settings.min_side, settings.decode_memory, *settings.formats)
    return " ".join(map(str, (__version__, PIL.__version__, *bounds)))


def _form(settings: Settings) -> str:
    """The form of the intake. Child processes need anonymous shared memory and a tie to their parent, so Linux."""
    if settings.decoder == "processes" and sys.platform != "linux":
        if "decoder" in settings.model_fields_set:
            raise Misconfigured("TAGSTREAM_DECODER=processes needs Linux: set TAGSTREAM_DECODER=threads")
        logger.warning(
            "decoding in child processes needs Linux; here it is done in threads: an image that hangs or crashes its "
            "decoder ends the worker (TAGSTREAM_DECODER=threads says the same, and keeps this line away)"
        )
        return "threads"
    return settings.decoder
