"""Random lives of objects in a store, and the events of them: late, repeated, out of order, replayed, or by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

SECOND = 1000
UNDECIDABLE: Mapping[str, str] = {
    "whole-seconds": "events bring whole seconds, or no time, and two things are known of one second: a change, and "
    "another change, or a look at what was there before it",
    "no-time": "a removal without a time: when its record was sent says nothing",
    "came-back": "events without a time, and a content that was there before: the cache knows it as of then",
}
"""Histories that no number can order, by name."""


@dataclass(frozen=True)
class Change:
    """From this moment on the object has this content; None: it is gone."""

    at: int
    content: int | None


@dataclass(frozen=True)
class Copy:
    """From this moment on the object's rendition is this one.

    Args:
        kind: `made`; `gone`; `refused`: there, but not for us; `broken`; `other`: of another shape.
        while_read: it happens between two requests of the store for an event at that moment.
    """

    at: int
    kind: str
    colour: int = 0
    serial: int = 0
    while_read: bool = False


@dataclass(frozen=True)
class Delivery:
    """An event of the change with this number reaches a worker. None: `emit` lists the bucket at `seen`."""

    at: int
    change: int | None
    seen: int = 0


@dataclass(frozen=True)
class History:
    """The life of one object."""

    key: str
    dialect: str
    versioned: bool
    aged: int
    changes: Sequence[Change]
    deliveries: Sequence[Delivery]
    names: list[str] = field(default_factory=list)
    """Of each change the version that the store made of it."""
    copies: Sequence[Copy] = ()

    @property
    def undecidable(self) -> str:
        """Why no number can order it; empty: one can."""
        contents = [change.content for change in self.changes]
        if self.dialect == "timeless" and None in contents:
            return "no-time"
        if self.dialect == "timeless" and not self.versioned and len(set(contents)) < len(contents):
            return "came-back"
        if self.dialect in ("bridge", "timeless"):
            moments = [change.at for change in self.changes]
            looks = [delivery.at for delivery in self.deliveries] + [each.seen for each in self.deliveries if each.seen]
            for change in moments[1:]:
                second = change // SECOND
                if any(each < change and each // SECOND == second for each in (*moments, *looks)):
                    return "whole-seconds"
        return ""

    def event(self, number: int, etag: str, version_id: str) -> dict[str, Any]:
        """An event of a change, in this history's dialect."""
        change = self.changes[number]
        gone = change.content is None
        if self.dialect in ("plain", "timeless") and not gone:
            time = {"event_time": moment(change.at)} if self.dialect == "plain" else {}
            named = {"version_id": version_id} if self.versioned else {}
            return own(self.key, etag=etag, **time, **named)
        object_: dict[str, Any] = {"key": self.key, "sequencer": f"{change.at:016X}"}
        if not gone:
            object_["eTag"] = object_["etag"] = etag
            if self.versioned:
                object_["versionId"] = object_["version-id"] = version_id
        if self.dialect == "bridge":
            kind = "Object Deleted" if gone else "Object Created"
            time = {"time": moment(change.at // SECOND * SECOND)}
            return {"source": "aws.s3", "detail-type": kind, **time, "detail": _body(object_)}
        name = "ObjectRemoved:Delete" if gone else "ObjectCreated:Put"
        time = {} if self.dialect == "timeless" else {"eventTime": moment(change.at)}
        return {"Records": [{"eventName": name, **time, "s3": _body(object_)}]}


def own(key: str, **more: Any) -> dict[str, Any]:
    return {"schema": "image-event/1", "id": "i", "bucket": "photos", "key": key, **more}


def _body(object_: Mapping[str, Any]) -> dict[str, Any]:
    return {"bucket": {"name": "photos"}, "object": object_}


def moment(at: int) -> str:
    return datetime.fromtimestamp(at / SECOND, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def histories(seed: int, count: int, start: int, *, copies: bool = False) -> list[History]:
    """This many, the same for the same seed, from about `start` on; `copies`: with those of their renditions."""
    random = Random(seed)
    made = [_history(random, f"{number}.png", start) for number in range(count)]
    return [_with_copies(random, each) for each in made] if copies else made


def _with_copies(random: Random, history: History) -> History:
    """A rendition is made of most contents, often late, or early; then anything may happen to it."""
    found, deliveries = list[tuple[int, str]](), [*history.deliveries]
    for number, change in enumerate(history.changes):
        if number and random.random() < 0.1:  # an event of before finds the object, and then not its rendition
            found.append((change.at, "made-while-read"))
            deliveries.append(Delivery(change.at, number - 1))
        if change.content is not None and random.random() < 0.8:
            found.append((change.at + _between(random, 1, 20 * SECOND) * random.choice([1, 1, 1, -1]), "made"))
        for _ in range(random.choice([0, 0, 1, 2])):
            kind = random.choice(["made", "gone", "refused", "broken", "other"])
            found.append((change.at + _between(random, 1, 60 * SECOND), kind))
    for delivery in history.deliveries:
        if random.random() < 0.1:
            found.append((delivery.at, random.choice(["made", "gone", "made"]) + "-while-read"))
    copies = []
    for serial, (at, kind) in enumerate(sorted(found)):
        name, _, rest = kind.partition("-")
        copies.append(Copy(at, name, random.randrange(3), serial, bool(rest)))
    return replace(history, copies=copies, deliveries=deliveries)


def _history(random: Random, key: str, start: int) -> History:
    dialect = random.choices(["s3", "plain", "bridge", "timeless"], [6, 2, 1, 1])[0]
    changes = _changes(random, start + random.randrange(60 * SECOND))
    deliveries: list[Delivery] = []
    for number, change in enumerate(changes):
        late = [_between(random, 5, 20 * SECOND)]
        if random.random() < 0.15:
            late.append(_between(random, 5, 20 * SECOND))  # sent twice
        if random.random() < 0.1:
            late.append(late[0] + 30 * SECOND)  # replayed out of the dead letters
        deliveries += [Delivery(change.at + each, number) for each in late]
    for _ in range(random.choice([0, 0, 0, 1, 2])):
        seen = changes[0].at + _between(random, 1, 90 * SECOND)
        deliveries.append(Delivery(seen + _between(random, 1, 20 * SECOND), None, seen))
    deliveries.sort(key=lambda delivery: delivery.at)
    aged = random.randrange(86_400 * SECOND) if random.random() < 0.2 else 0
    return History(key, dialect, random.random() < 0.25, aged, changes, deliveries)


def _changes(random: Random, at: int) -> list[Change]:
    """Overwrites within a second, removals, re-creations, also with the same content."""
    changes = [Change(at, random.randrange(3))]
    for _ in range(random.randrange(5)):
        at += _between(random, 1, 60 * SECOND)
        there = changes[-1].content is not None
        changes.append(Change(at, None if there and random.random() < 0.4 else random.randrange(3)))
    return changes


def _between(random: Random, least: int, most: int) -> int:
    """A time of any order of magnitude, each as often as the others."""
    return round(math.exp(random.uniform(math.log(least), math.log(most))))


def value(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event).encode()
