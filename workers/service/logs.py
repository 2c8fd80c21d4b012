"""Logs on standard error: lines for people on a terminal, one JSON object a line otherwise.

Keys, captions and event bodies are logged at debug level only, by whoever logs them. Secrets are never logged on
purpose; as a net below that, every value given as a secret is masked in whatever is written.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, TextIO

from opentelemetry import trace

_CHATTY = ("kafka", "urllib3", "uvicorn", "asyncio", "opentelemetry", "PIL", "httpx", "httpcore")
"""Libraries whose info level is our debug level."""

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every log record has; the rest came by `extra` and belongs into the JSON line."""


def start_logging(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["auto", "text", "json"],
    *,
    secrets: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send every log record of the process to `stream` (standard error), and nowhere else."""
    out = stream if stream is not None else sys.stderr
    text = form == "text" or (form == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(Masked(TextLines() if text else JsonLines(), secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def flush_logs() -> None:
    """Before an exit that runs no handlers (os._exit)."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class TextLines(logging.Formatter):
    """`12:34:56.789 info    pipeline.worker: what happened`"""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        name = record.name.removeprefix("workers.")
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        text = f"{time} {record.levelname.lower():7} {name}: {record.getMessage()}{extra}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonLines(logging.Formatter):
    """{"time", "level", "logger", "message", "thread", …}; the trace's id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "thread": record.threadName,
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
        line |= _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Masked(logging.Formatter):
    """Another formatter's text with every secret replaced; a secret of less than four characters masks nothing."""

    def __init__(self, inner: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _OWN}
