"""minio's client, signing by the store's clock: a signature holds for 15 minutes, and our own may be off by more."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from minio import Minio
from minio.time import to_amz_date

from workers.backends.s3_answers import S3Answer

_log = logging.getLogger(__name__)


class SkewCorrectedMinio(Minio):
    """Signs with our clock until a store says that it is wrong, and with the store's from then on. Thread-safe.

    The store's time is carried on by the monotonic clock, so that a wall clock that jumps again changes nothing.
    """

    _began: datetime | None = None
    """The store's time when our monotonic clock stood at 0."""

    def take_time_of(self, answer: S3Answer) -> bool:
        """Believe the date of an answer that says that ours is wrong. False: it has none."""
        try:
            now = parsedate_to_datetime(answer.date).astimezone(UTC)
            self._began = now - timedelta(seconds=time.monotonic())
        except (ValueError, OverflowError):
            return False
        off_by = (datetime.now(UTC) - now).total_seconds()
        _log.warning("this machine's clock differs from the object store's by %.0f s: going by the store's", off_by)
        return True

    def _build_headers(self, *arguments: Any, **more: Any) -> tuple[Any, datetime]:
        """The one place where minio asks for the time of a request. A test shows that it still is."""
        headers, date = super()._build_headers(*arguments, **more)
        if self._began is not None:
            date = self._began + timedelta(seconds=time.monotonic())
            headers["x-amz-date"] = to_amz_date(date)
        return headers, date
