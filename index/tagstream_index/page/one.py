"""All facts of one picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from schemas.enriched_image import CaptionText, Models, output_of
from tagstream_index.copies import Copy, largest_first
from tagstream_index.query import Query
from tagstream_index.searching import Found, Searcher
from tagstream_index.settings import IndexSettings
from workers.assembly.decoders import profiles
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, compact_folder, list_bundles
from workers.pipeline.profiles import Profile

_CHANGES: Final = 6
_RAW_CHARS: Final = 256 * 1024
_ALIKE: Final = {None: "same file", 0: "looks the same"}
"""By differing bits of the hashes."""
_SMALL: Final = 0.01
"""Stages with a smaller share of the time are shown together."""
_ROW: Final = """
select i.tags, i.corrections, i.results, i.provenance, i.version, h.outcomes::text[]
from image i left join history h using (subject) where i.subject = %(subject)s and not i.gone
"""


class TagRow(NamedTuple):
    """A tag. `threshold`: None without the bundle."""

    name: str
    score: float
    threshold: float | None = None
    person: bool = False
    others: Sequence[str] = ()


class CopyRow(NamedTuple):
    """A picture, how it is alike, and whether it is the largest."""

    image: Found
    how: str
    largest: bool


class Past(NamedTuple):
    """An outcome, what it changed, and how many after it changed nothing."""

    outcome: Mapping[str, Any]
    changes: Sequence[str]
    repeats: int


class One(NamedTuple):
    """A picture and its outcomes."""

    tile: Found
    version: int
    tags: Sequence[TagRow]
    added: Sequence[str]
    removed: Sequence[str]
    results: Mapping[str, Any]
    provenance: Mapping[str, Any]
    steps: Mapping[str, float]
    history: Sequence[Past]
    """The last outcomes that changed something, newest first, and the oldest one that is kept."""
    raw: str
    model: Mapping[str, Any]


class Bundles:
    """Labels and thresholds of bundles, by digest; in a folder, or the user's cache. Reads no weights.

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

    def find(self, digest: str, thresholds: Mapping[str, Any]) -> tuple[Sequence[str], Profile | None]:
        """Labels and profile of an outcome; none if its bundle or profile is missing."""
        bundle, found = self._known.get(digest), dict[str, Profile]()
        if bundle is None:
            return (), None
        with suppress(Misconfigured):  # TAGSTREAM_PROFILES is for another tagger
            found |= profiles(self._settings, bundle)
        wanted = (each for each in found.values() if each.digest == thresholds.get("digest"))
        return bundle.labels, next(wanted, None)

    def names(self) -> tuple[dict[str, None], dict[str, None]]:
        """All labels in alphabetical order, and their wider names."""
        known = self._known.values()
        labels = dict.fromkeys(sorted({label for bundle in known for label in bundle.labels}))
        return labels, dict.fromkeys(sorted({name for each in known for row in each.parents for name in row}))


def one(searcher: Searcher, subject: str, bundles: Bundles, query: Query | None = None) -> One | None:
    """The picture, with its rank and score in a query; None if missing."""
    shown = searcher.of_subjects([subject], query).get(subject)
    row = searcher.execute(_ROW, {"subject": subject}).fetchone()
    if shown is None or row is None:
        return None
    tags, corrections, results, provenance, version, texts = row
    outcomes = list(_outcomes(texts or ()))
    provenance = _whole(provenance, shown.caption)
    model = provenance["models"]["tagger"] or {}
    digest = str(model.get("digest") or "")
    labels, profile = bundles.find(digest, provenance.get("thresholds") or {})
    said = corrections or {}
    return One(
        tile=shown,
        version=version,
        tags=[_row(each, profile, len(labels)) for each in tags],
        added=said.get("added") or (),
        removed=said.get("removed") or (),
        results=results or {},
        provenance=provenance,
        steps=_steps(outcomes[0].get("timings_ms") or {} if outcomes else {}),
        history=_past(outcomes),
        raw=_raw(texts[0]) if texts else "",
        model=model,
    )


def copy_rows(tile: Found, copies: Sequence[Copy]) -> list[CopyRow]:
    """A picture and its copies, the largest first; empty without copies."""
    rows = [(tile, "this picture"), *((each.image, _ALIKE.get(each.bits, "looks almost the same")) for each in copies)]
    largest = min((image for image, _ in rows), key=largest_first)
    found = [CopyRow(image, how, image is largest) for image, how in rows]
    return sorted(found, key=lambda row: not row.largest) if copies else []


def _raw(text: str) -> str:
    """The event in lines, or as it came if these are long: a deep value is indented far."""
    found = orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode() if len(text) <= _RAW_CHARS else text
    return found if len(found) <= 4 * _RAW_CHARS else text


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


def _steps(timings: Mapping[str, float]) -> Mapping[str, float]:
    """Milliseconds by stage; small ones as one."""
    total = sum(timings.values())
    large = {name: ms for name, ms in timings.items() if ms >= _SMALL * total}
    return timings if len(timings) - len(large) < 2 else large | {"rest": total - sum(large.values())}


def _past(outcomes: Sequence[Mapping[str, Any]]) -> list[Past]:
    found, repeats = list[Past](), 0
    for now, before in zip(outcomes, [*outcomes[1:], None], strict=False):
        changes = [] if before is None else list(_changes(now, before))
        if before is None or changes:
            found.append(Past(now, changes, repeats))
        repeats = 0 if changes else repeats + 1
    return found


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterable[str]:
    """What changed, a person's words first."""
    said = list[str]()
    for kind, verb in (("added", "a person added"), ("removed", "a person removed")):
        new, old = ((each.get("corrections") or {}).get(kind) or [] for each in (now, before))
        said += [f"{verb} “{name}”" for name in new if name not in old]
    yield from said
    if said and (people := now["corrections"].get("by")):
        yield f"corrected by {', '.join(people)}"
    gone = {tag["name"]: None for tag in before["tags"]}
    come = [tag["name"] for tag in now["tags"] if tag["name"] not in gone]
    for tag in now["tags"]:
        gone.pop(tag["name"], None)
    changes = [f"+ {name}" for name in come] + [f"− {name}" for name in gone]
    yield from changes[:_CHANGES]
    if len(changes) > _CHANGES:
        yield f"and {len(changes) - _CHANGES} more"
    old, new = ((each["caption"] or {}).get("text") for each in (before, now))
    if new != old:
        yield f"caption: {new}" if new else "no caption any more"
    of, was = now["source"], before["source"]
    if of["sha256"] != was["sha256"]:
        same = of["etag"] == was["etag"] and (of.get("read") or was.get("read"))
        yield "read from another copy" if same else "other content of the file"
    if now["status"] != before["status"]:
        yield f"now {now['status']}"
