"""Messages between the worker and a child arrive unchanged, or count as no answer."""

import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import intake
from workers.facts import pack_facts
from workers.intake.header import DECODABLE, Header
from workers.intake.limits import Limits
from workers.intake.processes.sandbox import PROTECTIONS
from workers.intake.processes.shared_memory import PLACE_BYTES, PLACES
from workers.intake.processes.wire import (
    KINDS,
    PIPE_BYTES,
    VERDICTS,
    Answer,
    Channel,
    Complained,
    Completed,
    Failed,
    Garbled,
    Inspected,
    Ready,
    Refused,
    Request,
    Withdrawn,
    receive,
    send,
)
from workers.types import FactsMode, PictureFacts

LIMITS = Limits(formats=("jpeg", "png"), max_pixels=10_000, min_side=3)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, LIMITS)
    with theirs:
        yield channel, theirs
    channel.close()


def parsed(said: bytes, limits: Limits = LIMITS) -> list[Answer]:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, limits)
    try:
        with theirs:
            theirs.sendall(said)
        return list(channel.take())
    finally:
        channel.close()


@pytest.mark.parametrize(
    "answer",
    [
        Ready(()),
        Ready(PROTECTIONS),
        Ready(PROTECTIONS[1:]),
        *(Inspected(2**63, Header(name, 100, 3, "", 2**40, 255)) for name in LIMITS.formats),
        Completed(2**64 - 1),
        Withdrawn(2**64 - 1),
        *(Refused(1, reason, f"a detail of {reason}, in \N{GREEK SMALL LETTER ALPHA}") for reason in VERDICTS),
        Failed(0, ""),
        Complained(2**64 - 1, 1, "Using code not yet in table."),
        Complained(1, PIPE_BYTES, "\N{GREEK SMALL LETTER ALPHA}"),
    ],
)
def test_an_answer_arrives_unchanged(ends: tuple[Channel, socket.socket], answer: Answer) -> None:
    channel, child = ends
    send(child, answer)
    send(child, Completed(5))
    assert list(channel.take()) == [answer, Completed(5)]
    assert not channel.ended


FACTS = PictureFacts(
    "2026-05-03T17:04:05+02:00", 6, "0123456789abcdef", "3OcRJYB4d3h/iIeHeEh3eIhw+j2w", (52.52, -13.4), "exif-broken"
)


def test_facts_of_a_picture_arrive_unchanged() -> None:
    for facts in (FACTS, replace(FACTS, place=(-90.0, 179.99999999999997), missing="exif-too-large")):
        assert answers_with(pack_facts(facts), "place") == [Completed(7, facts)]
    assert answers_with(pack_facts(replace(FACTS, place=None)), "on") == [Completed(7, replace(FACTS, place=None))]


@pytest.mark.parametrize(
    ("payload", "mode"),
    [
        (pack_facts(replace(FACTS, place=None)), "off"),
        (pack_facts(FACTS), "on"),  # the place is private
        (pack_facts(replace(FACTS, phash="no hash")), "place"),
        (pack_facts(FACTS)[:-1], "place"),
        (pack_facts(replace(FACTS, taken_at="2026-05-03T17:04:05" + " " * 200)), "place"),
        (b"{}", "place"),
    ],
)
def test_facts_that_no_picture_has_here_are_no_answer(payload: bytes, mode: FactsMode) -> None:
    with pytest.raises(Garbled):
        answers_with(payload, mode)


def answers_with(payload: bytes, mode: FactsMode) -> list[Answer]:
    """A decode's answer with this payload."""
    return parsed(struct.pack("<BQH", 2, 7, len(payload)) + payload, replace(LIMITS, facts=mode))


def test_every_verdict_of_a_decoder_can_be_sent() -> None:
    """Guard: a reason that is missing here would make a child fail over each such image."""
    folder = Path(intake.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    raised = set(re.findall(r'Rejected\(\s*"decode",\s*"([a-z-]+)"', text))
    assert raised <= set(VERDICTS)
    assert len(raised) >= 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [None, *DECODABLE])
def test_a_request_arrives_unchanged(ends: tuple[Channel, socket.socket], kind: str, name: str | None) -> None:
    channel, child = ends
    small = (b"", b"x")
    for body in (*small, b"x" * (PLACE_BYTES + 1)):
        request = Request(kind, 2**64 - 1, name, 1, 2**40, body)  # type: ignore[arg-type]  # one of KINDS
        channel.put(request)
        with ThreadPoolExecutor(1) as threads:
            received = threads.submit(receive, child, lambda _, size: small[size])
            while channel.unsent:
                channel.flush()
            assert received.result() == request


