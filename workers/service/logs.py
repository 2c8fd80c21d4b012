"""Logs on standard error: text on a terminal, else one JSON object a line.

Keys, captions and event bodies are logged at debug level only. Secrets are never logged on purpose; besides, every
known secret is masked in all lines.

Input decides how often a line is logged and how long it is. So each place in the code writes a bounded number of lines
a minute and counts the rest, and a line's length is bounded. The Kafka client complains ten times a second while no
broker answers: one line of each error in ten minutes.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TextIO

from opentelemetry import trace

from schemas.printable import escaped
from workers.types import HasLogFields

_CHATTY = ("urllib3", "asyncio", "opentelemetry", "PIL", "httpx2", "httpcore2")
"""Libraries with lines at info that are debug lines here."""

_TELL_TALES = {"kafka": logging.INFO, "kafka.protocol.parser": logging.CRITICAL}
"""Loggers that write what passes through them, and the least level at which they don't. kafka-python writes every byte
that it sends or receives at debug level, records and passwords among them, and an answer that it can't read as an
error, which reaches us as an exception too."""

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every log record has; the rest came by `extra` and belongs into the JSON line."""

LINES_A_MINUTE = 60
"""From one place in the code; debug lines are not counted."""

CHATTERBOX = "kafka"
"""The library that repeats its warnings and errors as long as a state lasts: one line each in `CHATTER_S`."""

CHATTER_S = 600.0

_MOST_VALUES = 1000
"""Of a list that is a value."""

_MOST_ERRORS = 100
"""More at once are not distinguished: an error's name can come from outside."""

TEXT_CHARS = 8192
"""The longest message, traceback or value; longer ones lose their middle."""


