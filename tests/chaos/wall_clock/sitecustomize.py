"""Imported first by a worker whose PYTHONPATH begins with this folder: a file shifts its wall clock.

WALL_CLOCK names the file: seconds to add, read at every call. Monotonic clocks stay right, as on a machine after its
clock was set.
"""

import datetime
import os
import time
from pathlib import Path
from typing import Any, Self

_FILE = Path(os.environ["WALL_CLOCK"])
_true_time = time.time
_true_datetime = datetime.datetime


def _off_by() -> float:
    return float(_FILE.read_text())


def _time() -> float:
    return _true_time() + _off_by()


class _OfBoth(type):
    """What C code makes is of the original class, and is to count as one of ours."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _true_datetime)


class _Datetime(_true_datetime, metaclass=_OfBoth):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        return cls.fromtimestamp(_time(), tz)

    @classmethod
    def utcnow(cls) -> Self:
        return cls.now(datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Self:
        return cls.now()


_modules: Any = (time, datetime)
_modules[0].time = _time
_modules[1].datetime = _Datetime
