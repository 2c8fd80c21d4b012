"""Judges outcomes by a few of their bytes.

Workers write all fields in one order without blanks. So what many outcomes have in common (options, models, thresholds)
is one run of bytes, and what each shows another; the rest need not be read. A quotation mark inside of a string is
always escaped, so that no text from outside looks like the name of a field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
import orjson

from schemas.stored_scores import SCORES_AT, SCORES_HEADER, PackedScores
from schemas.version import VERSION_MAX
from workers.retag.judgement import Fields, Kind, OutcomeCase, kind_of
from workers.retag.judging import Retagger, header_of, says
from workers.types import Headers

_HEAD: Final = (
    rb'\{"schema":"enriched-image/1","id":"[0-9a-f]{64}","subject":"(([^"\\/]+)/([^"\\]+))","document_id":"\1",'
    rb'"version":(\d{1,16}),"status":"complete","reason":null,"event":\{"id":"[^"\\]*","dialect":"(\w+)",'
    rb'"time":(?:null|"[^"\\]*"),"topic":"[^"\\]*","partition":\d+,"offset":\d+,"index":\d+\},'
    rb'"source":\{"bucket":"\2","key":"\3","version_id":(?:null|"([^"\\]*)"),"etag":"[^"\\]*",'
    rb'"sequencer":(?:null|"\w+"),"last_modified":"[^"\\]*","sha256":"([0-9a-f]{64})"\},'
    rb'"image":\{"format":"\w+","width":\d+,"height":\d+,"bytes":(\d{1,18})\},'
    rb'(?="tags":\[(?:\]|\{"name":"[^"\\]*","score":[0-9.e-]+,"label_id":\d+%b\}))'
)
"""Up to the first tag, which is the tagger's, in all languages of today."""
_LABEL: Final = b'"label_id":'
_LABELS: Final = re.compile(rb'"label_id":(\d+)')
_CAPTION: Final = b',"caption":'
_CORRECTIONS: Final = b',"corrections":'
_CASE: Final = b',"options":{"want":'
_CASE_END: Final = b',"timings_ms":{'
_MADE: Final = b'"produced_at":"'
_CASES: Final = 10_000
_NO_SCORES: Final = Kind("image", "no-scores")


class Recognised(NamedTuple):
    """What a plan has to know of an outcome."""

    kind: Kind
    subject: bytes
    version: int
    produced_at: str
    bytes: int
    version_id: str | None


@dataclass(slots=True)
class _Known:
    """A case that was met.

    Args:
        thresholds: by label id.
        changed: what becomes of an outcome that shows other labels than these give, or of all that the case settles;
            None: not known.
        captioned: whether it has a caption, for that to be known.
        floors: of stored scores by what stands before them; None: they are of no use.
    """

    case: OutcomeCase
    thresholds: Sequence[float]
    changed: Kind | None
    captioned: bool
    floors: dict[bytes, float | None] = field(default_factory=dict)


