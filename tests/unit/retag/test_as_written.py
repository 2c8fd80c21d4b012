"""Where no setting has changed, a worker's outcomes are remade from their records byte for byte."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.correction import correction
from schemas.options import WANTS
from schemas.stored_scores import EMBEDDING_HEADER, STORED_HEADERS
from tagstream_testing.memory import ManualClock
from tests.support.corrections import said
from tests.support.harness import BUCKET, OUT, EchoCaptioner, Harness, template
from tests.support.kinds import BrightnessKind, BrightnessModel
from tests.unit.models import tiny
from tests.unit.models.small_dual import labelled, small_dual
from tests.unit.retag import stored
from workers.models.bundle import Bundle
from workers.models.device import choose_device
from workers.models.dual import adapters
from workers.pipeline.kind_role import KindRole
from workers.pipeline.profiles import read_profiles
from workers.pipeline.published import StoredOutcome
from workers.retag.current import CurrentSettings, UnloadedModel
from workers.retag.remake import SAME, New, Remaker
from workers.types import Coordinates, Headers

CPU = choose_device("cpu")
COLOURS = ((200, 100, 0), (0, 0, 0), (20, 220, 90))
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tags": {"want": ["tags"]},
    "caption": {"want": ["caption"]},
    "guided": {"want": ["caption"], "guide_tags": ["a dog", "a kite"]},
    "both": {"want": ["caption", "tags"], "guide_tags": ["a kite"]},
    "few": {"profile": "few"},
    "low": {"profile": "low"},
    "added": {"want": ["tags", "brightness"]},
    "alone": {"want": ["brightness"]},
    "corrected": {},
}
WITH_EMBEDDING: dict[str, dict[str, Any]] = {"all": {"want": list(WANTS)}, "vector": {"want": ["embedding"]}}
PERSONS = correction(BUCKET, "corrected-0", added=["a kite"], removed=["red"])


def taggers(kind: Any, folder: Path) -> tuple[Bundle, Any]:
    if kind == "tiny":
        bundle = tiny.tiny_bundle(folder / "tiny")
        return bundle, tiny.build_tagger(bundle, CPU, "fp32")
    bundle = labelled(small_dual(kind, folder / "plain"), folder / "labelled")
    return bundle, adapters.build_tagger(bundle, CPU, "fp32")


def published(harness: Harness, options: dict[str, dict[str, Any]], **changes: Any) -> dict[bytes, StoredOutcome]:
    for name, wanted in options.items():
        for number, colour in enumerate(COLOURS):
            event = {"event_time": "2026-01-02T03:04:05Z", "sequencer": "0A1B", "options": wanted}
            harness.give(f"{name}-{number}", colour, 0, **event)
    harness.put("s3", COLOURS[0])
    harness.send(harness.notification("s3", sequencers=["0C"]))
    harness.work(**changes)
    assert harness.dead() == []
    records = harness.broker.visible(OUT)
    return {each.key or b"": StoredOutcome(orjson.loads(each.value or b""), each.headers) for each in records}


@pytest.mark.parametrize("captioner", [False, True])
@pytest.mark.parametrize("kind", ["tiny", "siglip", "clip"])
def test_an_outcome_that_nothing_changes_is_remade_byte_for_byte(tmp_path: Path, kind: str, captioner: bool) -> None:
    bundle, tagger = taggers(kind, tmp_path)
    harness = Harness()
    harness.tagger, harness.corrections = tagger, said(PERSONS)
    harness.captioner = EchoCaptioner() if captioner else None
    harness.added = (KindRole(BrightnessKind(), BrightnessModel()),)
    rules = {"few": {"only": list(bundle.labels[:2]), "all": 0.2}, "low": {"all": 0.15}}
    options = OPTIONS if kind == "tiny" else OPTIONS | WITH_EMBEDDING
    outcomes = published(harness, options, profiles=read_profiles(tagger, rules))
    unloaded = UnloadedModel(bundle)
    writes = UnloadedModel(stored.bundle(tmp_path / "writes", EchoCaptioner.digest)) if captioner else None
    added = KindRole(BrightnessKind(), UnloadedModel(stored.bundle(tmp_path / "added", BrightnessModel.digest)))
    plain, want = None if captioner else template, ("tags", "caption")
    today = CurrentSettings(unloaded, writes, plain, read_profiles(unloaded, rules), want, (added,))
    remaker = Remaker(today, said(PERSONS), ManualClock())
    assert len(outcomes) == 1 + len(COLOURS) * len(options)
    assert any(outcome.fields["tags"] for outcome in outcomes.values())
    assert (EMBEDDING_HEADER in dict(outcomes[b"photos/plain-0"].headers)) == (kind != "tiny")
    for key, outcome in outcomes.items():
        assert remaker.remake(outcome) is SAME, key
        # A forged correction leads to the rendering of all parts.
        forged = {"added": [], "removed": ["forged"]}
        new = remaker.remake(outcome._replace(fields={**outcome.fields, "corrections": forged}))
        assert isinstance(new, New), (key, new)
        assert new.changes == ("corrections",)
        assert as_written(new, outcome) == (orjson.dumps(outcome.fields), stored_headers(outcome.headers)), key


def as_written(new: New, outcome: StoredOutcome) -> tuple[bytes, Headers]:
    """The new event and its headers; time, timings and cache hits are the old event's."""
    fields = outcome.fields
    where = Coordinates(**{name: fields["event"][name] for name in ("topic", "partition", "offset", "index")})
    document = new.document(where, fields["version"])
    untold = {name: fields[name] for name in ("produced_at", "timings_ms", "cache")}
    made = orjson.loads(document.value)
    for name, result in made.get("results", {}).items():
        result["cache"] = fields["results"][name]["cache"]
    return orjson.dumps(made | untold), document.stored


def stored_headers(headers: Headers) -> Headers:
    return tuple([each for each in headers if each[0] in STORED_HEADERS])
