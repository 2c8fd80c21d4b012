"""Log lines: text for people, JSON for machines, secrets for nobody."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from workers.service.logs import start_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("kafka", "urllib3")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name, was in chatty.items():
        logging.getLogger(name).setLevel(was)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_each_line_is_one_json_object() -> None:
    out = io.StringIO()
    start_logging("info", "auto", stream=out)
    logging.getLogger("workers.test").info("took %s\nrecords", 3, extra={"partition": "images:0"})
    (line,) = out.getvalue().splitlines()
    told = json.loads(line)
    assert told["message"] == "took 3\nrecords"
    assert told["level"] == "info"
    assert told["logger"] == "workers.test"
    assert told["partition"] == "images:0"
    assert told["time"].endswith("+00:00")


def test_on_a_terminal_lines_are_text() -> None:
    out = Terminal()
    start_logging("info", "auto", stream=out)
    logging.getLogger("workers.test").warning("careful", extra={"partition": "images:0"})
    assert "warning test: careful partition=images:0" in out.getvalue()


def test_an_exception_is_in_the_line() -> None:
    for form in ("json", "text"):
        out = io.StringIO()
        start_logging("info", form, stream=out)
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            logging.getLogger("workers.test").exception("failed")
        assert "RuntimeError: boom" in out.getvalue()


def test_secrets_are_masked_in_whatever_is_written() -> None:
    out = io.StringIO()
    start_logging("info", "json", secrets=["hunter2!", "ab"], stream=out)
    logging.getLogger("workers.test").error("connecting with %s failed", "redis://u:hunter2!@h", extra={"ab": "ab"})
    assert "hunter2!" not in out.getvalue()
    assert "redis://u:***@h" in out.getvalue()
    assert '"ab": "ab"' in out.getvalue()


def test_debug_lines_are_kept_back_unless_asked_for() -> None:
    out = io.StringIO()
    start_logging("info", "text", stream=out)
    logging.getLogger("workers.test").debug("key")
    assert out.getvalue() == ""
    start_logging("debug", "text", stream=out)
    logging.getLogger("workers.test").debug("key")
    assert "key" in out.getvalue()


def test_chatty_libraries_speak_at_info_only_when_debugging() -> None:
    out = io.StringIO()
    start_logging("info", "text", stream=out)
    logging.getLogger("kafka.client").info("bootstrapping")
    logging.getLogger("kafka.client").warning("gone")
    assert "bootstrapping" not in out.getvalue()
    assert "gone" in out.getvalue()
    start_logging("debug", "text", stream=out)
    logging.getLogger("kafka.client").info("bootstrapping")
    assert "bootstrapping" in out.getvalue()
