"""What the pipeline is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workers.pipeline.profiles import Profile

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Names, bounds and clocks.

    Args:
        skipped_topic: empty: skips are counted, not published.
        store: the object store's endpoint; what the cache knows of one store's objects is not another's.
        judge: names what the rejection of an image depends on besides its bytes: limits and versions. The cache keeps
            rejections under it; empty: they are not kept.
        buckets: allowed bucket names; empty allows all.
        key_globs: keys that are worked on; empty means all. Others are skipped.
        profiles: threshold profiles by name; `default` is used when an event names none.
        max_object_bytes: what an event that doesn't tell its object's size may turn out to hold.
        fetches: GETs in the intake's hands at the same time: as many as it has threads. They are shared as the budgets
            are, so that objects without an end in one partition never take all threads, and few GETs are still to be
            made when a store fails.
        fetch_s: what one GET may take.
        encoded_budget_bytes, decoded_budget_bytes: the two budgets of memory.
        max_polled_bytes: records that were polled and wait with us.
        max_jobs_ahead: jobs of one partition beyond its committed offset.
        max_ledger_bytes: finished outcomes that wait for those before them.
        transaction_outcomes, transaction_bytes: bounds of one transaction (one record may exceed them alone).
        drain_s: after a stop, how long admitted records may take to finish.
        retry_min_s, retry_max_s: bounds of the jittered backoff after a dependency's failure.
        unreadable_after_s: how long one object may fail while others of its bucket read.
        journal: file of what is in hand (see journal.py); None: nothing is suspected after a death.
        stall_s: with records in hand, none of which changed its stage for so long, we are stalled; or with one that is
            worked on for so long (beyond what a GET or a batch may take).
    """

    output_topic: str
    dead_letter_topic: str
    skipped_topic: str = ""
    store: str = ""
    judge: str = ""
    buckets: tuple[str, ...] = ()
    key_globs: tuple[str, ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    worker_version: str = "unknown"
    max_object_bytes: int = 20 * MIB
    fetches: int = 16
    fetch_s: float = 25.0
    encoded_budget_bytes: int = 256 * MIB
    decoded_budget_bytes: int = 512 * MIB
    max_polled_bytes: int = 32 * MIB
    max_jobs_ahead: int = 2_000
    max_ledger_bytes: int = 64 * MIB
    transaction_outcomes: int = 500
    transaction_bytes: int = 4 * MIB
    drain_s: float = 20.0
    retry_min_s: float = 0.2
    retry_max_s: float = 10.0
    unreadable_after_s: float = 60.0
    journal: Path | None = None
    stall_s: float = 60.0
