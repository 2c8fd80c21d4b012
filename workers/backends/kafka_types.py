"""Words that the Kafka backend and its in-memory twin share. No client library here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from workers.vocabulary import Epoch, Headers

Delivery: TypeAlias = Literal["exactly_once", "at_least_once"]
OffsetReset: TypeAlias = Literal["earliest", "latest"]


class Membership(NamedTuple):
    """Who we are in the consumer group at one moment. Without a group: generation -1 and an empty member id."""

    generation: int
    member_id: str


NO_MEMBERSHIP = Membership(-1, "")


def refusal(membership: Membership, epochs: Iterable[Epoch]) -> str | None:
    """Why offsets of these epochs may not be committed under this membership; None when they may.

    The broker alone does not protect us: it skips every check for a membership without a generation, and it never
    asks whether the member owns the partition. A new generation by itself ends nothing, so it is not compared.
    """
    if membership.generation < 0 or not membership.member_id:
        return "we are not a member of the group"
    for epoch in epochs:
        if not epoch.current:
            return f"{epoch.partition} is no longer ours"
        if epoch.member_id != membership.member_id:
            return f"{epoch.partition} was assigned to {epoch.member_id!r}, and we are {membership.member_id!r} now"
    return None


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """One committed record as any reader of the topic sees it, outside of any consumer group."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
