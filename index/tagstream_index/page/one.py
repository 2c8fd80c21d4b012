"""All facts of one picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from schemas.enriched_image import CaptionText, Models, output_of
from schemas.stored_scores import StoredScores
from tagstream_index.query import Query
from tagstream_index.searching import Found, Searcher
from tagstream_index.settings import IndexSettings
from workers.assembly.decoders import profiles
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, compact_folder, list_bundles
from workers.pipeline.profiles import Profile

_BELOW: Final = 5
_CHANGES: Final = 6
_NEAR: Final = 1 / 3
"""A label is just below its threshold from this part of it on."""
_SMALL: Final = 0.01
"""Stages with a smaller share of the time are shown together."""
_ROW: Final = """
select i.tags, i.corrections, i.provenance, i.version, h.outcomes::text[], h.scores
from image i left join history h using (subject) where i.subject = %(subject)s and not i.gone
"""


class TagRow(NamedTuple):
    """A tag, or a label below its threshold. `threshold`: None without the bundle."""

    name: str
    score: float
    threshold: float | None = None
    person: bool = False
    others: Sequence[str] = ()


class Step(NamedTuple):
    """A part of the time; `at` and `share` are of the whole, 0 to 100."""

    name: str
    ms: float
    at: float
    share: float


class Said(NamedTuple):
    """An outcome of the past: when, what, and what changed since the one before."""

    at: str
    what: str
    changes: Sequence[str]


class One(NamedTuple):
    """A picture and its outcomes."""

    tile: Found
    version: int
    tags: Sequence[TagRow]
    below: Sequence[TagRow]
    added: Sequence[str]
    removed: Sequence[str]
    provenance: Mapping[str, Any]
    steps: Sequence[Step]
    total_ms: float
    history: Sequence[Said]
    raw: str
    model: Mapping[str, Any]


class Bundles:
    """Labels and thresholds of the bundles in a folder, by digest. Reads no weights.

    Args:
        folder: with a bundle in each subfolder; None: the user's cache, which has `compact` if it was used.

    Raises:
        Misconfigured: no bundle in the folder opens.
    """

    def __init__(self, settings: IndexSettings, folder: Path | None) -> None:
        self._settings = settings
        found = list_bundles(folder or compact_folder().parent)
        self._known = {each.digest: each for each in found if isinstance(each, Bundle)}
        if folder is not None and not self._known:
            why = "; ".join(str(each) for each in found) or "no subfolder has a model.json"
            raise Misconfigured(f"--bundles {folder}: {why}")

    def labels(self, digest: str) -> Sequence[str]:
        return self._known[digest].labels if digest in self._known else ()

    def profile(self, digest: str, thresholds: Mapping[str, Any]) -> Profile | None:
        """The profile of an outcome; None if its bundle or profile is missing."""
        bundle = self._known.get(digest)
        if bundle is None:
            return None
        try:
            found = profiles(self._settings, bundle)
        except Misconfigured:  # TAGSTREAM_PROFILES is for another tagger
            return None
        return next((each for each in found.values() if each.digest == thresholds.get("digest")), None)


def one(searcher: Searcher, subject: str, bundles: Bundles, query: Query | None = None) -> One | None:
    """The picture, with its rank and score in a query; None if missing."""
    shown = searcher.of_subjects([subject], query).get(subject)
    row = searcher.execute(_ROW, {"subject": subject}).fetchone()
    if shown is None or row is None:
        return None
    tags, corrections, provenance, version, texts, stored = row
    outcomes = list(_outcomes(texts or ()))
    provenance = _whole(provenance, shown.caption)
    model = provenance["models"]["tagger"] or {}
    digest = str(model.get("digest") or "")
    profile, labels = bundles.profile(digest, provenance.get("thresholds") or {}), bundles.labels(digest)
    steps, total = _steps(outcomes[0].get("timings_ms") or {} if outcomes else {})
    said = corrections or {}
    return One(
        tile=shown,
        version=version,
        tags=[_row(each, profile, len(labels)) for each in tags],
        below=_below(stored, digest, labels, profile, {each["name"] for each in tags}),
        added=said.get("added") or (),
        removed=said.get("removed") or (),
        provenance=provenance,
        steps=steps,
        total_ms=total,
        history=[_said(*pair) for pair in zip(outcomes, [*outcomes[1:], None], strict=False)],
        raw=orjson.dumps(orjson.loads(texts[0]), option=orjson.OPT_INDENT_2).decode() if texts else "",
        model=model,
    )


def _outcomes(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The readable outcomes, with all optional fields, for the templates."""
    for text in texts:
        with suppress(ValueError):
            yield output_of(orjson.loads(text)).model_dump()


