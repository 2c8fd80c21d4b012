"""The demo's web page: one file with everything in it, no script, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from pathlib import Path

from PIL import Image, ImageOps

from schemas.dead_letter import DeadLetter
from schemas.enriched_image import EnrichedImage, Retraction, Tag
from schemas.printable import printable
from workers.local.demo_watch import Row

_STYLE = Path(__file__).with_name("demo_page.css")
_THUMBNAIL = (560, 420)
_TAGS_SHOWN = 5
_WAITING = 5
"""The last colour of the style sheet."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """The rows of the three acts, and the seconds of the first, from its first event to its last outcome."""

    first: Sequence[Row]
    second: Sequence[Row]
    faults: Sequence[Row]
    seconds: float


def render(scenes: Scenes, servers: str) -> str:
    """The page as HTML; `servers` is what ran, in words."""
    stages = _stages(scenes.first)
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<title>tagstream: what came back</title>",
            f"<style>{_STYLE.read_text()}</style></head><body><main>",
            "<h1>What came back</h1>",
            f'<p class="lead">{escape(_lead(scenes, servers))}</p>',
            _facts(scenes),
            *_first(scenes.first, stages),
            *_second(scenes.first, scenes.second),
            *_faults(scenes.faults),
            f"<footer>{escape(_provenance(scenes.first))}</footer>",
            "</main></body></html>",
        )
    )


def escape(text: str) -> str:
    """Text from outside as HTML, also in an attribute; no character in it turns the direction of what follows."""
    return escape_html(printable(text))


def _lead(scenes: Scenes, servers: str) -> str:
    return (
        f"{_count(len(scenes.first), 'image')} went to object storage, one event for each to Kafka, and a worker "
        f"sent these answers to the indexers downstream. All of it ran on this machine: {servers}."
    )


def _facts(scenes: Scenes) -> str:
    tagged = _enriched(scenes.first)
    hits = [row for row in scenes.second if row.remembered]
    facts = [
        (f"{len(tagged)}", "images tagged"),
        (f"{len(tagged) / scenes.seconds:.1f}/s" if scenes.seconds > 0 else "", "first pass, to the last commit"),
        (_milliseconds(tagged), "in the worker, first pass (median)"),
        (_milliseconds(hits), "in the worker, remembered (median)"),
        (f"{len(hits)} of {len(scenes.second)}", "second pass, saved by the cache"),
    ]
    return (
        '<ul class="facts">' + "".join(f"<li><b>{value}</b><span>{what}</span></li>" for value, what in facts) + "</ul>"
    )


def _first(rows: Sequence[Row], stages: Mapping[str, int]) -> Iterable[str]:
    yield "<h2>The images</h2>"
    yield "<p>Tags by score, a caption made of them, and where the time went (waiting for its turn included).</p>"
    legend = "".join(f'<li><b class="c{colour}"></b>{escape(stage)}</li>' for stage, colour in stages.items())
    yield f'<ul class="legend">{legend}</ul><div class="cards">'
    for row in rows:
        yield _card(row, stages)
    yield "</div>"


def _card(row: Row, stages: Mapping[str, int]) -> str:
    answer = row.answer
    if not isinstance(answer, EnrichedImage):
        return _fault_card(row)
    caption = f'<p class="caption">{escape(_sentence(answer.caption.text))}</p>' if answer.caption else ""
    return (
        f'<article class="card">{_image(row)}<div>{caption}<p class="key">{escape(row.key)}</p>'
        f"{_tags(answer.tags)}{_time(answer, stages)}</div></article>"
    )


def _tags(tags: Sequence[Tag]) -> str:
    if not tags:
        return '<p class="none">no tag is sure enough</p>'
    return f'<ul class="tags">{"".join(map(_tag, tags[:_TAGS_SHOWN]))}</ul>'


def _tag(tag: Tag) -> str:
    return f'<li><span>{escape(tag.name)}</span><i>{tag.score:.2f}</i><u style="--score:{tag.score:.3f}"></u></li>'


def _time(answer: EnrichedImage, stages: Mapping[str, int]) -> str:
    bars = "".join(
        f'<b class="c{stages[stage]}" style="flex:{spent:.3f}" title="{escape(stage)} {spent:.1f} ms"></b>'
        for stage, spent in _spent_by_stage(answer).items()
    )
    facts = f"{answer.image.format.upper()}, {answer.image.width} × {answer.image.height}"
    total = sum(answer.timings_ms.values())
    return f'<div class="time"><div class="stages">{bars}</div>{total:.0f} ms · {escape(facts)}</div>'


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


def _fault_card(row: Row) -> str:
    answer = row.answer
    if isinstance(answer, DeadLetter):
        failure = answer.failures[0]
        facts = {"reason": failure.reason, "stage": failure.stage, "detail": failure.detail, "event": _place(answer)}
        return _marked(row, "card", '<span class="mark bad">dead letter</span>', facts)
    if isinstance(answer, Retraction):
        facts = {
            "subject": answer.subject,
            "event": f"{answer.event.topic}:{answer.event.partition}:{answer.event.offset}",
        }
        return _marked(row, "card gone", '<span class="mark warn">retraction</span>', facts)
    return _marked(row, "card", f'<span class="mark warn">{type(answer).__name__.lower()}</span>', {})


def _marked(row: Row, style: str, mark: str, facts: Mapping[str, str]) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return (
        f'<article class="{style}">{_image(row)}<div>{mark}<p class="key">{escape(row.key)}</p>'
        f"<dl>{listed}</dl></div></article>"
    )


def _place(dead_letter: DeadLetter) -> str:
    return f"{dead_letter.topic}:{dead_letter.partition}:{dead_letter.offset}"


def _image(row: Row) -> str:
    data = None if row.image is None else _thumbnail(row.image)
    if data is None:
        return '<div class="blank">no image in this file</div>'
    return f'<img alt="{escape(row.key)}" src="data:image/jpeg;base64,{data}">'


def _thumbnail(path: Path) -> str | None:
    """A small JPEG in base64; None when the file is no image."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", _THUMBNAIL)
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail(_THUMBNAIL)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=82)
    return base64.b64encode(encoded.getvalue()).decode()


