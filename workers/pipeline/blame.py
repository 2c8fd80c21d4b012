"""Decides whether a failed read is the object's fault or the store's.

One failure proves nothing: the store may be away, or our credentials may have expired. So we compare: the object
failed, then another object of its bucket was read, then the object failed again. The pipeline acts on the decision.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.dead_letter import Reason
from workers.errors import Fault, Rejected

REFUSALS: frozenset[Fault] = frozenset({"forbidden", "refused", "object"})
"""Faults that a single object may have. They do not pass by themselves, and a store that says so is up."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at a failure.

    Args:
        fault: what this failure's answer says about the cause.
        said: the answer for a person: status and code, no key.
        before: the fault of the try before this one; None: this is the first.
        others_read: another object of the bucket was requested after an earlier try failed, and read.
        failing_s: for how long it has failed while others were read; outages and quiet hours do not count.
        next_s: how long from now the next answer would take, with the pause before it.
    """

    fault: Fault
    said: str
    before: Fault | None
    others_read: bool
    failing_s: float
    next_s: float


def blame(known: Evidence, unreadable_s: float) -> Rejected | None:
    """Why the object is the one to blame; None: that is not known (yet), try again.

    A refusal is believed at its second time, any other failure when the next answer would come later than
    `unreadable_s`. What is surely about the object needs no comparison.
    """
    if known.before is None:
        return None
    if known.fault == known.before == "object":
        return Rejected("fetch", "unreadable", f"{known.said}, twice")
    if not known.others_read:
        return None
    if known.fault in REFUSALS and known.before in REFUSALS:
        reason: Reason = "forbidden" if known.fault == "forbidden" else "unreadable"
        return Rejected("fetch", reason, f"{known.said}, twice, while others of its bucket are given")
    if known.failing_s + known.next_s < unreadable_s:
        return None
    reason = "fetch-too-slow" if known.fault == "too-slow" else "unreadable"
    detail = f"{known.said}; failed for {known.failing_s:.0f} s while others of its bucket were given"
    return Rejected("fetch", reason, detail)
