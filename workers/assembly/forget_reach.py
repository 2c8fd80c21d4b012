"""Places that `tagstream forget` can't reach, and its search for leftovers."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from pydantic_core import from_json

from schemas.image_event import ImageEvent, parse_message
from workers.assembly.clients import redis, security, servers
from workers.assembly.progress import Counting, uncounted
from workers.assembly.topic_reading import read_topic
from workers.backends.kafka import describe_topics
from workers.backends.result_cache import RedisResultCache
from workers.republish.forgetting import Subjects
from workers.settings import Settings
from workers.types import ReadRecord

_BEHIND_BUCKET = re.compile(rb'(?:\?versionId=[^/"]{0,3100})?/((?:[^"\\\x00-\x1f]|\\.){1,6200})')
_STRING = re.compile(rb'"((?:[^"\\\x00-\x1f]|\\.){1,6200})')
_REDIS_S = 5.0
"""For one answer of Redis; a worker waits less."""


@contextmanager
def opened_cache(settings: Settings) -> Iterator[RedisResultCache | None]:
    """Redis; None if no URL is set. Raises Misconfigured, Unavailable: it refuses, or gives no answer."""
    server = redis(settings.model_copy(update={"cache_timeout_s": _REDIS_S}))
    if server is None:
        yield None
        return
    with closing(server):
        server.check()
        yield server


class Beyond(NamedTuple):
    """A place where something of the images is left.

    Args:
        until: when Kafka has removed it at the latest, in UTC; None: no retention ends it.
    """

    place: str
    why: str
    until: str | None = None


class OtherPlace(Protocol):
    """A place where another package stores images, by that package's settings."""

    name: str

    def search(self, chosen: Subjects) -> Mapping[str, int]:
        """The number of these images' entries in each part that has any."""

    def forget(self, chosen: Subjects, newest: Iterable[tuple[str, int]]) -> None:
        """Forget them; `newest` has subjects with the greatest version that the topics tell, or -1."""

    def beyond(self) -> Sequence[Beyond]:
        """What `forget` leaves."""


GROUP = "tagstream.forget"
"""Entry points: a function without arguments that gives an `OtherPlace`, or a `Beyond` if its settings are missing."""


def other_places() -> tuple[list[OtherPlace], list[Beyond]]:
    """Places of installed packages, and unreachable ones."""
    found: list[OtherPlace | Beyond] = [point.load()() for point in entry_points(group=GROUP)]
    return [each for each in found if not isinstance(each, Beyond)], [
        each for each in found if isinstance(each, Beyond)
    ]


_OTHERS = (
    Beyond("other consumers' indexes", "they delete by retraction or tombstone"),
    Beyond("backups, mirrors, old versions of objects", "delete them there"),
    Beyond("training sets and trained weights", "collect and train anew"),
)
_KEPT = Beyond("kept objects", "the next event brings an image back, unless TAGSTREAM_KEY_GLOBS excludes its key")
_NAMES = ("cleanup.policy", "retention.ms", "segment.ms")


def beyond(settings: Settings, *, keep_object: bool) -> list[Beyond]:
    """Topics beyond the command's reach, and until when."""
    topics = [_of_topic(topic, state) for topic, state in _others(settings).items()]
    return [*topics, *_not_visited(), *_OTHERS, *([_KEPT] if keep_object else [])]


def _not_visited() -> list[Beyond]:
    visited, missing = other_places()
    return [*missing, *(each for place in visited for each in place.beyond())]


def _others(settings: Settings) -> dict[str, Mapping[str, str]]:
    named = [*settings.topics, settings.dead_letter_topic, settings.skipped_topic, settings.corrections_topic]
    asked = {topic: _NAMES for topic in named if topic and topic != settings.output_topic}
    found = describe_topics(servers(settings), asked, security=security(settings))
    return {topic: state.settings for topic, state in found.items()}


def _of_topic(topic: str, settings: Mapping[str, str]) -> Beyond:
    if "delete" not in (policy := settings.get("cleanup.policy", "can't be read")):
        return Beyond(topic, f"cleanup.policy: {policy}")
    kept_ms, until = int(settings.get("retention.ms", -1)), None
    with suppress(OverflowError):
        end = datetime.now(UTC) + timedelta(milliseconds=kept_ms + int(settings.get("segment.ms", 0)))
        until = None if kept_ms < 0 else end.isoformat(timespec="minutes").replace("+00:00", "Z")
    return Beyond(topic, f"retention.ms={kept_ms}", until)