def _whole(provenance: Mapping[str, Any], caption: str | None) -> dict[str, Any]:
    """As `_outcomes`."""
    models = Models.model_validate(provenance["models"], extra="ignore").model_dump()
    said = provenance.get("caption")
    if said is not None:
        said = CaptionText.model_validate({**said, "text": caption}, extra="ignore").model_dump()
    return {**provenance, "models": models, "caption": said}


def _row(tag: Mapping[str, Any], profile: Profile | None, labels: int) -> TagRow:
    label, person = tag.get("label_id"), tag.get("source") == "person"
    known = profile is not None and not person and isinstance(label, int) and 0 <= label < labels
    threshold = float(profile.thresholds[label]) if profile is not None and known and label is not None else None
    others = tuple(dict.fromkeys((tag.get("translations") or {}).values()))
    return TagRow(tag["name"], tag["score"], threshold, person, others)


def _below(
    stored: bytes | None, digest: str, labels: Sequence[str], profile: Profile | None, shown: set[str]
) -> list[TagRow]:
    """The labels that lack least to their thresholds."""
    if stored is None or profile is None:
        return []
    try:
        found = StoredScores.decode(stored)
    except ValueError:
        return []
    if found.tagger != digest:
        return []
    rows = [
        TagRow(labels[label], score, float(profile.thresholds[label]))
        for label, score in found.scores
        if label < len(labels)
        and labels[label] not in shown
        and _NEAR * profile.thresholds[label] <= score <= profile.thresholds[label] < 1
    ]
    return sorted(rows, key=lambda row: (row.threshold or 0) - row.score)[:_BELOW]


def _steps(timings: Mapping[str, float]) -> tuple[list[Step], float]:
    total = sum(timings.values())
    small = [name for name, ms in timings.items() if ms < _SMALL * total]
    if len(small) > 1:
        rest = sum(timings[name] for name in small)
        timings = {name: ms for name, ms in timings.items() if name not in small} | {"rest": rest}
    made: list[Step] = []
    at = 0.0
    for name, ms in timings.items():
        share = 100 * ms / total if total else 0.0
        made.append(Step(name, ms, round(at, 2), round(share, 2)))
        at += share
    return made, total


def _said(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> Said:
    model = (now["models"].get("tagger") or {}).get("name")
    what = f"tagged by {model}" if model else "published"
    if now["status"] == "partial":
        what += f", partly: {now.get('reason')}"
    return Said(now["produced_at"], what, list(_changes(now, before)) if before else [])


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterable[str]:
    """What changed, a person's words first."""
    for kind, verb in (("added", "a person added"), ("removed", "a person removed")):
        new, old = ((each.get("corrections") or {}).get(kind) or [] for each in (now, before))
        yield from (f"{verb} “{name}”" for name in new if name not in old)
    gone = {tag["name"]: None for tag in before["tags"]}
    come = [tag["name"] for tag in now["tags"] if tag["name"] not in gone]
    for tag in now["tags"]:
        gone.pop(tag["name"], None)
    changes = [f"+ {name}" for name in come] + [f"− {name}" for name in gone]
    yield from changes[:_CHANGES]
    if len(changes) > _CHANGES:
        yield f"and {len(changes) - _CHANGES} more"
