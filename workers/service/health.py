"""Liveness and readiness: the reports that the endpoint serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Report(Protocol):
    """What a health report must have; the pipeline's own may say more."""

    @property
    def ok(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why not; or, when it is well, what is worth knowing. One line each, fit for a person."""
        ...


@dataclass(frozen=True, slots=True)
class Health:
    """A plain health report."""

    ok: bool
    reasons: tuple[str, ...] = ()


class Readiness:
    """Ready or not, and why not; set by any component, asked by the endpoint. Starts as not ready. Thread-safe."""

    def __init__(self, reason: str = "starting") -> None:
        self._health = Health(False, (reason,))

    def now_ready(self) -> None:
        self._health = Health(True)

    def not_ready(self, reason: str) -> None:
        self._health = Health(False, (reason,))

    def __call__(self) -> Health:
        return self._health