@pytest.mark.parametrize("place", range(PLACES))
def test_a_body_that_lies_in_the_region_is_not_sent_and_found_there(
    ends: tuple[Channel, socket.socket], place: int
) -> None:
    channel, child = ends
    asked: list[tuple[int, int]] = []

    def placed(where: int, size: int) -> bytes:
        asked.append((where, size))
        return b"what lies there"

    sent = Request("decode", 7, "png", place, 2**40, b"encoded", transforms=2**64 - 1)
    channel.put(sent)
    assert receive(child, placed) == replace(sent, body=b"what lies there")
    assert asked == [(place, 7)]
    child.setblocking(False)
    with pytest.raises(BlockingIOError):
        child.recv(1)


def test_a_large_image_is_sent_bit_by_bit_and_our_side_never_waits(ends: tuple[Channel, socket.socket]) -> None:
    channel, child = ends
    request = Request("decode", 1, "png", 0, 1, bytes(10 << 20))
    channel.put(request)
    waits = channel.unsent
    assert waits
    rest = bytearray()
    while channel.unsent or len(rest) < (10 << 20):
        rest += child.recv(1 << 20)
        channel.flush()
    assert rest.endswith(bytes(10 << 20))


@pytest.mark.parametrize(
    "header",
    [
        Header("gif", 10, 10, "", 1),
        Header("png", 2**32 - 1, 2**32 - 1, "", 1),
        Header("png", 101, 100, "", 1),
        Header("png", 100, 2, "", 1),
        Header("png", 10, 10, "", 2**41),
        Header("jpeg", 10, 10, "", 399, 4),
    ],
    ids=["another format", "enormous", "too many pixels", "too small", "a terabyte to decode", "pixels beyond it"],
)
def test_a_header_over_the_limits_is_no_answer(ends: tuple[Channel, socket.socket], header: Header) -> None:
    channel, child = ends
    send(child, Inspected(1, header))
    with pytest.raises(Garbled, match="over the limits"):
        list(channel.take())


@given(st.binary(max_size=3000))
def test_any_bytes_are_at_most_one_answer(said: bytes) -> None:
    """Guard: for any bytes of a child, only Garbled is raised, and an accepted answer is within the limits."""
    try:
        answers = parsed(said)
    except Garbled:
        return
    assert len(answers) * 11 <= len(said)


@given(st.integers(0, 6), st.integers(0, 9), st.integers(0, 2**16 - 1), st.binary(max_size=500))
def test_any_frame_is_at_most_one_answer(code: int, request_id: int, size: int, payload: bytes) -> None:
    for announced in (size, len(payload)):
        frame = (
            code.to_bytes(1, "little") + request_id.to_bytes(8, "little") + announced.to_bytes(2, "little") + payload
        )
        try:
            answers = parsed(frame)
        except Garbled:
            continue
        for answer in answers:
            if isinstance(answer, Inspected):
                assert answer.header.width * answer.header.height <= LIMITS.max_pixels
            if isinstance(answer, Refused | Failed):
                assert answer.detail.isprintable()
                assert len(answer.detail) <= 500
            if isinstance(answer, Complained):
                assert 0 < answer.lines <= PIPE_BYTES
                assert answer.words.isprintable()


@pytest.mark.parametrize("lines", [0, PIPE_BYTES + 1])
def test_too_many_lines_or_no_line_are_no_answer(ends: tuple[Channel, socket.socket], lines: int) -> None:
    channel, child = ends
    send(child, Complained(1, lines, "words"))
    with pytest.raises(Garbled):
        list(channel.take())


def test_what_waits_for_the_rest_of_an_answer_is_small(ends: tuple[Channel, socket.socket]) -> None:
    channel, child = ends
    for _ in range(100):
        child.sendall(b"\2")
        try:
            list(channel.take())
        except Garbled:
            break
    assert len(channel._incoming) < 1000


def test_a_childs_words_are_cut_and_free_of_control_characters(ends: tuple[Channel, socket.socket]) -> None:
    channel, child = ends
    send(child, Failed(1, "\x1b[2J\r\n" + "x" * 100_000))
    (answer,) = channel.take()
    assert isinstance(answer, Failed)
    assert answer.detail.startswith("?[2J??xxx")
    assert len(answer.detail) == 400


def test_all_lines_of_a_dead_child_are_taken_at_once(ends: tuple[Channel, socket.socket]) -> None:
    channel, child = ends
    said = [Failed(number, "x" * 400) for number in range(1, 40)]
    for answer in said:
        send(child, answer)
    child.close()
    assert list(channel.take(dead=True)) == said
    assert channel.ended