def _spent_by_stage(answer: EnrichedImage) -> dict[str, float]:
    """Milliseconds by what the image went through; all its waiting for a turn is one."""
    spent: dict[str, float] = {}
    for stage, milliseconds in answer.timings_ms.items():
        shown = "waiting" if stage.startswith("wait") else stage
        spent[shown] = spent.get(shown, 0.0) + milliseconds
    return spent


def _stages(rows: Sequence[Row]) -> dict[str, int]:
    """A colour's number for each stage that took time, in the order in which an image passes them; waiting is last."""
    answers = [row.answer for row in rows if isinstance(row.answer, EnrichedImage)]
    seen = dict.fromkeys(stage for answer in answers for stage in _spent_by_stage(answer) if stage != "waiting")
    return {stage: min(number, _WAITING - 1) for number, stage in enumerate(seen)} | {"waiting": _WAITING}


def _enriched(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if isinstance(row.answer, EnrichedImage)]


def _provenance(rows: Sequence[Row]) -> str:
    for row in rows:
        if isinstance(row.answer, EnrichedImage) and row.answer.models.tagger is not None:
            tagger = row.answer.models.tagger
            return f"Tagged by {tagger.name} ({tagger.precision}), weights {tagger.digest[:12]}."
    return ""


def _spent(row: Row | None) -> str:
    return "" if row is None or row.work_ms is None else f"{row.work_ms:.0f} ms"


def _milliseconds(rows: Sequence[Row]) -> str:
    spent = [row.work_ms for row in rows if row.work_ms is not None]
    return f"{statistics.median(spent):.0f} ms" if spent else "none"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