Places: TypeAlias = dict[str, dict[str, Any]]
"""For each place the number of records, entries or files with a name of the subjects, and the first."""


def found_lines(report: Mapping[str, Places]) -> Iterator[str]:
    """What `search` found, for people."""
    if not report["found"]:
        also = "".join(f", {each.name}" for each in other_places()[0])
        yield f"nothing is left in the enriched topic{also}, Redis and TAGSTREAM_STATE_DIR"
    yield from (f"not searched: {each.place}: {each.why}" for each in _not_visited())
    for what, places in report.items():
        for place, found in places.items():
            reach = "" if what == "found" else ", beyond reach"
            yield f"{place}{reach}: {found['count']:,}, the first is {found['first']}"


def search(settings: Settings, chosen: Subjects, counting: Counting = uncounted) -> dict[str, Places]:
    """Search for the subjects' names.

    Returns:
        `found` in the enriched topic, Redis, the state folder and `places`; `elsewhere`: in other topics.

    Raises:
        Misconfigured, Unavailable: one of them can't be read.
    """
    finder, found, elsewhere = Finder(chosen), Places(), Places()

    def note(places: Places, place: str, where: str) -> None:
        places.setdefault(place, {"count": 0, "first": where})["count"] += 1

    def take(places: Places, record: ReadRecord) -> None:
        if finder.finds_in_record(record, parse=places is elsewhere):
            note(places, record.topic, record.place)

    read_topic(settings, settings.output_topic, partial(take, found), counting=counting)
    for topic in _others(settings):
        read_topic(settings, topic, partial(take, elsewhere), counting=counting)
    for path in settings.state_dir.rglob("*"):
        if path.is_file() and not path.is_symlink() and finder.finds_in_file(path):
            note(found, "TAGSTREAM_STATE_DIR", str(path))
    with opened_cache(settings) as cache:
        for names in () if cache is None else cache.names("tagstream:"):
            for name in names:
                if finder.finds(name.partition("://")[2].partition("/")[2].encode()):  # behind the store's URL
                    note(found, "Redis", name)
    for visited in other_places()[0]:
        for part, count in visited.search(chosen).items():
            found[part] = {"count": count, "first": f"a row of {visited.name}"}
    return {"found": found, "elsewhere": elsewhere}


class Finder:
    """Finds the names of subjects in bytes: `bucket/key`, also of a version, raw or as JSON escapes it."""

    def __init__(self, chosen: Subjects) -> None:
        self._chosen = chosen
        named = (*chosen.named, chosen.prefix, chosen.copies)
        self._buckets = sorted({subject.partition("/")[0] for subject in named if subject})

    def finds(self, where: bytes | mmap.mmap) -> bool:
        for bucket in self._buckets:
            sought, at = bucket.encode(), -1
            while (at := where.find(sought, at + 1)) >= 0:
                before = where[max(0, at - 2) : at]
                longer = (
                    before[-1:].isalnum() or before[-1:] in (b"-", b".") or (before != b"//" and before[-1:] == b"/")
                )
                found = None if longer else _BEHIND_BUCKET.match(where, at + len(sought))
                if found and self._has(bucket, found[1]):
                    return True
        return False

    def finds_in_record(self, record: ReadRecord, *, parse: bool) -> bool:
        """Whether a record names it; with `parse` also as an event, which may escape it."""
        parts = (record.key, record.value, *[value for _, value in record.headers])
        if any(part is not None and self.finds(part) for part in parts):
            return True
        events = parse_message(record.value, record.headers, topic="", partition=0, offset=0) if parse else ()
        return any(isinstance(event, ImageEvent) and self._chosen.has(event.subject) for event in events)

    def finds_in_file(self, path: Path) -> bool:
        """Whether a file has a subject's name, or its key in quotes."""
        with (
            path.open("rb") as file,
            suppress(ValueError),
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
        ):
            strings = {found[1] for found in _STRING.finditer(whole)}
            return self.finds(whole) or any(self._has(bucket, each) for bucket in self._buckets for each in strings)
        return False  # an empty file

    def _has(self, bucket: str, name: bytes) -> bool:
        texts = [name.decode(errors="replace")]
        with suppress(ValueError):
            texts.append(from_json(b'"%b"' % name))
        return any(self._chosen.has(f"{bucket}/{text}") for text in texts)
