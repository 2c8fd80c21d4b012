"""A command's requirements, checked before it starts: settings, files and memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.settings import Settings

SettingsT = TypeVar("SettingsT", bound="Settings")

_TLS_FILES = ("kafka_tls_ca", "kafka_tls_cert", "kafka_tls_key")


def needed(*fields: str, worker: bool = False, **overrides: str) -> Settings:
    """The environment's settings, with these fields set and TLS files readable.

    Args:
        overrides: variables that replace the environment's.
        worker: the state folder can be written; the bundles are those that are pinned, and the files of labels and
            profiles fit them.

    Raises:
        Misconfigured: a line for each setting that is missing, wrong, or contradicts another.
    """
    from workers.environment import examine
    from workers.settings import Settings

    settings, wrong = examine(Settings, {**os.environ, **overrides}, *fields)
    questions = [*_tls_files(settings)]
    if worker:
        from workers.assembly.requirements import of_a_worker  # only a worker needs them

        questions += of_a_worker(settings)
    _ask(wrong, questions)
    return settings


def needed_of(model: type[SettingsT], *fields: str) -> SettingsT:
    """As `needed`, for settings that another package adds to."""
    from workers.environment import examine

    settings, wrong = examine(model, os.environ, *fields)
    _ask(wrong, _tls_files(settings))
    return settings


def _ask(wrong: list[str], questions: Iterable[Callable[[], object]]) -> None:
    """Raise Misconfigured with all errors, the known ones first."""
    for question in questions:
        try:
            question()
        except Misconfigured as error:
            wrong.append(str(error))
    if wrong:
        raise Misconfigured("\n".join(dict.fromkeys(wrong)))


def with_models(tagger: str | None, captioner: str | None, device: str | None) -> Settings:
    """The environment's settings, overridden by these options unless they are None.

    Raises Misconfigured: a line for each setting, bundle and file of a setting that can't be used.
    """
    from workers.assembly.requirements import of_models
    from workers.environment import read_here

    bundles = {"TAGSTREAM_TAGGER": tagger, "TAGSTREAM_CAPTIONER": captioner}
    named = {variable: name for variable, name in bundles.items() if name is not None}
    place = {} if device is None else {"TAGSTREAM_DEVICE": device}
    settings = read_here(**named, **place)
    _ask([], of_models(settings))
    return settings


def _tls_files(settings: Settings) -> Iterator[Callable[[], object]]:
    from workers.environment import require_readable

    if settings.kafka_security_protocol.endswith("SSL"):
        for field in _TLS_FILES:
            yield partial(require_readable, settings, field)


IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
"""Endings by which a folder's files are taken for images. Of a bucket all is taken: the worker's TAGSTREAM_KEY_GLOBS
chooses there."""


MIB = 1 << 20
PROGRAM_BYTES = 900 * MIB
"""Interpreter, torch, clients and the fork server, before the first image: measured with the compact model."""
CHILD_BYTES = 300 * MIB
"""Of each further process of TAGSTREAM_WORKERS on processors, with its fork server: it shares program and weights."""
DECODER_BYTES = 80 * MIB
"""An idle child's memory, and its allowance above an image's reservation."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def worst_bytes(settings: Settings, decoders: int, weights_bytes: int, processes: int = 1) -> int:
    """Most bytes that the worker may hold: budgets, one large image, children, models, program.

    Half of the budget for decoded bytes is held back as shares; an image larger than the other half runs alone there,
    with up to half of `TAGSTREAM_MEMORY`. Decoders may grow by a quarter above their images' reservations.

    Args:
        decoders: images that are decoded at the same time.
        weights_bytes: of all bundles; they are held twice while they load.
        processes: what TAGSTREAM_WORKERS stands for. One image beyond a process's part is decoded at a time.
    """
    decoded = settings.decoded_bytes // 2 + max(settings.decoded_bytes // 2, settings.decode_memory)
    if processes > 1:
        decoded += settings.decode_memory
    # A batch that is being read, decompressed and as objects.
    each = 2 * settings.batch_bytes + (settings.corrections_bytes if settings.corrections_topic else 0)
    budgets = settings.encoded_bytes + settings.polled_bytes + settings.ledger_bytes + processes * each
    whole = PROGRAM_BYTES + 2 * weights_bytes
    more = (processes - 1) * (CHILD_BYTES if settings.device == "cpu" else whole)
    return budgets + decoded * 5 // 4 + max(decoders, processes) * DECODER_BYTES + whole + more


def container_limit() -> int | None:
    """The container's memory limit in bytes; None if there is no limit or no cgroup."""
    for path in map(Path, _CGROUP_LIMITS):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        # The older hierarchy says "unlimited" with a number that no machine has.
        return int(text) if text.isdigit() and int(text) < 1 << 60 else None
    return None


def compared(worst: int, limit: int | None) -> str:
    """A sentence that compares the need for memory with its limit."""
    says = f"up to {worst // MIB} MiB"
    if limit is None:
        return f"{says}; nothing limits it here"
    if limit >= worst:
        return f"{says}, of {limit // MIB} MiB that this container may have"
    return (
        f"{says}, but this container may have {limit // MIB} MiB: at the worst moment it will be killed. Raise its "
        "limit, or lower TAGSTREAM_MEMORY (docs/guide/deploying.md, Sizing)"
    )
