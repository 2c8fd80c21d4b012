"""`tagstream status`: the lag of the group, its age and its end."""

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from kafka import KafkaProducer

from tests.fixtures import Stack, Unique
from tests.support.broker import publish
from tests.support.command import Tagstream
from tests.support.waiting import eventually
from workers.assembly.group_status import Look, Observer, Snapshot, pace, snapshots, start_of
from workers.backends.kafka import Extent, GroupState, GroupWatch, KafkaRecordSource, Reach, ensure_topics
from workers.backends.kafka.topics import GroupMember
from workers.cli import terminal
from workers.cli.status import document, page
from workers.cli.terminal import duration
from workers.settings import InputTopic, Settings
from workers.types import Message, Partition

pytestmark = pytest.mark.timeout(180)

FIRST, SECOND, NEW = (Partition("images", number) for number in range(3))
DEAD = Partition("dead", 0)


def look(at: float, **reaches: tuple[int, int]) -> Look:
    """At that time, with the committed offset and the end of some partitions."""
    places = {"first": FIRST, "second": SECOND, "new": NEW}
    partitions = {places[name]: Reach(0, committed, end) for name, (committed, end) in reaches.items()}
    starts = {place: reach.committed or 0 for place, reach in partitions.items()}
    return Look(at, GroupState("stable", (), partitions), starts, {}, {DEAD: Extent(2, 5 + int(at))})


def test_the_pace_comes_from_commits_and_arrivals_between_two_samples() -> None:
    before, after = look(10, first=(100, 500), second=(0, 50)), look(14, first=(180, 500), second=(20, 70))
    assert pace(before, after) == (25, 5, 1)


def test_a_days_tokens_for_captions_are_shown_beside_their_limit(tmp_path: Path) -> None:
    settings = Settings(
        captioner="https://vlm/v1", caption_tokens_per_day=90, state_dir=tmp_path, kafka_servers=("127.0.0.1:9",)
    )
    without = Snapshot(look(0, first=(100, 500)), 0, 0, 0)
    assert document(settings, without)["caption_tokens"] is None
    told = document(settings, replace(without, look=replace(without.look, tokens=12_345)))
    assert told["caption_tokens"] == {"spent": 12_345, "per_day": 90}
    spent = Observer(settings, cast(GroupWatch, None)).with_ages(look(0, first=(5, 5)))
    assert spent.tokens == 0, "of the state folder, where there is no Redis"


def printed(seen: Snapshot, settings: Settings) -> str:
    console = terminal.console()
    with console.capture() as shown:
        console.print(page(settings, seen))
    return shown.get()


def test_each_lane_has_its_own_lag_age_pace_and_end() -> None:
    old = Partition("old", 0)

    def moment(at: float, live: int, background: int) -> Look:
        reaches = {FIRST: Reach(0, live, 100 + live), old: Reach(0, background, 1_000)}
        starts = {place: reach.committed or 0 for place, reach in reaches.items()}
        return Look(at, GroupState("stable", (), reaches), starts, {FIRST: 2.0, old: 7_200.0}, {})

    class Two(Looks):
        _moments = iter((moment(0, 0, 0), moment(10, 1_000, 500)))

        def group(self) -> Look:
            return next(self._moments)

    settings = Settings(input_topics=(InputTopic("images"), InputTopic("old", background=True)))
    [seen] = snapshots(Two(), 0, watch=False, background=settings.background_topics)  # type: ignore[arg-type]
    told = document(settings, seen)
    assert told["lanes"] == {
        "live": {"lag": 100, "lag_s": 2, "rate": 100, "arriving": 100, "eta_s": None},
        "background": {"lag": 500, "lag_s": 7_200, "rate": 50, "arriving": 0, "eta_s": 10},
    }
    assert (told["lag"], told["rate"], [each["lane"] for each in told["partitions"]]) == (600, 150, [*told["lanes"]])
    assert re.search(r"^background +500 +2.0 h +50.0/s +0.0/s +done in 10 s", printed(seen, settings), re.MULTILINE)


class Looks:
    """An observer of a group that commits ever faster."""

    def __init__(self) -> None:
        self._looks = (look(second, first=(second**2, 1_000)) for second in itertools.count())

    def group(self) -> Look:
        return next(self._looks)

    def with_ages(self, look: Look) -> Look:
        return look


def test_with_watch_the_pace_covers_the_last_sixteen_samples() -> None:
    seen = [each.rate for each in itertools.islice(snapshots(Looks(), 0, watch=True), 30)]  # type: ignore[arg-type]
    assert seen[:3] == [1, 2, 3], "from the first look on"
    assert seen[-1] == 15 + 30, "of looks 15 to 30"


def test_a_partition_that_is_new_and_a_group_that_was_set_back_make_no_pace() -> None:
    assert pace(look(0, first=(100, 100)), look(1, first=(40, 100), new=(900, 1_000)))[:2] == (0, 0)


@pytest.mark.parametrize(("rate", "arriving", "eta_s"), [(30, 10, 20), (10, 10, None), (0, 0, None)])
def test_the_end_is_estimated_if_more_is_done_than_comes_in(rate: float, arriving: float, eta_s: float | None) -> None:
    assert Snapshot(look(0, first=(100, 500)), rate, arriving, 0).eta_s == eta_s


def test_a_group_that_waits_for_nothing_is_done() -> None:
    assert Snapshot(look(0, first=(500, 500)), 0, 0, 0).eta_s == 0


