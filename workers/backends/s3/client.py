"""minio's client with the store's clock, and its error."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Self

from minio import Minio
from minio.time import to_amz_date

from workers.backends.s3.answers import S3Answer, read_answer

_log = logging.getLogger(__name__)


class S3Refusal(Exception):
    """The server answered, but not with the requested object."""

    def __init__(self, answer: S3Answer) -> None:
        super().__init__(answer.said)
        self.answer = answer

    @classmethod
    def of(cls, status: int, body: bytes, date: str) -> Self:
        """The refusal in an HTTP answer, for `ClockedPool`."""
        return cls(read_answer(status, body, date))


class SkewCorrectedMinio(Minio):
    """Signs by our clock, or by the store's once it objects. Thread-safe.

    A signature holds for 15 minutes, and our clock may be off by more. The store's time is carried on by the monotonic
    clock, so that a wall clock that jumps again changes nothing.
    """

    _began: datetime | None = None
    """The store's time when our monotonic clock stood at 0."""

    def take_time_of(self, answer: S3Answer) -> bool:
        """Take the store's time from an answer; False: it lacks a time."""
        try:
            now = parsedate_to_datetime(answer.date).astimezone(UTC)
            self._began = now - timedelta(seconds=time.monotonic())
        except (ValueError, OverflowError):
            return False
        off_by = (datetime.now(UTC) - now).total_seconds()
        _log.warning("this clock differs from the object store's by %.0f s: signing with the store's time", off_by)
        return True

    def _build_headers(self, *arguments: Any, **more: Any) -> tuple[Any, datetime]:
        """Sign with the store's time; minio asks for the time only here, as a test checks."""
        headers, date = super()._build_headers(*arguments, **more)
        if self._began is not None:
            date = self._began + timedelta(seconds=time.monotonic())
            headers["x-amz-date"] = to_amz_date(date)
        return headers, date
