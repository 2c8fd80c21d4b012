"""The pipeline's options: the settings that concern it, and a few more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from schemas.options import Want
from workers.pipeline.profiles import Profile, default_profiles
from workers.settings import Settings
from workers.types import Facts

_DEFAULTS = Settings()


def _setting(name: str) -> Any:
    """A field with the default of the setting of this name."""
    return field(default=getattr(_DEFAULTS, name), metadata={"setting": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Names, bounds and time limits. docs/reference/settings.md explains the fields with a setting, and their defaults.

    Args:
        skipped_topic: empty: skips are counted, not published.
        s3_endpoint: part of the cache's keys: two stores may have a bucket of the same name.
        buckets: allowed bucket names; empty allows all.
        fetch_threads: GETs that the intake runs at the same time, one for each of its threads. Partitions share them
            like a budget, so endless objects in one partition never take all threads.
        judge: identifies everything besides an image's bytes that its rejection depends on: limits and versions. It is
            part of the cache's keys for rejections; empty: rejections are not cached.
        allows: whether an image with these facts is within the limits; cached facts beyond them are a miss.
        scale_of: the n of the scale 1/n at which an image with these facts is decoded. The scale is part of the cache's
            keys for results.
        profiles: the tagger's threshold profiles by name; an event without a profile gets `default`.
        retry_min_s, retry_max_s: bounds of the jittered backoff after a dependency's failure.
        journal: file of the images in decoder and device (see journal.py); None: a restart has no suspects.
    """

    group: str = _setting("group")
    output_topic: str = _setting("output_topic")
    dead_letter_topic: str = _setting("dead_letter_topic")
    skipped_topic: str = _setting("skipped_topic")
    tombstones: bool = _setting("tombstones")
    s3_endpoint: str = _setting("s3_endpoint")
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
    judge: str = ""
    allows: Callable[[Facts], bool] = lambda _: True
    scale_of: Callable[[Facts], int] = lambda _: 1
    profiles: Mapping[str, Profile] = field(default_factory=lambda: default_profiles(None))
    worker_version: str = "unknown"
    retry_min_s: float = 0.2
    retry_max_s: float = 10.0
    journal: Path | None = None

    @classmethod
    def of(cls, settings: Settings, **others: Any) -> Self:
        """Options from the settings, with the other options given."""
        named = [option.name for option in fields(cls) if option.metadata.get("setting")]
        return cls(**{name: getattr(settings, name) for name in named}, **others)