@pytest.mark.parametrize(
    ("reach", "reset", "start"),
    [
        (Reach(5, 7, 9), "earliest", 7),
        (Reach(5, 2, 9), "earliest", 5),
        (Reach(5, None, 9), "earliest", 5),
        (Reach(5, None, 9), "latest", 9),
    ],
)
def test_what_waits_begins_where_a_worker_would_begin(reach: Reach, reset: str, start: int) -> None:
    assert start_of(reach, reset) == start


def test_events_deleted_unread_are_reported() -> None:
    group = GroupState("empty", (), {FIRST: Reach(50, 20, 60), SECOND: Reach(50, None, 60)})
    seen = Snapshot(Look(0, group, {FIRST: 50, SECOND: 50}, {}, {}), 0, 0, 0)
    partitions = document(Settings(), seen)["partitions"]
    assert [(each["lag"], each["deleted_unread"]) for each in partitions] == [(10, 30), (10, 0)]


def test_times_are_shown_in_units_for_people() -> None:
    assert [duration(seconds) for seconds in (0, 89, 200, 7_200, 400_000)] == ["0 s", "89 s", "3 min", "2.0 h", "5 d"]


@pytest.fixture
def images(stack: Stack, unique: Unique, monkeypatch: pytest.MonkeyPatch) -> str:
    """The input topic, named by the environment beside a group of the same name."""
    images = unique("status")
    ensure_topics(stack.kafka.servers, {images: (2, {}), f"{images}.dead": (1, {})})
    for variable, value in {
        "KAFKA_SERVERS": stack.kafka.servers,
        "GROUP": images,
        "INPUT_TOPICS": images,
        "DEAD_LETTER_TOPIC": f"{images}.dead",
    }.items():
        monkeypatch.setenv(f"TAGSTREAM_{variable}", value)
    return images


@contextmanager
def member(servers: str, topic: str) -> Iterator[KafkaRecordSource]:
    """The only member of the topic's group, with both partitions in its hands."""
    with closing(KafkaRecordSource(servers, topic, [topic])) as source:
        started: list[Partition] = []

        def joined() -> bool:
            started.extend(assignment.partition for assignment in source.poll(0.2).started)
            return len(started) == 2

        eventually(joined, 60)
        yield source


def test_members_lag_and_age_of_a_real_group(images: str, stack: Stack, tagstream: Tagstream) -> None:
    servers = stack.kafka.servers
    hour_ago = int((time.time() - 3_600) * 1000)
    with closing(KafkaProducer(bootstrap_servers=servers, transactional_id=images)) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for _ in range(5):
            producer.send(images, b"value", partition=0, timestamp_ms=hour_ago)
        producer.send(f"{images}.dead", b"value")
        producer.commit_transaction()
        producer.begin_transaction()
        producer.send(images, b"value", partition=1).get(30)
        producer.abort_transaction()
    before = json.loads(tagstream("status", "--json", "--interval", "0.5").out)
    assert (before["state"], before["members"], before["lag"]) == ("dead", [], 6 + 2)  # markers count too

    with member(servers, images) as source:
        source.commit({Partition(images, 0): 2}, 20)
        ran = tagstream("status", "--interval", "0.5")
        told = json.loads(tagstream("status", "--json", "--interval", "0.5").out)
    assert ran.out.startswith(f"{images}: stable, 1 member · 6 waiting · ")

    [only] = told["members"]
    assert (only["host"], only["partitions"]) == ("127.0.0.1", [f"{images}:0", f"{images}:1"])
    first, second = told["partitions"]
    assert (first["committed"], first["end"], first["lag"]) == (2, 6, 4)
    assert 3_600 <= first["lag_s"] < 3_600 + 170
    assert (second["committed"], second["lag"]) == (None, 2)
    assert second["lag_s"] is None  # only an aborted record and its marker
    assert told["lag_s"] == first["lag_s"]
    assert told["dead_letters"] == {"topic": f"{images}.dead", "at_most": 2, "rate": 0}
    assert f"at most 2 dead letters in {images}.dead, 0.0/s more" in ran.out


def test_it_watches_until_it_is_interrupted(images: str, stack: Stack) -> None:
    command = [sys.executable, "-m", "workers", "status", "--watch", "--json", "--interval", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["lag"] == 0
        publish(stack.kafka.servers, [Message(images, b"key", b"value", ())])
        for line in watching.stdout:
            told = json.loads(line)
            if told["lag"] == 1:
                break
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        assert watching.wait(60) == 130


def test_a_missing_topic_is_named(images: str, tagstream: Tagstream) -> None:
    said = tagstream("status", INPUT_TOPICS=f"{images}.nowhere").fails()
    assert said.startswith(f"the topic '{images}.nowhere' does not exist")


def test_what_members_say_of_themselves_steers_no_terminal() -> None:
    group = GroupState("stable", (GroupMember("id\x1b[2J", "host[bold]", (FIRST,)),), {})
    seen = Snapshot(Look(0, group, {}, {}, {}), 0, 0, 0)
    assert "\x1b" not in printed(seen, Settings())
    assert "host[bold]" in printed(seen, Settings())


@pytest.mark.parametrize(("hosts", "told"), [("aab", "3 members on 2 hosts ·"), ("abc", "3 members ·")])
def test_members_of_one_host_are_told_as_such(hosts: str, told: str) -> None:
    members = tuple(GroupMember(f"m{number}", host, ()) for number, host in enumerate(hosts))
    seen = Snapshot(Look(0, GroupState("stable", members, {}), {}, {}, {}), 0, 0, 0)
    assert f"stable, {told}" in printed(seen, Settings())