def start_logging(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["auto", "text", "json"],
    *,
    secrets: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send the process's log records to `stream` (standard error) only."""
    out = stream if stream is not None else sys.stderr
    text = form == "text" or (form == "auto" and out.isatty())
    handler = LimitedStream(out)
    handler.setFormatter((TextLines if text else JsonLines)(Cleaner(secrets)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    for name, least in _TELL_TALES.items():
        logging.getLogger(name).setLevel(max(least, logging.INFO if level == "debug" else logging.WARNING))


def log_stream() -> TextIO:
    """Where the log goes."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LimitedStream):
            return handler.stream
    return sys.stderr


def is_json() -> bool:
    """Whether the log is JSON lines, where no other line may stand."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def flush_logs() -> None:
    """Write all lines and the counts of suppressed ones; call it before os._exit."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LimitedStream):
            handler.tell_left_out()
        handler.flush()


class Cleaner:
    """Masks a text's secrets and cuts its middle if too long.

    Secrets under four characters are not masked: ordinary words contain them.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if len(text) <= TEXT_CHARS:
            return text
        half = TEXT_CHARS // 2
        return f"{text[:half]} [… {len(text) - 2 * half} characters left out …] {text[-half:]}"

    def value(self, value: object) -> object:
        """An extra field's value with its texts cleaned; other types become text."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list):
            return [self.value(each) for each in value[:_MOST_VALUES]]
        return self(str(value))


class _Lines(logging.Formatter):
    def __init__(self, clean: Cleaner) -> None:
        super().__init__()
        self._clean = clean


class TextLines(_Lines):
    """`12:34:56.789 info    pipeline.worker: what happened`

    Characters that steer a terminal, or would begin a line of their own, are written as escapes.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        name = record.name.removeprefix("workers.")
        message = _printable(self._clean(record.getMessage()))
        extra = "".join(f" {key}={_printable(str(value))}" for key, value in _extra(record, self._clean).items())
        text = f"{at} {record.levelname.lower():7} {name}: {message}{extra}"
        if not record.exc_info:
            return text
        trace_lines = self._clean(self.formatException(record.exc_info)).splitlines()
        return "\n".join([text, *map(_printable, trace_lines)])


class JsonLines(_Lines):
    """{"time", "level", "logger", "message", "thread", …}, with trace and record if known."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._clean(record.getMessage()),
            "thread": record.threadName,
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        line |= _named(record, self._clean)
        line |= _extra(record, self._clean)
        if record.exc_info:
            line["exception"] = self._clean(self.formatException(record.exc_info))
        return escaped(json.dumps(line, ensure_ascii=False))


class LimitedStream(logging.StreamHandler[TextIO]):
    """Writes `LINES_A_MINUTE` of each place in the code, and counts the others."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._repeats = _Repeats(LINES_A_MINUTE, 60.0, _place)
        self._chatter = _Repeats(1, CHATTER_S, _error_or_place, _MOST_ERRORS)
        self._clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        now = self._clock()
        self._log_ended(now)
        chatter = record.levelno >= logging.WARNING and record.name.partition(".")[0] == CHATTERBOX
        repeats = self._chatter if chatter else self._repeats
        if record.levelno <= logging.DEBUG or repeats.admits(record, now):
            super().emit(record)

    def close(self) -> None:
        """Log the suppressed counts; logging calls it at the end of the process."""
        self.tell_left_out()
        super().close()

    def tell_left_out(self) -> None:
        """Log the suppressed counts so far."""
        self.acquire()
        try:
            self._log_ended(float("inf"))
        finally:
            self.release()

    def _log_ended(self, now: float) -> None:
        for told in (*self._repeats.ended(now), *self._chatter.ended(now)):
            super().emit(told)


@dataclass(slots=True)
class _Window:
    """Records of one name since `began`."""

    began: float
    first: logging.LogRecord
    records: int = 0


class _Repeats:
    """Counts records by name and admits `most` in `seconds`.

    Args:
        name_of: what records have in common that count together.
        names: more at once count as the oldest.
    """

    def __init__(
        self, most: int, seconds: float, name_of: Callable[[logging.LogRecord], str], names: int | None = None
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._name_of = name_of
        self._names = names
        self._windows: OrderedDict[str, _Window] = OrderedDict()  # the one that ends first is the first

    def admits(self, record: logging.LogRecord, now: float) -> bool:
        name = self._name_of(record)
        if name not in self._windows and len(self._windows) == self._names:
            name = next(iter(self._windows))
        window = self._windows.setdefault(name, _Window(now, record))
        window.records += 1
        return window.records <= self._most

    def ended(self, now: float) -> Iterator[logging.LogRecord]:
        """Drop finished windows; for each, a record with the number of suppressed lines."""
        while self._windows:
            name, window = next(iter(self._windows.items()))
            if now - window.began < self._seconds:
                return
            del self._windows[name]
            if window.records > self._most:
                yield self._suppressed_record(name, window)

    def _suppressed_record(self, name: str, window: _Window) -> logging.LogRecord:
        first = window.first
        message = "left out %d more lines like those from %s: at most %d in %g s are written"
        counts = (window.records - self._most, name.rpartition("/")[2], self._most, self._seconds)
        return logging.LogRecord(first.name, first.levelno, first.pathname, first.lineno, message, counts, None)


def _place(record: logging.LogRecord) -> str:
    """The record's place in the code."""
    return f"{record.name} {record.levelno} {record.pathname}:{record.lineno}"


def _error_or_place(record: logging.LogRecord) -> str:
    named = re.search(r"\b[A-Z]\w+Error\b", record.getMessage())
    return named.group() if named else _place(record)


def _printable(text: str) -> str:
    escapes = (each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
    return text if text.isprintable() else "".join(escapes)


def _named(record: logging.LogRecord, clean: Cleaner) -> Mapping[str, object]:
    """Fields of the first argument that has some; keys in debug lines only."""
    found = record.args if isinstance(record.args, tuple) else ()
    about = next((argument for argument in found if isinstance(argument, HasLogFields)), None)
    fields = about.log_fields(keys=record.levelno <= logging.DEBUG) if about is not None else {}
    return {name: clean.value(value) for name, value in fields.items()}


def _extra(record: logging.LogRecord, clean: Cleaner) -> Mapping[str, object]:
    return {key: clean.value(value) for key, value in vars(record).items() if key not in _OWN}
