"""Metrics, commands, dashboards and documentation call the kinds of outcomes by one list of names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

from schemas.dead_letter import Failure, dead_letter_headers
from tagstream_testing.local.demo_watch import _OUTCOMES
from tests.support.measured import measuring
from tests.unit.schemas.documents import enriched, retraction, skip
from workers import metrics
from workers.cli.outcomes import KINDS, Outcome
from workers.cli.tail import tail
from workers.pipeline.commit import after_commit
from workers.types import OUTCOME_KINDS, Headers, ReadRecord

ROOT = Path(__file__).parents[2]
HEADERS = dead_letter_headers(
    topic="images",
    partition=0,
    offset=4,
    timestamp_ms=0,
    attempts=1,
    worker="0",
    models={},
    failures=[Failure(index=0, stage="parse", reason="undecodable", detail="")],
)


def published(value: bytes | None, headers: Headers = ()) -> Outcome:
    return Outcome.of(ReadRecord("out", 0, 0, 0, b"k", value, headers))


def texts(*patterns: str) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_the_metric_begins_with_every_kind_and_names_them() -> None:
    with measuring(metrics.OUTCOMES, metrics.DEAD_LETTERS, metrics.SKIPS) as measured:
        after_commit._begin()
        assert measured.by("kind", metrics.OUTCOMES) == dict.fromkeys(OUTCOME_KINDS, 0)
    [metric] = [each for each in metrics.ALL if each.name == "tagstream_outcomes"]
    assert ", ".join(OUTCOME_KINDS) in metric.meaning


def test_tail_calls_each_outcome_by_its_kind() -> None:
    partial = enriched(status="partial", reason="caption-failed", caption=None)
    outcomes = [published(each.to_bytes()) for each in (enriched(), partial, retraction(), skip())]
    outcomes += [published(b"", HEADERS), published(None), published(b"{}")]
    assert [outcome.kind for outcome in outcomes] == [*OUTCOME_KINDS, "tombstone", "unknown"] == list(KINDS)
    assert [outcome._shown(None).what for outcome in outcomes] == list(KINDS)


def test_the_help_of_tail_names_every_kind() -> None:
    [option] = get_type_hints(tail, include_extras=True)["kinds"].__metadata__
    assert set(re.findall(r"[a-z-]+", option.help)) >= set(KINDS)


def test_the_demo_calls_them_so_too() -> None:
    assert set(_OUTCOMES.values()) == set(OUTCOME_KINDS) - {"partial"}


def test_dashboards_alerts_and_pages_name_no_other_kind() -> None:
    of_the_metric = re.compile(r'tagstream_outcomes_total\{[^}]*kind=~?\\?"([^"\\]+)')
    of_the_option = re.compile(r"--kind[ =]([a-z-]+)")
    found = {
        (where, kind)
        for where, text in texts("deploy/**/*.yaml", "deploy/**/*.json", "docs/**/*.md", "README.md", "workers/**/*.py")
        for kinds in (*of_the_metric.findall(text), *of_the_option.findall(text))
        for kind in kinds.split("|")
    }
    assert len(found) > 5
    assert {(where, kind) for where, kind in found if kind not in KINDS} == set()


def test_the_glossary_defines_each() -> None:
    page = (ROOT / "docs/reference/glossary.md").read_text(encoding="utf-8")
    [row] = re.findall(r"^\| outcome \|.*$", page, re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", row)) == set(OUTCOME_KINDS)
