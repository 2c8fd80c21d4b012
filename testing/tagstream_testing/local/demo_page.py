"""The demo's web page: one file with everything in it, nothing loaded from anywhere."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from schemas.dead_letter import DeadLetter
from schemas.enriched_image import EnrichedImage, EventRef, ModelRef, Retraction
from schemas.printable import counted
from tagstream_testing.local.demo_retag import THRESHOLD, Retagged
from tagstream_testing.local.demo_watch import WAITS, Answer, Row, spent_on
from workers.page.html import PICTURE, Card, Mark, closing, encoded, escape, model_note, opening, search
from workers.page.html import render as render_card

_STYLE = Path(__file__).with_name("demo_page.css")
_TAGS_SHOWN = 5
_WAIT = "waiting"
_WAITING = 5
"""The last colour of the style sheet."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """The rows of three acts, and what the last act changed.

    Args:
        seconds: from the first act's first event to its last outcome.
    """

    first: Sequence[Row]
    second: Sequence[Row]
    faults: Sequence[Row]
    seconds: float
    retagged: Retagged | None = None


def render(scenes: Scenes, servers: str) -> str:
    """The page as HTML; `servers` is what ran, in words."""
    stages = _stages(scenes.first)
    return "\n".join(
        (
            opening("tagstream: what came back", "What came back", _lead(scenes, servers), _STYLE.read_text("utf-8")),
            _facts(scenes),
            search(),
            *_first(scenes.first, stages),
            *_second(scenes.first, scenes.second),
            *_faults(scenes.faults),
            *_retagged(scenes.retagged),
            closing(_provenance(scenes.first)),
        )
    )


def _lead(scenes: Scenes, servers: str) -> str:
    return (
        f"{counted(len(scenes.first), 'image')} went to object storage, one event for each to Kafka, and a worker "
        f"sent these answers to the indexers downstream. All of it ran on this machine: {servers}."
    )


def _facts(scenes: Scenes) -> str:
    tagged = _enriched(scenes.first)
    hits = [row for row in scenes.second if row.remembered]
    facts = [
        (f"{len(tagged)}", "images tagged"),
        (f"{len(tagged) / scenes.seconds:.1f}/s" if scenes.seconds > 0 else "", "first pass, to the last commit"),
        (_milliseconds(tagged), "of work on an image, first pass (median)"),
        (_milliseconds(hits), "of work on an image, remembered (median)"),
        (f"{len(hits)} of {len(scenes.second)}", "second pass, saved by the cache"),
    ]
    return (
        '<ul class="facts">' + "".join(f"<li><b>{value}</b><span>{what}</span></li>" for value, what in facts) + "</ul>"
    )


def _first(rows: Sequence[Row], stages: Mapping[str, int]) -> Iterable[str]:
    yield "<h2>The images</h2>"
    yield (
        "<p>Tags by score, a caption made of them, the time of the work on it, and how long it waited for its turn. "
        f"{escape(_known(rows))}</p>"
    )
    legend = "".join(f'<li><b class="c{colour}"></b>{escape(stage)}</li>' for stage, colour in stages.items())
    yield f'<ul class="legend">{legend}</ul><div class="cards">'
    for row in rows:
        yield _card(row, stages)
    yield "</div>"


def _card(row: Row, stages: Mapping[str, int]) -> str:
    answer = row.answer
    if not isinstance(answer, EnrichedImage):
        return _fault_card(row)
    return render_card(
        Card(
            row.key,
            _picture(row),
            caption=answer.caption.text if answer.caption else None,
            tags=[(tag.name, tag.score) for tag in answer.tags[:_TAGS_SHOWN]],
            foot=_time(answer, stages),
            document=_document(answer),
            titled="The event",
        )
    )


def _time(answer: EnrichedImage, stages: Mapping[str, int]) -> str:
    """The stages as a bar, and in words: no one has to tell colours apart."""
    spent = _spent_by_stage(answer)
    bars = "".join(
        f'<b class="c{stages[stage]}" style="flex:{took:.3f}" title="{escape(stage)} {took:.1f} ms"></b>'
        for stage, took in spent.items()
    )
    said = {stage: f"{escape(stage)} {took:.0f}" for stage, took in spent.items() if took >= 0.5}
    waited = f"; {said.pop(_WAIT)}" if _WAIT in said else ""
    words = ", ".join(said.values())
    facts = f"{answer.image.format.upper()}, {answer.image.width} × {answer.image.height}"
    total = f"{spent_on(answer):.0f} ms" + (f": {words}" if words else "") + waited
    return f'<div class="time"><div class="stages" aria-hidden="true">{bars}</div>{total} · {escape(facts)}</div>'


def _second(first: Sequence[Row], second: Sequence[Row]) -> Iterable[str]:
    before = {row.subject: row for row in first}
    yield "<h2>The same events again</h2>"
    yield (
        "<p>Kafka may deliver an event twice, and people upload copies. What was seen under the same etag needs no "
        "download and no model; a copy under another key is downloaded, recognised by its content, and needs no model."
        "</p>"
    )
    yield '<div class="table"><table><tr><th>image</th><th class="number">first</th><th class="number">again</th>'
    yield "<th>the cache saved</th></tr>"
    for row in second:
        earlier = before.get(row.subject)
        yield (
            f'<tr><td class="key">{escape(row.key)}</td><td class="number">{_spent(earlier)}</td>'
            f'<td class="number">{_spent(row)}</td><td class="hit">{escape(row.remembered or "")}</td></tr>'
        )
    yield "</table></div>"


def _faults(rows: Sequence[Row]) -> Iterable[str]:
    yield "<h2>When something is wrong</h2>"
    yield (
        "<p>A file that can't be read stops nothing: the original message goes to the dead-letter topic with the "
        "reason in its headers. An image that was deleted is retracted, so that indexers drop it.</p>"
    )
    yield f'<div class="cards">{"".join(map(_fault_card, rows))}</div>'


def _retagged(retagged: Retagged | None) -> Iterable[str]:
    if retagged is None:
        return
    counts = retagged.counts
    yield f"<h2>A lower threshold: {THRESHOLD}</h2>"
    yield (
        f"<p>Each record carries its scores, so new tags need neither the image nor a model. Of "
        f"{counted(counts['subjects'], 'image')}, {counts['unchanged']} stayed as they were.</p>"
    )
    yield '<div class="table"><table><tr><th>image</th><th>tags before</th><th>after</th></tr>'
    for change in retagged.changes:
        before, after = (", ".join(tag.name for tag in each.tags) for each in (change.before, change.after))
        yield f'<tr><td class="key">{escape(change.key)}</td><td>{escape(before)}</td><td>{escape(after)}</td></tr>'
    yield "</table></div>"


def _fault_card(row: Row) -> str:
    answer = row.answer
    mark, facts, titled = Mark(type(answer).__name__.lower(), "warn"), {}, "The event"
    if isinstance(answer, DeadLetter):
        failure = answer.failures[0]
        mark, titled = Mark("dead letter", "bad"), "The dead letter's headers"
        facts = {"reason": failure.reason, "stage": failure.stage, "detail": failure.detail, "event": _place(answer)}
    elif isinstance(answer, Retraction):
        mark = Mark("retraction", "warn")
        facts = {"subject": answer.subject, "event": _place(answer.event)}
    return render_card(
        Card(
            row.key,
            _picture(row),
            mark=mark,
            facts=facts,
            document=None if answer is None else _document(answer),
            titled=titled,
            gone=isinstance(answer, Retraction),
        )
    )


def _place(record: DeadLetter | EventRef) -> str:
    return f"{record.topic}:{record.partition}:{record.offset}"


def _document(answer: Answer) -> Any:
    return answer.model_dump(mode="json", by_alias=True)


def _picture(row: Row) -> str | None:
    """None if the file is no image."""
    if row.image is None:
        return None
    try:
        with Image.open(row.image) as image:
            image.draft("RGB", PICTURE)
            return encoded(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _spent_by_stage(answer: EnrichedImage) -> dict[str, float]:
    """Milliseconds by stage of the image; all its waits are one."""
    spent: dict[str, float] = {}
    for stage, milliseconds in answer.timings_ms.items():
        shown = _WAIT if stage.startswith(WAITS) else stage
        spent[shown] = spent.get(shown, 0.0) + milliseconds
    return spent


def _stages(rows: Sequence[Row]) -> dict[str, int]:
    """A colour's number for each stage that took time, in pipeline order.

    Waiting is last.
    """
    answers = [row.answer for row in rows if isinstance(row.answer, EnrichedImage)]
    seen = dict.fromkeys(stage for answer in answers for stage in _spent_by_stage(answer) if stage != _WAIT)
    return {stage: min(number, _WAITING - 1) for number, stage in enumerate(seen)} | {_WAIT: _WAITING}


def _enriched(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if isinstance(row.answer, EnrichedImage)]


def _tagger(rows: Sequence[Row]) -> ModelRef | None:
    answers = (row.answer for row in rows if isinstance(row.answer, EnrichedImage))
    return next((answer.models.tagger for answer in answers if answer.models.tagger), None)


def _known(rows: Sequence[Row]) -> str:
    tagger = _tagger(rows)
    return "" if tagger is None else model_note(tagger.name)


def _provenance(rows: Sequence[Row]) -> str:
    tagger = _tagger(rows)
    return "" if tagger is None else f"Tagged by {tagger.name} ({tagger.precision}), weights {tagger.digest[:12]}."


def _spent(row: Row | None) -> str:
    return "" if row is None or row.work_ms is None else f"{row.work_ms:.0f} ms"


def _milliseconds(rows: Sequence[Row]) -> str:
    spent = [row.work_ms for row in rows if row.work_ms is not None]
    return f"{statistics.median(spent):.0f} ms" if spent else "none"