class Shortcut:
    """Learns cases from outcomes that were read as a whole. What it knows of an outcome is what `Retagger` says."""

    def __init__(self, judge: Retagger) -> None:
        self._judge = judge
        self._cases: dict[tuple[bytes, bytes], _Known] = {}
        tagger = judge.today.tagger
        languages = () if tagger is None else tagger.translations
        names = b",".join(rb'"%b":"[^"\\]*"' % re.escape(code.encode()) for code in languages)
        self._head = re.compile(_HEAD % (rb',"translations":\{%b\}' % names if names else b""))
        self._texts = () if tagger is None else [b"%d" % label for label in range(len(tagger.labels))]
        self._unambiguous = tagger is None or len(set(tagger.labels)) == len(tagger.labels)

    def recognise(self, value: bytes, headers: Headers) -> Recognised | None:
        """What becomes of an outcome. None tells nothing."""
        head = self._head.match(value)
        if head is None:
            return None
        subject, _, _, version, dialect, version_id, sha256, size = head.groups()
        at = value.find(_CAPTION, head.end())
        begin = value.find(_CASE, at)
        end = value.find(_CASE_END, begin)
        known = self._cases.get((value[begin:end], dialect))
        if known is None or at < 0 or int(version) > VERSION_MAX:
            return None
        try:
            kind = self._kind(known, subject, sha256, value[head.end() : at], value[at + 1 : begin], headers)
            if kind is None:
                return None
            made = value.index(_MADE, end) + len(_MADE)
            produced_at = value[made : value.index(b'"', made)].decode()
            gone = None if version_id is None else version_id.decode()
            return Recognised(kind, subject, int(version), produced_at, int(size), gone)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None  # reading all of it will tell what is wrong

    def learn(self, value: bytes, document: Fields) -> None:
        """Note the case of an outcome that was read as a whole."""
        head = self._head.match(value)
        begin = value.find(_CASE)
        end = value.find(_CASE_END, begin)
        if head is None or not 0 < begin < end or (value[begin:end], head[5]) in self._cases:
            return
        case = self._judge.case_of(document)
        if len(self._cases) >= _CASES:
            self._cases.clear()
        captioned = "caption" in case.options.want and self._judge.today.captions
        known = _Known(case, case.profile.thresholds.tolist(), self._changed(case), captioned)
        self._cases[value[begin:end], head[5]] = known

    def _kind(
        self, known: _Known, subject: bytes, sha256: bytes, tags: bytes, parts: bytes, headers: Headers
    ) -> Kind | None:
        """
        Args:
            parts: from the caption up to the case.
        """
        judge, case = self._judge, known.case
        if case.settled is not None:
            return known.changed
        word = judge.word(subject.decode(), sha256.decode()) if judge.corrects else None
        if not case.same:
            if not case.rethresholded or word is not None or _CORRECTIONS in parts:
                return None
            scores = header_of(headers, SCORES_HEADER)
            if scores is None:
                return _NO_SCORES
            labels = self._labels(known, scores)
            if labels is None:
                return None
            if tags.count(_LABEL) != len(labels) or _LABELS.findall(tags) != labels:
                return known.changed if known.captioned != parts.startswith(b'"caption":null') else None
        shown = orjson.loads(b"{%b}" % parts)
        alike = says(word, shown.get("corrections")) and judge.template_gives(shown["caption"])
        return Kind("unchanged") if alike else None

    def _labels(self, known: _Known, value: bytes) -> list[bytes] | None:
        """Ids of the labels that these scores show today, best first."""
        begin = SCORES_AT + value[SCORES_AT - 1]
        head = value[:begin]
        if head not in known.floors:
            if len(known.floors) >= _CASES:
                known.floors.clear()
            known.floors[head] = self._floor(known.case, head)
        floor, (count, rest) = known.floors[head], divmod(len(value) - begin, 8)
        if floor is None or rest:
            return None
        pairs = _pairs(count).unpack_from(value, begin)
        ids, scores, thresholds, texts = pairs[::2], pairs[1::2], known.thresholds, self._texts
        if count and not (scores[0] <= 1 and scores[-1] >= floor):
            return None
        return [texts[label] for label, score in zip(ids, scores, strict=True) if score > thresholds[label]]

    def _floor(self, case: OutcomeCase, head: bytes) -> float | None:
        tagger, stored = self._judge.today.tagger, PackedScores.decode(head)
        more = tagger is None or stored.floor > float(np.float32(tagger.floor))
        return None if more or self._judge.lacks(stored, case.profile) else stored.floor

    def _changed(self, case: OutcomeCase) -> Kind | None:
        """What other labels make of an outcome."""
        today, options = self._judge.today, case.options
        if case.settled is not None:
            return kind_of(case.settled)
        if not case.rethresholded or not self._unambiguous:
            return None
        if "caption" not in options.want or options.guide_tags or not today.captions:
            return Kind("rescore", "tags")
        return Kind("rescore", "tags,caption") if today.template is not None else Kind("image", "guide")


@lru_cache(maxsize=512)
def _pairs(count: int) -> Struct:
    return Struct("<" + "If" * count)
