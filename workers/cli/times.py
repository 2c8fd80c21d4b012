"""Times as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from workers.errors import Misconfigured


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 of a date, an ISO time or an age.

    Such as "2026-01-31", or "90m", "12h", "7d" before now. Without a zone: UTC.

    Raises:
        Misconfigured: it is not one of these.
    """
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if ago := re.fullmatch(r"(\d+)([smhd])", text):
            return int((datetime.now(UTC) - timedelta(**{units[ago[2]]: int(ago[1])})).timestamp() * 1000)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise Misconfigured(f"{text!r} is no time: 2026-01-31, 2026-01-31T08:00Z, or 90m, 12h, 7d (ago)") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `5.2 h`, `12 d`"""
    for unit, size, most in (("s", 1.0, 90.0), ("min", 60.0, 5_400.0), ("h", 3_600.0, 172_800.0)):
        if seconds < most:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} d"
