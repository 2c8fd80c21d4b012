"""`tagstream retag plan` on a real broker."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.correction import correction
from schemas.enriched_image import EventRef, GoneSource, Retraction
from tagstream_testing.local.apache_kafka import ApacheKafka
from tests.support.broker import publish
from tests.support.slowed import WITHOUT_TORCH
from tests.unit.models.tiny import tiny_bundle
from tests.unit.retag.stored import outcome
from workers.assembly.choices import Choice, choose
from workers.assembly.retagging import current_settings
from workers.backends.kafka import describe_topics, ensure_topics, tail
from workers.environment import read
from workers.errors import MISCONFIGURED
from workers.retag.changes import read_changes
from workers.retag.plan_file import PlanFile
from workers.types import Message

SCORES = {"red": 0.9, "green": 0.65, "blue": 0.4}
V = 1_700_000_000_000_000


class Site:
    """A topic of outcomes by a tiny tagger, and the environment that names both."""

    def __init__(self, kafka: ApacheKafka, topic: str, folder: Path, *, policy: str) -> None:
        self.topic, self.folder = topic, folder
        self.servers = kafka.servers
        ensure_topics(kafka.servers, {topic: (3, {"cleanup.policy": policy}), f"{topic}.corrections": (1, {})})
        ensure_topics(kafka.servers, {f"{topic}.events": (1, {})})
        self.environment = {
            "TAGSTREAM_KAFKA_SERVERS": kafka.servers,
            "TAGSTREAM_INPUT_TOPICS": f"{topic}.images,{topic}.events:background",
            "TAGSTREAM_OUTPUT_TOPIC": topic,
            "TAGSTREAM_TAGGER": str(tiny_bundle(folder / "tiny").folder),
            "TAGSTREAM_STATE_DIR": str(folder / "state"),
        }
        self.then = current_settings(read(self.environment))

    def send(self, *messages: Message) -> None:
        publish(self.servers, messages)

    def outcome(self, key: str, version: int = V, **more: Any) -> Message:
        scores = more.pop("scores", SCORES)
        document, headers = outcome(self.then, scores, key=key, floor=0.1, **more)
        document["version"] = version
        return Message(self.topic, document["subject"].encode(), orjson.dumps(document), headers)

    def retraction(self, key: str, version: int, version_id: str | None = None) -> Message:
        gone = Retraction(
            subject=f"photos/{key}",
            version=version,
            scope="object" if version_id is None else "version",
            event=EventRef(id="e", topic="images", partition=0, offset=0, index=0),
            source=GoneSource(bucket="photos", key=key, version_id=version_id),
            produced_at="2026-01-01T00:00:00Z",
        )
        return Message(self.topic, gone.message_key, gone.to_bytes(), ())

    def lowered(self, threshold: float) -> dict[str, str]:
        path = self.folder / "profiles.json"
        path.write_text(json.dumps({"default": {"all": threshold}}))
        return self.environment | {"TAGSTREAM_PROFILES": str(path)}

    def retag(self, environment: dict[str, str], *more: object) -> tuple[dict[str, Any], str]:
        done = self._run(environment, "plan", "-o", self.folder / "plan", *more)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report, done.stderr

    def go(self, environment: dict[str, str], *more: object) -> dict[str, Any] | str:
        """The report, or why it is refused."""
        done = self._run(environment, "go", self.folder / "plan", *more)
        if done.returncode == MISCONFIGURED:
            return " ".join(done.stderr.split())
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def _run(self, environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *WITHOUT_TORCH, "retag", *map(str, arguments), "--json"],
            env={"PATH": "", "HOME": str(Path.home()), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def published(self) -> list[tuple[str, int]]:
        """Key and version of all outcomes that a run has published."""
        with tail(self.servers, [self.topic], start="beginning", follow=False) as reading:
            found = [orjson.loads(record.value or b"{}") for record in reading]
        return sorted((each["source"]["key"], each["version"]) for each in found if each["version"] == V + 1)


@pytest.fixture
def site(kafka: ApacheKafka, unique: Callable[[str], str], tmp_path: Path) -> Site:
    return Site(kafka, unique("enriched"), tmp_path, policy="compact")


def test_a_run_asks_for_images_in_the_background_topic(site: Site) -> None:
    site.send(site.outcome("bare.png", stored=False))
    environment = site.lowered(0.3)
    site.retag(environment)
    assert "that is the topic of the outcomes" in site.go(environment, "--events-to", site.topic)
    report = site.go(environment)
    assert isinstance(report, dict)
    assert report["images"] == 1
    with tail(site.servers, [f"{site.topic}.events"], start="beginning", follow=False) as reading:
        assert [record.key for record in reading] == [b"photos/bare.png"]


def test_a_plan_counts_the_changes_of_a_lowered_threshold_and_loads_no_torch(site: Site) -> None:
    few = {"red": 0.9, "grey ": 0.2}
    site.send(
        *(site.outcome(f"{number}.png") for number in range(20)),
        *(site.outcome(f"few/{number}.png", scores=few) for number in range(10)),
        *(site.outcome(f"bare/{number}.png", stored=False) for number in range(5)),
        *(site.outcome(f"strict/{number}.png", profile="strict") for number in range(3)),
    )
    report, _ = site.retag(site.lowered(0.3))
    assert (report["records"], report["subjects"], report["unchanged"], report["stay"]) == (38, 38, 13, 0)
    assert (report["rescored"], report["changes"]) == (20, {"caption": 20, "tags": 20})
    assert (report["need_image"], report["need_image_by_reason"]) == (5, {"no-scores": 5})
    assert (report["compacted"], report["fetch_bytes"]) == (True, 5000)
    plan = PlanFile.open(site.folder / "plan")
    assert len(list(plan)) == 25
    assert {each.subject for each in plan if each.verdict == "image"} == {f"photos/bare/{n}.png" for n in range(5)}
    assert plan.digest == report["digest"]
    state = describe_topics(site.servers, {site.topic: []})[site.topic]
    assert (plan.head.topic_id, sum(plan.head.ends.values())) == (state.id, 38)
    assert len(state.id) == 32
    unchanged, _ = site.retag(site.environment)
    assert (unchanged["unchanged"], unchanged["rescored"], unchanged["need_image"]) == (38, 0, 0)


def test_retracted_images_are_in_no_plan(site: Site) -> None:
    gone_version = site.outcome("versioned.png")
    document = orjson.loads(gone_version.value or b"")
    document["source"]["version_id"] = "v1"
    site.send(
        *(site.outcome(f"{name}.png") for name in ("stays", "retracted", "stone", "late", "again")),
        Message(site.topic, gone_version.key, orjson.dumps(document), gone_version.headers),
        site.retraction("versioned.png", V + 1, "v1"),
        site.retraction("stays.png", V + 1, "v7"),
        site.retraction("retracted.png", V + 1),
        Message(site.topic, b"photos/stone.png", None, ()),
        site.retraction("late.png", V - 5),
        site.retraction("again.png", V + 1),
        site.outcome("again.png", V + 2),
        Message(site.topic, b"foreign", b"hello", ()),
        Message(site.topic, b"foreign", b'{"schema":"enriched-image/1","models":3}', ()),
    )
    report, told = site.retag(site.lowered(0.3))
    assert (report["rescored"], report["gone"], report["foreign"]) == (3, 3, 2)
    planned = {each.subject.removeprefix("photos/") for each in PlanFile.open(site.folder / "plan")}
    assert planned == {"stays.png", "late.png", "again.png"}
    assert site.topic in told


def test_a_topic_that_keeps_all_outcomes_is_planned_by_the_newest_with_a_notice(
    kafka: ApacheKafka, unique: Callable[[str], str], tmp_path: Path
) -> None:
    site = Site(kafka, unique("enriched"), tmp_path, policy="delete")
    site.send(*(site.outcome(f"{number}.png", V + age) for age in (2, 0, 1) for number in range(10)))
    report, _ = site.retag(site.lowered(0.3))
    assert (report["compacted"], report["records"], report["subjects"], report["rescored"]) == (False, 30, 10, 10)
    assert {each.version for each in PlanFile.open(tmp_path / "plan")} == {V + 2}


def test_what_people_said_since_is_planned_and_shown_among_the_changes(site: Site) -> None:
    words = correction("photos", "1.png", added=["a kite"], removed=["red"])
    site.send(
        *(site.outcome(f"{number}.png") for number in range(3)),
        Message(f"{site.topic}.corrections", words.key, words.value, ()),
    )
    environment = site.environment | {"TAGSTREAM_CORRECTIONS_TOPIC": f"{site.topic}.corrections"}
    report, _ = site.retag(environment, "--changes", site.folder / "changes")
    assert report["changes"] == {"caption": 1, "corrections": 1, "tags": 1}
    head, changed = read_changes(site.folder / "changes")
    (one,) = changed
    assert (head.before, head.images, head.unknown) == (site.topic, 3, 0)
    assert (one.subject, one.lost, one.gained) == ("photos/1.png", ["red"], ["a kite"])
    assert one.captions is not None


def test_only_accepted_images_are_republished_and_those_accepted_later_too(site: Site) -> None:
    site.send(*(site.outcome(f"{n}.png") for n in range(8)), site.outcome("bare.png", stored=False))
    environment, path = site.lowered(0.3), site.folder / "choices"
    plan, _ = site.retag(environment, "--changes", site.folder / "changes")
    head, _ = read_changes(site.folder / "changes")
    assert head.name == plan["digest"]
    accepted: dict[str, Choice] = {f"photos/{key}.png": "accepted" for key in (0, 1, 2, "bare", "unknown")}
    choose(path, head.name, {**accepted, "photos/3.png": "rejected"})
    dry = site.go(environment, "--only", path, "--dry-run")
    assert isinstance(dry, dict)
    assert [dry["choices"][name] for name in ("accepted", "rejected", "undecided")] == [3, 1, 5]
    assert (dry["choices"]["precision"]["share"], dry["planned"], site.published()) == (0.75, 3, [])
    first = site.go(environment, "--only", path)
    assert isinstance(first, dict)
    assert (first["planned"], first["rescored"], first["images"], first["finished"]) == (3, 3, 0, True)
    site.send(site.outcome("5.png", V + 100))
    choose(path, head.name, {"photos/4.png": "accepted", "photos/5.png": "accepted"})
    second = site.go(environment, "--only", path)
    assert isinstance(second, dict)
    assert [second[name] for name in ("planned", "earlier", "overtaken", "rescored")] == [5, 3, 1, 1]
    assert site.published() == [(f"{n}.png", V + 1) for n in (0, 1, 2, 4)], "a newer content is not touched"
    assert "--only" in site.go(environment), "the whole plan would publish them again"
    path.unlink()
    choose(path, "f" * 64, accepted)
    assert "another plan" in site.go(environment, "--only", path)
    assert len(site.published()) == 4
