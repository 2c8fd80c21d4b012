"""Recognises unchanged outcomes by a few of their bytes.

Most outcomes of most plans are unchanged, and workers write all fields in one order without blanks. So what many have
in common (options, models, thresholds) is one run of bytes, and what each shows another; the rest need not be read.
A quotation mark inside of a string is always escaped, so that no text from outside looks like the name of a field.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import orjson

from schemas.version import VERSION_MAX
from workers.retag.judging import Fields, OutcomeCase, Retagger
from workers.types import Headers

_HEAD: Final = re.compile(
    rb'\{"schema":"enriched-image/1","id":"[^"\\]*","subject":"([^"\\]*)","document_id":"[^"\\]*","version":(\d{1,16}),'
    rb'"status":"complete","reason":null,"event":\{"id":"[^"\\]*","dialect":"(\w+)",[^{}]*\},'
    rb'"source":\{[^{}]*"version_id":null,[^{}]*"sha256":"([0-9a-f]{64})"\},"image":\{[^{}]*\},(?="tags":\[)'
)
_CAPTION: Final = b',"caption":'
_CASE: Final = b',"options":{"want":'
_CASE_END: Final = b',"timings_ms":{'
_MADE: Final = b'"produced_at":"'
_CASES: Final = 10_000


class Recognised(NamedTuple):
    """What orders an unchanged outcome; its object has no version id."""

    subject: str
    version: int
    produced_at: str


class Shortcut:
    """Learns cases from outcomes that were read as a whole. It never takes a changed outcome for an unchanged one."""

    def __init__(self, judge: Retagger) -> None:
        self._judge = judge
        self._cases: dict[tuple[bytes, bytes], OutcomeCase] = {}

    def unchanged(self, value: bytes, headers: Headers) -> Recognised | None:
        """What orders the outcome, if it is unchanged. None tells nothing."""
        head = _HEAD.match(value)
        if head is None:
            return None
        subject, version, dialect, sha256 = head.groups()
        begin, end = _case_bytes(value, head.end())
        case = self._cases.get((value[begin:end], dialect))
        if case is None or int(version) > VERSION_MAX:
            return None
        try:
            # The tags, most of its bytes, are needed where thresholds changed alone.
            at = value.index(_CAPTION, head.end()) + 1 if case.same else head.end()
            shown: Fields = orjson.loads(b"{%b}" % value[at:begin])
            named, made = subject.decode(), value.index(_MADE, end) + len(_MADE)
            if not self._judge.is_unchanged(case, named, sha256.decode(), shown, headers):
                return None
            return Recognised(named, int(version), value[made : value.index(b'"', made)].decode())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None  # reading all of it will tell what is wrong

    def learn(self, value: bytes, document: Fields) -> None:
        """Note the case of an outcome that was read as a whole."""
        head = _HEAD.match(value)
        if head is not None and (case := self._judge.case_of(document)).settled is None:
            begin, end = _case_bytes(value, head.end())
            if 0 < begin < end:
                if len(self._cases) >= _CASES:
                    self._cases.clear()
                self._cases[value[begin:end], head[3]] = case


def _case_bytes(value: bytes, start: int) -> tuple[int, int]:
    """Where options, models and thresholds begin and end; negative where they are not."""
    begin = value.find(_CASE, start)
    return begin, value.find(_CASE_END, begin) if begin >= 0 else -1
