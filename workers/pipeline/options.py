"""The options of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from schemas.options import Want
from workers.lanes import lane_of
from workers.pipeline.profiles import Profile, default_profiles
from workers.rendition import NO_RENDITIONS, Rendition
from workers.settings import Settings
from workers.types import Facts, Lane, Partition, Transform

_DEFAULTS = Settings()


def _setting(name: str) -> Any:
    return field(default=getattr(_DEFAULTS, name), metadata={"setting": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Names, limits and timeouts. docs/reference/settings.md explains most fields.

    Args:
        skipped_topic: topic of skips; empty: skips are only counted.
        background: input topics whose records wait for those of the others.
        fetch_threads: number of concurrent GETs. Partitions share them like a budget.
        decoders: number of images that are decoded at once.
        judge: names the limits and versions on which rejections depend; empty: rejections are not cached.
        allows: returns whether an image with these facts is within the limits.
        scale_of: returns, for transforms, a function that returns n if an image with these facts is decoded for them at
            1/n of its size.
        profiles: the profiles by name; an event without a profile gets `default`.
    """

    group: str = _setting("group")
    output_topic: str = _setting("output_topic")
    dead_letter_topic: str = _setting("dead_letter_topic")
    skipped_topic: str = _setting("skipped_topic")
    tombstones: bool = _setting("tombstones")
    s3_endpoint: str = _setting("s3_endpoint")
    forget_on_remove: bool = _setting("forget_on_remove")
    buckets: tuple[str, ...] = _setting("buckets")
    key_globs: tuple[str, ...] = _setting("key_globs")
    sample: float = _setting("sample")
    want: tuple[Want, ...] = _setting("want")
    max_object_bytes: int = _setting("max_object_bytes")
    fetch_threads: int = _setting("fetch_threads")
    get_timeout_s: float = _setting("get_timeout_s")
    encoded_bytes: int = _setting("encoded_bytes")
    decoded_bytes: int = _setting("decoded_bytes")
    polled_bytes: int = _setting("polled_bytes")
    jobs_ahead: int = _setting("jobs_ahead")
    ledger_bytes: int = _setting("ledger_bytes")
    transaction_outcomes: int = _setting("transaction_outcomes")
    transaction_bytes: int = _setting("transaction_bytes")
    drain_s: float = _setting("drain_s")
    unreadable_s: float = _setting("unreadable_s")
    stall_timeout_s: float = _setting("stall_timeout_s")
    self_test_s: float = _setting("self_test_s")
    background: frozenset[str] = frozenset()
    decoders: int = 1
    judge: str = ""
    allows: Callable[[Facts], bool] = lambda _: True
    scale_of: Callable[[tuple[Transform, ...]], Callable[[Facts], int]] = lambda _: lambda _: 1
    rendition: Rendition = NO_RENDITIONS
    profiles: Mapping[str, Profile] = field(default_factory=lambda: default_profiles(None))
    worker_version: str = "unknown"
    retry_min_s: float = 0.2
    retry_max_s: float = 10.0
    journal: Path | None = None

    @classmethod
    def of(cls, settings: Settings, **others: Any) -> Self:
        named = [option.name for option in fields(cls) if option.metadata.get("setting")]
        return cls(**{name: getattr(settings, name) for name in named}, **others)

    def lane(self, partition: Partition) -> Lane:
        return lane_of(partition, self.background)
