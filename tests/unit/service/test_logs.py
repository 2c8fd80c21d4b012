"""Log lines: text for people, JSON for machines, secrets for neither."""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest

from tests.support import logs
from workers.service.logs import LINES_A_MINUTE, TEXT_CHARS, LimitedStream, start_logging


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    with logs.restored():
        yield


Level = Literal["debug", "info"]
Form = Literal["auto", "text", "json"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(level: Level, form: Form, secrets: Sequence[str] = (), out: io.StringIO | None = None) -> io.StringIO:
    """Where the lines go from now on."""
    out = io.StringIO() if out is None else out
    start_logging(level, form, secrets=secrets, stream=out)
    return out


def test_without_a_terminal_each_line_is_one_json_object() -> None:
    out = logged("info", "auto")
    logging.getLogger("workers.test").info("took %s\nrecords", 3, extra={"partition": "images:0"})
    (line,) = out.getvalue().splitlines()
    told = json.loads(line)
    assert told["message"] == "took 3\nrecords"
    assert told["level"] == "info"
    assert told["logger"] == "workers.test"
    assert told["partition"] == "images:0"
    assert told["time"].endswith("+00:00")


def test_on_a_terminal_lines_are_text() -> None:
    out = logged("info", "auto", out=Terminal())
    logging.getLogger("workers.test").warning("careful", extra={"partition": "images:0"})
    assert "warning test: careful partition=images:0" in out.getvalue()


def test_an_exception_is_in_the_line() -> None:
    for form in ("json", "text"):
        out = logged("info", form)
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            logging.getLogger("workers.test").exception("failed")
        assert "RuntimeError: boom" in out.getvalue()


def test_secrets_are_masked_in_whatever_is_written() -> None:
    out = logged("info", "json", ["hunter2!", "ab"])
    logging.getLogger("workers.test").error("connecting with %s failed", "redis://u:hunter2!@h", extra={"ab": "ab"})
    assert "hunter2!" not in out.getvalue()
    assert "redis://u:***@h" in out.getvalue()
    assert '"ab": "ab"' in out.getvalue()


def test_debug_lines_and_chatty_libraries_at_info_are_kept_back_unless_debugging() -> None:
    out = logged("info", "text")
    logging.getLogger("kafka.client").info("bootstrapping")
    logging.getLogger("kafka.client").warning("gone")
    logging.getLogger("workers.test").debug("our own")
    assert [word in out.getvalue() for word in ("bootstrapping", "gone", "our own")] == [False, True, False]
    start_logging("debug", "text", stream=out)
    logging.getLogger("kafka.client").info("bootstrapping")
    logging.getLogger("workers.test").debug("our own")
    assert [word in out.getvalue() for word in ("bootstrapping", "our own")] == [True, True]


@pytest.mark.parametrize("level", ["debug", "info"])
def test_no_byte_that_the_kafka_client_sends_or_receives_is_logged(level: Level) -> None:
    """Guard: at debug level it writes them all, and at any level an answer that it can't read."""
    stream = logged(level, "text")
    logging.getLogger("kafka.protocol.parser").debug("%s Send: %r", "node=1", b"\0user\0password")
    logging.getLogger("kafka.protocol.parser").error("Unable to decode %d-byte buffer: %r", 9, b"record")
    logging.getLogger("kafka.net.connection").debug("%s: Response %d: %s", "node=1", 1, "record")
    logging.getLogger("kafka.consumer.fetcher").warning("Not authorized to read from topic images")
    (line,) = stream.getvalue().splitlines()
    assert "Not authorized" in line


def test_a_secret_is_masked_whatever_json_makes_of_it() -> None:
    out = logged("info", "json", ['a"b\\c'])
    logging.getLogger("workers.test").error("login with %s", 'a"b\\c', extra={"url": 'x:a"b\\c@'})
    told = json.loads(out.getvalue())
    assert (told["message"], told["url"]) == ("login with ***", "x:***@")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_line_has_a_bounded_length_whatever_is_logged(form: Literal["json", "text"]) -> None:
    out = logged("info", form)
    try:
        raise RuntimeError("y" * 3_000_000)
    except RuntimeError:
        logging.getLogger("workers.test").exception("begins %s ends", "x" * 3_000_000, extra={"key": "z" * 3_000_000})
    assert len(out.getvalue()) < 4 * TEXT_CHARS
    assert "begins x" in out.getvalue()
    assert "x ends" in out.getvalue()
    assert "characters left out" in out.getvalue()


def test_a_secret_is_not_cut_in_half_where_a_line_is_cut() -> None:
    out = logged("info", "text", ["hunter2!"])
    logging.getLogger("workers.test").info("%shunter2!%s", "x" * (TEXT_CHARS // 2 - 4), "y" * TEXT_CHARS)
    assert "hunt" not in out.getvalue()


def test_on_a_terminal_no_text_from_outside_steers_it_or_makes_up_a_line() -> None:
    out = logged("info", "auto", out=Terminal())
    logging.getLogger("workers.test").info("key %s", "a\x1b[2J\n12:00:00.000 info forged\x9b31m", extra={"k": "\r\x1b"})
    (line,) = out.getvalue().splitlines()
    assert "a\\x1b[2J\\n12:00" in line
    assert "\\x9b31m k=\\r\\x1b" in line


def test_a_json_line_reads_back_and_steers_no_terminal() -> None:
    out, nasty = io.StringIO(), "a\x1b[2J\n\x9b31m\u202e\u2028\U000e0041gpj ü狗"
    start_logging("info", "json", stream=out)
    logging.getLogger("workers.test").info("key %s", nasty)
    (line,) = out.getvalue().splitlines()
    assert line.isprintable()
    assert json.loads(line)["message"] == f"key {nasty}"
    assert "ü狗" in line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


Limited = tuple[logging.Logger, io.StringIO, Clock]


@pytest.fixture
def limited() -> Iterator[Limited]:
    out, clock, log = io.StringIO(), Clock(), logging.getLogger("tests.limited")
    log.handlers[:], log.propagate = [LimitedStream(out, clock)], False
    log.setLevel(logging.DEBUG)
    yield log, out, clock
    log.handlers.clear()


def test_one_statement_writes_a_limited_number_of_lines_a_minute_and_the_rest_is_counted(limited: Limited) -> None:
    log, out, clock = limited
    for number in range(LINES_A_MINUTE + 1234):
        log.warning("refused %s", number)  # each line another text, as a client outside would have it
    log.warning("another place")
    lines = out.getvalue().splitlines()
    assert lines == [*(f"refused {number}" for number in range(LINES_A_MINUTE)), "another place"]
    clock.now = 60.0
    log.warning("another minute")
    (told, last) = out.getvalue().splitlines()[len(lines) :]
    assert "left out 1234 more lines like those from test_logs.py:" in told
    assert last == "another minute"


def test_the_log_has_the_number_of_left_out_lines_at_the_end_of_the_process(limited: Limited) -> None:
    log, out, _ = limited
    for _number in range(LINES_A_MINUTE + 5):
        log.error("again")
    log.handlers[0].close()
    assert "left out 5 more lines" in out.getvalue()


def test_debug_lines_are_never_left_out(limited: Limited) -> None:
    log, out, _ = limited
    for _number in range(3 * LINES_A_MINUTE):
        log.debug("record")
    assert len(out.getvalue().splitlines()) == 3 * LINES_A_MINUTE


@pytest.fixture
def client(limited: Limited) -> Iterator[logging.Logger]:
    log = logging.getLogger("kafka.tests")
    log.handlers[:], log.propagate = limited[0].handlers, False
    yield log
    log.handlers.clear()


def test_repeated_errors_of_the_kafka_client_are_one_line_each(limited: Limited, client: logging.Logger) -> None:
    _, out, clock = limited
    for number in range(100):
        client.error("Connection %s failed: KafkaConnectionError: 111 ECONNREFUSED", number)
        client.error("Metadata refresh: failed KafkaConnectionError: 111 ECONNREFUSED")
        client.warning("No node available")
        clock.now += 0.5
    client.error("SaslAuthenticationFailedError: wrong password")
    assert out.getvalue().splitlines() == [
        "Connection 0 failed: KafkaConnectionError: 111 ECONNREFUSED",
        "No node available",
        "SaslAuthenticationFailedError: wrong password",
    ]


def test_a_lasting_error_of_the_kafka_client_is_logged_every_ten_minutes(
    limited: Limited, client: logging.Logger
) -> None:
    _, out, clock = limited
    for _second in range(1201):
        client.error("KafkaConnectionError")
        clock.now += 1
    told = "left out 599 more lines like those from KafkaConnectionError: at most 1 in 600 s are written"
    assert out.getvalue().splitlines() == ["KafkaConnectionError", told] * 2 + ["KafkaConnectionError"]


def test_the_kafka_client_can_not_name_more_states_than_are_remembered(
    limited: Limited, client: logging.Logger
) -> None:
    _, out, _ = limited
    for number in range(1000):
        client.error("X%dError", number)
    assert len(out.getvalue().splitlines()) == 100


class About:
    def __init__(self, **fields: str | int | list[str]) -> None:
        self._fields = fields

    def __str__(self) -> str:
        return "images:0:7"

    def log_fields(self, *, keys: bool) -> dict[str, str | int | list[str]]:
        return {"tagstream.offset": 7, **self._fields, **({"tagstream.subject": "photos/cat.jpg"} if keys else {})}


def test_a_json_line_about_a_record_names_it_in_fields_and_its_key_in_debug_lines_alone() -> None:
    out = logged("debug", "json")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger("workers.test").log(level, "%d of %s, not %s", 1, About(), About(other=1))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["1 of images:0:7, not images:0:7"] * 3
    assert [line["tagstream.offset"] for line in lines] == [7] * 3
    assert [line.get("tagstream.subject") for line in lines] == ["photos/cat.jpg", None, None]
    assert all("other" not in line for line in lines)


def test_fields_are_masked_and_bounded_like_all_text() -> None:
    out = logged("info", "json", ["hunter2!"])
    about = About(event_id="x" * (2 * TEXT_CHARS), event_ids=["a hunter2! b"] * 5000)
    logging.getLogger("workers.test").info("%s", about)
    line = json.loads(out.getvalue())
    assert len(line["event_id"]) < TEXT_CHARS + 100
    assert (line["event_ids"][0], len(line["event_ids"])) == ("a *** b", 1000)
