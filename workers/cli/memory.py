"""What a worker holds in memory at worst: the sum that its container's limit must have room for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.settings import Settings

MIB = 1 << 20
PROGRAM_BYTES = 900 * MIB
"""Interpreter, torch, clients and the fork server, before the first image: measured with the compact model."""
DECODER_BYTES = 80 * MIB
"""What an idle child holds of its own, and what it may take beside an image's reservation."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def worst_bytes(settings: Settings, decoders: int, weights_bytes: int) -> int:
    """Most bytes that the worker may hold.

    That is the budgets, one image that is larger than its budget's pool, the children, the models and the program.

    Half of the budget for decoded bytes is shares that are always held back, and an image larger than the other half
    runs alone there: it may take all that one image is allowed, half of `TAGSTREAM_MEMORY`. Decoders may grow by a
    quarter more than was reserved for their images.

    Args:
        decoders: images that are decoded at the same time.
        weights_bytes: of all bundles; they are held twice while they load.
    """
    decoded = settings.decoded_bytes // 2 + max(settings.decoded_bytes // 2, settings.decode_memory)
    # Records that wait, and beside them a batch that is being read, decompressed and as objects.
    budgets = settings.encoded_bytes + 3 * settings.polled_bytes + settings.ledger_bytes
    if settings.corrections_topic:
        budgets += settings.corrections_bytes
    return budgets + decoded * 5 // 4 + decoders * DECODER_BYTES + 2 * weights_bytes + PROGRAM_BYTES


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
    """A sentence that compares the worker's need with its limit."""
    says = f"up to {worst // MIB} MiB"
    if limit is None:
        return f"{says}; nothing limits it here"
    if limit >= worst:
        return f"{says}, of {limit // MIB} MiB that this container may have"
    return (
        f"{says}, but this container may have {limit // MIB} MiB: at the worst moment it will be killed. Raise its "
        "limit, or lower TAGSTREAM_MEMORY (docs/guide/deploying.md, Sizing)"
    )
