"""`tagstream retag go` on real servers, with kills and a worker on the same subjects."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from schemas.correction import correction
from schemas.enriched_image import EnrichedImage
from tagstream_testing.local import tuned
from tests.support.broker import publish
from tests.support.captioned import newest
from tests.support.lying_store import LyingStore
from tests.support.slowed import WITHOUT_TORCH, slowed
from tests.support.waiting import eventually
from tests.support.worker_process import Site, WorkerProcess, photo, worker
from workers.assembly.choices import choose
from workers.backends.kafka import ensure_topics, group_watch
from workers.retag.changes import read_changes
from workers.retag.plan_file import PlanFile
from workers.retag.planned_work import group_of
from workers.types import Message

pytestmark = pytest.mark.timeout(600)

SUBJECTS = 300
SESSION_S = 4


class Command:
    def __init__(self, site: Site, folder: Path, transaction_outcomes: str = "2", **settings: str) -> None:
        self.site, self.folder, self.plan = site, folder, folder / "plan"
        self.profiles = folder / "profiles.json"
        self.profiles.write_text(json.dumps({"default": {"all": 0.01}}))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("TAGSTREAM_", "OTEL_"))},
            **site.settings("go"),
            "TAGSTREAM_STATE_DIR": str(folder / "state"),
            "TAGSTREAM_PROFILES": str(self.profiles),
            "TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S),
            tuned.VARIABLE: json.dumps({"transaction_outcomes": transaction_outcomes}),
            **settings,
        }

    def start(self, *arguments: object, program: Sequence[str] = ("-m", tuned.__name__)) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, *program, *map(str, arguments)], subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def without_torch(self, *arguments: object) -> dict[str, Any]:
        del self.environment[tuned.VARIABLE]
        return self.run(*arguments, program=WITHOUT_TORCH)

    def run(self, *arguments: object, program: Sequence[str] = ("-m", tuned.__name__)) -> dict[str, Any]:
        process = self.start(*arguments, program=program)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (out, err)
        report: dict[str, Any] = json.loads(out)
        return report

    def go(self) -> dict[str, Any]:
        return self.run("retag", "go", self.plan, "--json")

    def kill_after(self, offsets: int) -> bool:
        """Kill a run after it committed this many offsets; returns whether it lived until then."""
        wanted = self.committed() + offsets
        process = self.start("retag", "go", self.plan, "--json")
        eventually(lambda: self.committed() >= wanted or process.poll() is not None, 180)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL

    def committed(self) -> int:
        group = group_of(PlanFile.open(self.plan).digest)
        with group_watch(self.site.stack.kafka.servers, group, [self.site.enriched]) as watch:
            return sum(reach.committed or 0 for reach in watch.look().partitions.values())


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> list[str]:
    return [f"{number}.jpg" for number in range(getattr(request, "param", SUBJECTS))]


@pytest.fixture
def tagged(site: Site, keys: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    for number, key in enumerate(keys):
        site.upload(key, photo(number % 12))
    with worker(site, "first", tmp_path, **getattr(request, "param", {})) as process:
        site.send([(site.own(key), ()) for key in keys])
        process.finish(300)
    return site


def newest_is_last(site: Site, subjects: int = SUBJECTS) -> list[EnrichedImage]:
    """Check that readers by `version` and by compaction end with the same outcomes, and return these."""
    by_version, by_offset = newest(site), {each.source.key: each.version for each in site.enriched_images()}
    assert len(by_version) == subjects
    assert {key: each.version for key, each in by_version.items()} == by_offset
    return list(by_version.values())


def kill_again_and_again(command: Command, live: WorkerProcess, keys: list[str], kills: int) -> tuple[int, int]:
    """Kill the command this many times in its first half, and the worker every second time.

    Returns:
        How often the command and the worker were killed at work.
    """
    of_command = of_worker = 0
    for number in range(kills):
        command.site.send([(command.site.own(key), ()) for key in keys[::5]])
        of_command += command.kill_after(len(keys) // (2 * kills))
        if number % 2 and live.get("/readyz")[0] == 200:
            live.kill()
            live.launch()
            of_worker += 1
    return of_command, of_worker


@pytest.mark.parametrize(
    ("keys", "kills"),
    [
        pytest.param(SUBJECTS, 5, id="five", marks=pytest.mark.chaos),
        pytest.param(2_000, 20, id="twenty", marks=[pytest.mark.chaos, pytest.mark.timeout(3_000)]),
    ],
    indirect=["keys"],
)
def test_kills_of_a_go_and_of_a_live_worker_leave_each_outcome_once(
    tagged: Site, keys: list[str], kills: int, tmp_path: Path
) -> None:
    """The live worker has the new settings, as the guide says, and gets the same subjects."""
    command, subjects = Command(tagged, tmp_path), len(keys)
    plan = command.run("retag", "plan", "-o", command.plan, "--json")
    assert plan["rescored"] == subjects, plan
    with worker(tagged, "live", tmp_path, transaction_outcomes="4", TAGSTREAM_PROFILES=str(command.profiles)) as live:
        killed = kill_again_and_again(command, live, keys, kills)
        report = command.go()
        live.wait_ready()
        live.finish(300)
    assert killed[0] == kills
    assert killed[1] > 0
    assert report["finished"], report
    done = sum(report[name] for name in ("earlier", "rescored", "images", "unchanged", "left", "overtaken"))
    assert done == plan["rescored"]
    assert 0 < report["earlier"] < subjects
    last = command.go()  # the worker's later outcomes are in order now too
    assert (last["rescored"], last["images"], last["earlier"]) == (0, 0, subjects)
    again = command.go()
    assert (again["rescored"], again["images"], again["repeated"]) == (0, 0, 0)
    audit = command.run("audit", "--json")
    assert audit["proved"], audit
    assert audit["remade"] >= subjects
    assert (audit["other"], audit["unverifiable"]) == (0, {})
    assert len({each.thresholds.digest for each in newest_is_last(tagged, subjects)}) == 1
    second = command.run("retag", "plan", "-o", tmp_path / "second", "--json")
    assert (second["unchanged"], second["rescored"], second["need_image"]) == (subjects, 0, 0)


@pytest.mark.parametrize("keys", [40], indirect=True)
def test_going_makes_no_request_of_the_store_and_no_call_of_a_device(
    tagged: Site, keys: list[str], tmp_path: Path
) -> None:
    """The command never loads torch; a worker that runs meanwhile counts both."""
    command = Command(tagged, tmp_path)
    command.run("retag", "plan", "-o", command.plan, "--json")
    port = int(tagged.stack.s3.endpoint_url.rpartition(":")[2])
    with LyingStore(lambda: port) as store:
        command.environment["TAGSTREAM_S3_ENDPOINT"] = store.url
        with worker(tagged, "beside", tmp_path, TAGSTREAM_S3_ENDPOINT=store.url) as beside:

            def spent() -> tuple[int, float]:
                asked = sum(count for key, count in store.served.items() if key)
                return asked, beside.metric("tagstream_batches_total")

            before = spent()
            assert command.without_torch("retag", "go", command.plan, "--json")["rescored"] == len(keys)
            eventually(lambda: not tagged.behind(), 60, beside.said)
            assert spent() == before
            tagged.upload("new.jpg", photo(99))
            tagged.send([(tagged.own("new.jpg"), ())])
            eventually(lambda: spent()[0] > before[0] and spent()[1] > before[1], 60, beside.said)


@pytest.mark.parametrize("keys", [60], indirect=True)
def test_corrections_that_come_before_and_while_a_go_runs_stand(tagged: Site, keys: list[str], tmp_path: Path) -> None:
    topic = f"{tagged.name}.corrections"
    ensure_topics(tagged.stack.kafka.servers, {topic: (1, {})})
    command = Command(tagged, tmp_path, transaction_outcomes="1", TAGSTREAM_CORRECTIONS_TOPIC=topic)
    command.run("retag", "plan", "-o", command.plan, "--json")
    planned = [line.subject.partition("/")[2] for line in PlanFile.open(command.plan)]
    earlier, reached, coming = planned[-2], planned[0], planned[-1]

    def say(*keys: str) -> None:
        said = [correction(tagged.name, key, added=["a kite"]) for key in keys]
        publish(tagged.stack.kafka.servers, (Message(topic, each.key, each.value, ()) for each in said))

    def corrected() -> set[str]:
        return {key for key, each in newest(tagged).items() if "a kite" in [tag.name for tag in each.tags]}

    def again() -> bool:
        """Send these events again, as `correct --apply` does; returns whether the outcomes are corrected."""
        tagged.send([(tagged.own(key), ()) for key in (reached, coming)])
        return corrected() >= {reached, coming}

    say(earlier)
    settings = {"TAGSTREAM_PROFILES": str(command.profiles), "TAGSTREAM_CORRECTIONS_TOPIC": topic}
    with worker(tagged, "live", tmp_path, **settings) as live:
        before = command.committed()
        process = command.start("retag", "go", command.plan, "--json", program=slowed(0.1))
        eventually(lambda: command.committed() > before, 90)
        say(reached, coming)
        assert process.poll() is None, "it has ended before anything was said"
        eventually(again, 90, live.said)
        out, err = process.communicate(timeout=180)
        assert (process.returncode, json.loads(out)["finished"]) == (0, True), err
        live.finish()
    assert command.go()["finished"]
    assert corrected() == {earlier, reached, coming}
    newest_is_last(tagged, len(keys))
    assert command.run("audit", "--json")["proved"]


@pytest.mark.parametrize("keys", [60], indirect=True)
def test_a_killed_go_of_accepted_images_goes_on_with_more_and_publishes_none_twice(
    tagged: Site, keys: list[str], tmp_path: Path
) -> None:
    command, path = Command(tagged, tmp_path), tmp_path / "choices"
    command.run("retag", "plan", "-o", command.plan, "--changes", tmp_path / "changes", "--json")
    head, lines = read_changes(tmp_path / "changes")
    changed = [each.subject for each in lines]
    only = ("retag", "go", command.plan, "--only", path, "--json")
    choose(path, head.name, dict.fromkeys(changed[:30], "accepted"))
    process = command.start(*only, program=slowed(0.1))
    eventually(lambda: len(tagged.enriched_images()) > len(keys) + 4 or process.poll() is not None, 120)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    choose(path, head.name, dict.fromkeys(changed[25:40], "accepted"))
    report = command.run(*only)
    assert (report["planned"], report["earlier"] + report["rescored"], report["finished"]) == (40, 40, True)
    assert report["earlier"] > 4
    last = newest_is_last(tagged, len(keys))
    assert len(tagged.enriched_images()) == len(keys) + 40
    digests = Counter(each.thresholds.digest for each in last)
    assert sorted(digests.values()) == [20, 40]
    assert command.run("audit", "--json")["proved"]


@pytest.mark.parametrize(("tagged", "keys"), [({"TAGSTREAM_KEEP_SCORES": "off"}, 150)], indirect=True)
def test_ctrl_c_and_sigterm_leave_a_clean_state_and_images_are_requested_once(
    tagged: Site, keys: list[str], tmp_path: Path
) -> None:
    command = Command(tagged, tmp_path)
    plan = command.run("retag", "plan", "-o", command.plan, "--json")
    assert plan["need_image"] == len(keys), plan

    def stopped(stop: Callable[[subprocess.Popen[str]], object]) -> dict[str, Any]:
        before = command.committed()
        process = command.start("retag", "go", command.plan, "--json", "--rate", 5)
        eventually(lambda: command.committed() > before or process.poll() is not None, 60)
        stop(process)
        out, err = process.communicate(timeout=150)
        assert process.returncode == 0, err
        report: dict[str, Any] = json.loads(out)
        assert not report["finished"]
        return report

    first = stopped(lambda process: process.send_signal(signal.SIGINT))
    second = stopped(lambda process: process.send_signal(signal.SIGTERM))
    assert 0 < first["images"] <= second["earlier"] < len(keys)
    last = command.go()
    assert (last["finished"], last["earlier"] + last["images"]) == (True, len(keys))

    def answered() -> set[str]:
        return {each.event.id for each in tagged.enriched_images() if each.event.id.startswith("retag:")}

    with worker(tagged, "again", tmp_path) as process:
        eventually(lambda: len(answered()) == len(keys), 120, process.said)
        assert process.terminate() == 0
    audit = command.run("audit", "--json")
    assert audit["proved"], audit
    assert audit["in_flight"] == 0, "the ends of transactions are no records"
    newest_is_last(tagged, len(keys))


def refused(command: Command, *arguments: object) -> str:
    process = command.start(*arguments)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 2, err
    return " ".join(err.split())


@pytest.mark.parametrize(("tagged", "keys"), [({"TAGSTREAM_KEEP_SCORES": "off"}, 40)], indirect=True)
def test_a_plan_that_does_not_fit_is_refused_with_the_reason(tagged: Site, tmp_path: Path) -> None:
    command = Command(tagged, tmp_path)
    command.run("retag", "plan", "-o", command.plan, "--json")
    running = command.start("retag", "go", command.plan, "--json", "--rate", 1)
    before = command.committed()
    eventually(lambda: command.committed() > before, 60)
    assert "another process" in refused(command, "retag", "go", command.plan)
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=150)
    assert not json.loads(out)["finished"]
    profiles = tmp_path / "profiles.json"
    planned_with = profiles.read_text()
    profiles.write_text(json.dumps({"default": {"all": 0.02}}))
    assert "profile default was" in refused(command, "retag", "go", command.plan)
    profiles.write_text(planned_with)
    whole = command.plan.read_bytes()
    lines = whole.splitlines(keepends=True)
    command.plan.write_bytes(b"".join([*lines[:4], lines[4].replace(b'"version":1', b'"version":2'), *lines[5:]]))
    assert "line 5" in refused(command, "retag", "go", command.plan)
    command.plan.write_bytes(whole)
    admin = AdminClient({"bootstrap.servers": tagged.stack.kafka.servers})
    admin.delete_topics([tagged.enriched])[tagged.enriched].result(30)
    eventually(lambda: tagged.enriched not in admin.list_topics(timeout=10).topics, 30)
    ensure_topics(tagged.stack.kafka.servers, {tagged.enriched: (3, {})})
    assert "made anew" in refused(command, "retag", "go", command.plan)
