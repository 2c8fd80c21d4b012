"""Outcomes of workers with given settings, with their headers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from schemas import writing
from schemas.correction import Word
from schemas.dead_letter import Failure
from schemas.enriched_image import EventRef, GoneSource, Retraction
from schemas.image_event import ImageEvent
from schemas.options import Options
from schemas.stored_scores import EMBEDDING_HEADER, SCORES_HEADER, StoredEmbedding, StoredScores
from tagstream_testing.memory import ManualClock
from tests.support.kinds import BrightnessKind
from tests.support.remote import AnyFields
from workers.models.bundle import Bundle
from workers.models.manifest import FileFacts, Manifest, Provenance
from workers.models.template import TemplateCaptioner
from workers.pipeline.annotation import Annotation
from workers.pipeline.kind_role import KindRole
from workers.pipeline.options import WorkerOptions
from workers.pipeline.profiles import read_profiles
from workers.pipeline.rendering import Renderer
from workers.ports import RemoteCaptioner
from workers.retag.current import CurrentSettings, UnloadedModel
from workers.types import Caption, Coordinates, Facts, Headers, LabelScores, RemoteAnswer, Transform

LABELS = ("red", "green", "blue", "teal", "grey")
GERMAN = ("rot", "grün", "blau", "petrol", "grau")
FLOOR = 0.05
SHA256 = "c" * 64


def retraction(key: str, version: int | None, version_id: str | None = None) -> Retraction:
    return Retraction(
        subject=f"photos/{key}",
        version=version,
        scope="object" if version_id is None else "version",
        event=EventRef(id="e", topic="images", partition=0, offset=0, index=0),
        source=GoneSource(bucket="photos", key=key, version_id=version_id),
        produced_at="2026-01-01T00:00:00Z",
    )


PARENTS = (("warm", "colour"), (), ("colour",), (), ())


def bundle(
    folder: Path, digest: str = "a" * 64, *, languages: bool = True, parents: bool = False, **changes: Any
) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parents.json").write_bytes(orjson.dumps(PARENTS))
    for name, lines in {"tags.txt": LABELS, "tags.de.txt": GERMAN}.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    fields: dict[str, Any] = {
        "kind": "tiny",
        "name": "tiny",
        "provenance": Provenance(source="a test"),
        "transform": Transform(size=8),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "labels": len(LABELS),
        "languages": ("de",) if languages else (),
        "thresholds": 0.5,
        "floor": FLOOR,
        "files": {"parents.json": FileFacts(bytes=1, sha256=SHA256)} if parents else {},
        "digest": digest,
    }
    return Bundle(folder, Manifest.model_validate(fields | changes))


def today(
    folder: Path,
    *,
    profiles: Mapping[str, Any] | None = None,
    captioner: str = "template",
    allowed: Sequence[str] | None = None,
    want: tuple[Any, ...] = ("tags", "caption"),
    brightness: str | None = None,
    service: RemoteCaptioner | None = None,
    **changes: Any,
) -> CurrentSettings:
    """Settings; `captioner` is template, none, or the digest of a captioner."""
    tagger = UnloadedModel(bundle(folder / "tagger", **changes), allowed)
    model = service is None and captioner not in ("template", "none")
    return CurrentSettings(
        tagger,
        UnloadedModel(bundle(folder / "captioner", captioner)) if model else service,
        TemplateCaptioner() if service is None and captioner == "template" else None,
        read_profiles(tagger, profiles or {}, None if allowed is None else set(allowed)),
        want,
        ()
        if brightness is None
        else (KindRole(BrightnessKind(), UnloadedModel(bundle(folder / "brightness", brightness))),),
        AnyFields() if service is not None and service.fields is not None else None,
    )


def outcome(
    settings: CurrentSettings,
    scores: Mapping[str, float],
    *,
    key: str = "a.png",
    dialect: Any = "own",
    word: Word | None = None,
    caption: str | None = None,
    embedding: tuple[str, str, bytes] | None = None,
    floor: float = FLOOR,
    labels: str | None = None,
    failures: Sequence[Failure] = (),
    stored: bool = True,
    brightness: float | None = None,
    answer: RemoteAnswer | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Headers]:
    """The outcome of an image with these scores, from a worker with these settings."""
    tagger, asked = settings.tagger, Options(**options)
    assert tagger is not None
    names = list(tagger.labels)
    ids = {names.index(name): np.float32(score) for name, score in scores.items()}
    found = LabelScores(np.array(sorted(ids), np.int32), np.array([ids[i] for i in sorted(ids)], np.float32))
    event = ImageEvent("event-1", dialect, "enrich", 0, "photos", key, etag="e1", options=asked)
    results: dict[str, Any] = {"tags": found}
    if caption is not None:
        results["caption"] = Caption(caption, -0.5, "beam")
    if brightness is not None:
        (role,) = settings.added
        results[role.name] = role.unpack(b'{"mean":%f,"text":"","about":["png",8,8,1]}' % brightness)
    if answer is not None:
        results |= {role.name: role.taken(answer) for role in settings.roles().waiting}
    image = Annotation(
        event, settings.profiles[asked.profile or "default"], SHA256, results, word=word, word_asked=True
    )
    facts = Facts(SHA256, "e1", None, "2026-01-01T00:00:00Z", 1000, "png", 8, 8, 0)
    renderer = Renderer(settings.roles(), WorkerOptions(), {}, ManualClock())
    where = Coordinates("images", 0, 0, 0)
    made = renderer.enriched(
        image, facts, where, 1_700_000_000_000_000, failures=failures, timings_ms={}, cache=writing.cache()
    )
    document = orjson.loads(made.value)
    if not stored:
        return document, ()
    best = sorted(((i, float(score)) for i, score in ids.items()), key=lambda pair: (-pair[1], pair[0]))
    headers: Headers = ((SCORES_HEADER, StoredScores(tagger.digest, labels, "fp32", floor, tuple(best)).encode()),)
    if embedding is not None:
        headers += ((EMBEDDING_HEADER, StoredEmbedding(*embedding).encode()),)
    return document, headers
