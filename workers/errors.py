"""Errors by whose fault they are. The core knows these and catches nothing else: any other exception is our own bug,
logged once, and the process ends with nothing committed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from schemas.dead_letter import Reason, Stage

Fault: TypeAlias = Literal[
    "service",  # it is down, overloaded or unreachable
    "too-slow",  # it began or was about to answer, and did not come to an end in the time that it had
    "access",  # our credentials, region or bucket are wrong: it would say so of every object
    "forbidden",  # it refuses us this object, or all of them
    "refused",  # it refuses the request for a reason that may be the object's or ours
    "object",  # a reason that is the object's alone
]
"""What the answer of a dependency that failed says about the cause."""


class TagstreamError(Exception):
    """Base of every error that this project raises on purpose; its text is fit for a person to read."""


class Rejected(TagstreamError):
    """The message's or its image's own fault: no retry can help. Becomes a dead letter.

    Args:
        reason: a word of the closed list in `schemas.dead_letter`.
        detail: one line for a person, without secrets, URLs with signatures, or stack traces.
    """

    def __init__(self, stage: Stage, reason: Reason, detail: str) -> None:
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail


class LargerThanReserved(TagstreamError):
    """The object has more bytes than memory was reserved for. None of them are kept: reserve more, and read it again.

    Args:
        size: the object's size as the store announces it; None: it announced none, or sent more than that.
    """

    def __init__(self, size: int | None) -> None:
        super().__init__("the object is larger than the memory that was reserved for it")
        self.size = size


class Gone(TagstreamError):
    """The object does not exist (any more). Becomes a skip `gone`, or the retraction of a removal event.

    Args:
        date: when the store said so, by its clock, RFC 3339; None: it does not tell.
    """

    def __init__(self, detail: str, date: str | None = None) -> None:
        super().__init__(detail)
        self.date = date


class Superseded(TagstreamError):
    """The object has changed since the event: a newer event is on its way. Becomes a skip `superseded` or `stale`.

    Args:
        last_modified: of the object that is there, RFC 3339, where it was looked at.
    """

    def __init__(self, detail: str, last_modified: str | None = None) -> None:
        super().__init__(detail)
        self.last_modified = last_modified


class Unavailable(TagstreamError):
    """A dependency (store, broker, cache, hub) fails or gives no usable answer. Retried.

    It becomes a record's own fault only if the same dependency serves others meanwhile (`fetch.blame`).

    Args:
        dependency: "s3", "kafka", "redis", or, for downloads of models alone, "hub".
        detail: one line that says what was tried and what came back.
        fault: what the answer says about the cause.
        advice: what a person should do about it, where that is known.
    """

    def __init__(self, dependency: str, detail: str, *, fault: Fault = "service", advice: str = "") -> None:
        super().__init__(f"{dependency}: {detail}")
        self.dependency = dependency
        self.detail = detail
        self.fault: Fault = fault
        self.advice = advice


class Unanswered(TagstreamError):
    """A service gave no result for an image. The image's outcome is partial.

    Args:
        reason: "caption-unavailable", "caption-refused", "caption-budget"; or "caption-failed", a dead letter too.
        detail: one line for a person, without secrets.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class BucketGone(Unavailable):
    """The bucket does not exist, or does not exist any more."""


class Unpublished(TagstreamError):
    """A transaction was not committed, or its result is unknown. Only `Publisher.recover` may follow.

    Args:
        cause: a short word for the metric: "membership", "timeout", "fenced", "broker", …
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


class Misconfigured(TagstreamError):
    """Settings or a bundle with which no work can begin. The process exits with 2."""


def not_installed(package: str) -> Misconfigured:
    """The error for a package of an extra: names the command that installs all of them."""
    return Misconfigured(f"{package} is not installed: run `make install` in a checkout of tagstream")


class Broken(TagstreamError):
    """This process can't go on: a broken device, a stalled client, a stolen transactional id. It exits with 3."""


_LONGEST_NAME = 200
"""Characters. To compare two texts takes time that grows with the square of their length."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one; None if there is none, or it is too long."""
    if len(name) > _LONGEST_NAME:
        return None
    return next(iter(difflib.get_close_matches(name, dict.fromkeys(known), n=1)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known one that is most like it; empty where none is."""
    near = closest(name, known)
    return f" Do you mean {near!r}?" if near else ""


DONE = 0
OUR_BUG = 1
FOUND = 1
"""A command that compares, such as `tagstream topics check` or `audit`, found what is not as it should be."""
MISCONFIGURED = 2
"""Wrong settings or arguments, or a bundle that does not load."""
BROKEN = 3
"""A broken device or a stall."""
UNAVAILABLE = 4
"""A dependency does not answer. Never of `tagstream run`, which waits for it."""
INTERRUPTED = 130
READER_LEFT = 141
"""What a shell says of a program that SIGPIPE ended, such as `cat` in `cat file | head`."""


def exit_code(error: TagstreamError) -> int:
    """The exit code for an error, by whose fault it is."""
    if isinstance(error, Misconfigured) or (isinstance(error, Unavailable) and error.fault == "access"):
        return MISCONFIGURED
    return BROKEN if isinstance(error, Broken) else UNAVAILABLE
