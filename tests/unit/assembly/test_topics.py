"""`tagstream topics` creates missing topics, changes nothing, and names each difference with its remedy."""

import json
import shlex

import pytest

from tests.fixtures import Stack, Unique
from tests.support.command import Tagstream
from workers.assembly.topics import Deviation, WantedTopic, deviations, wanted_topics
from workers.backends.kafka import TopicState, describe_topics, ensure_topics
from workers.settings import Settings

ROLES = {
    "INPUT_TOPICS": "images",
    "OUTPUT_TOPIC": "enriched",
    "DEAD_LETTER_TOPIC": "dead",
    "SKIPPED_TOPIC": "skipped",
    "CORRECTIONS_TOPIC": "corrections",
}

SOUND: dict[str, dict[str, str]] = {
    "images": {"compression.type": "producer"},
    "images.enriched": {"cleanup.policy": "compact"},
    "images.dead-letters": {"cleanup.policy": "delete", "retention.ms": "-1", "compression.type": "zstd"},
    "skips": {"cleanup.policy": "delete"},
    "said": {"cleanup.policy": "delete", "retention.ms": "-1"},
}


@pytest.fixture
def wanted() -> list[WantedTopic]:
    return wanted_topics(Settings(skipped_topic="skips", corrections_topic="said"))


def found(**changed: dict[str, str]) -> dict[str, TopicState]:
    return {
        name: TopicState(12, 3, settings | {"min.insync.replicas": "2"} | changed.get(name.rpartition(".")[2], {}))
        for name, settings in SOUND.items()
    }


def differing(
    wanted: list[WantedTopic], state: dict[str, TopicState], partitions: int | None = None
) -> list[Deviation]:
    return list(deviations(wanted, state, servers="kafka:9092", replication=3, partitions=partitions))


def test_new_topics_have_no_deviation(wanted: list[WantedTopic]) -> None:
    made = {topic.name: TopicState(topic.partitions(12), 3, topic.settings(3)) for topic in wanted}
    assert {name: dict(state.settings) for name, state in made.items()} == {
        name: settings | {"min.insync.replicas": "2"} for name, settings in SOUND.items()
    }
    assert differing(wanted, made, 12) == []


@pytest.mark.parametrize(
    ("topic", "name", "value"),
    [
        ("images", "compression.type", "zstd"),
        ("images", "min.insync.replicas", "1"),
        ("dead-letters", "cleanup.policy", "compact"),
        ("dead-letters", "retention.ms", "604800000"),
        ("dead-letters", "compression.type", "producer"),
        ("skips", "cleanup.policy", "compact,delete"),
        ("said", "cleanup.policy", "compact"),
        ("said", "retention.ms", "604800000"),
    ],
)
def test_a_setting_that_loses_something_is_named_with_the_command_that_corrects_it(
    wanted: list[WantedTopic], topic: str, name: str, value: str
) -> None:
    state = found(**{topic: {name: value}})
    [deviation] = differing(wanted, state)
    right = dict(next(each for each in wanted if each.name == deviation.topic).settings(3))[name]
    assert f"has {name}={value}: " in deviation.says
    assert deviation.command == (
        "kafka-configs.sh --bootstrap-server kafka:9092 --alter --entity-type topics "
        f"--entity-name {deviation.topic} --add-config {name}={right}"
    )


def test_readers_choose_what_becomes_of_old_results(wanted: list[WantedTopic]) -> None:
    assert differing(wanted, found(enriched={"cleanup.policy": "delete"})) == []


def test_a_setting_that_we_may_not_read_is_no_deviation(wanted: list[WantedTopic]) -> None:
    assert differing(wanted, {name: TopicState(12, 3, {}) for name in SOUND}) == []


def test_partitions_and_copies_are_compared(wanted: list[WantedTopic]) -> None:
    state = found() | {"images": TopicState(4, 1, {})}
    few, single = differing(wanted, state, 12)
    assert few.says.startswith("has 4 partitions and should have 12")
    assert few.command.endswith("--alter --topic images --partitions 12")
    assert single.says.startswith("has 1 copy of a partition and should have 3")


def test_a_command_that_is_pasted_runs_nothing_else(wanted: list[WantedTopic]) -> None:
    servers = "kafka:9092; touch owned"
    [deviation] = deviations(
        wanted, found(images={"compression.type": "gzip"}), servers=servers, replication=1, partitions=None
    )
    assert shlex.split(deviation.command)[2] == servers


def test_one_topic_for_two_roles_is_made_once() -> None:
    both = wanted_topics(Settings(output_topic="out", dead_letter_topic="out"))
    assert [(topic.name, topic.role) for topic in both] == [("images", "input"), ("out", "output")]


@pytest.fixture
def named(stack: Stack, unique: Unique, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names of topics that do not exist yet, by purpose; the environment names them too."""
    name = unique("topics")
    monkeypatch.setenv("TAGSTREAM_KAFKA_SERVERS", stack.kafka.servers)
    topics = {role: f"{name}.{short}" for role, short in ROLES.items()}
    for role, topic in topics.items():
        monkeypatch.setenv(f"TAGSTREAM_{role}", topic)
    return topics


def test_topics_are_created_once_and_differences_are_found(
    named: dict[str, str], stack: Stack, tagstream: Tagstream
) -> None:
    servers = stack.kafka.servers
    own = {"compression.type": "gzip", "retention.ms": "1000"}
    ensure_topics(servers, {named["INPUT_TOPICS"]: (2, own)})

    before = tagstream("topics", "check")
    assert before.code == 1
    assert f"✗ {named['DEAD_LETTER_TOPIC']} does not exist\n  tagstream topics create" in before.out

    made = json.loads(tagstream("topics", "create", "--partitions", 3, "--json").out)["topics"]
    assert {row["topic"]: (row["made"], row["partitions"], row["replication"]) for row in made} == {
        named["INPUT_TOPICS"]: (False, 2, 1),
        named["OUTPUT_TOPIC"]: (True, 3, 1),
        named["DEAD_LETTER_TOPIC"]: (True, 1, 1),
        named["SKIPPED_TOPIC"]: (True, 1, 1),
        named["CORRECTIONS_TOPIC"]: (True, 1, 1),
    }
    said = tagstream("topics", "create", "--partitions", 5).notes
    added = f"kafka-topics.sh --bootstrap-server {servers} --alter --topic"
    for topic, has in ((named["INPUT_TOPICS"], 2), (named["OUTPUT_TOPIC"], 3)):
        assert f"{topic} was there: it has {has} partitions and should have 5" in said
        assert f"  {added} {topic} --partitions 5\n" in said
    fewer = tagstream("topics", "create", "--partitions", 2)
    assert "was there: it has 3 partitions, not 2; Kafka takes none away" in fewer.err
    assert named["INPUT_TOPICS"] not in fewer.err
    assert tagstream("topics", "create").err == ""

    [state] = describe_topics(servers, {named["INPUT_TOPICS"]: list(own)}).values()
    assert (state.partitions, state.replication, state.settings) == (2, 1, own)
    [dead] = describe_topics(servers, {named["DEAD_LETTER_TOPIC"]: ["cleanup.policy", "retention.ms"]}).values()
    assert dead.settings == {"cleanup.policy": "delete", "retention.ms": "-1"}

    checked = tagstream("topics", "check", "--json")
    assert checked.code == 1
    [deviation] = json.loads(checked.out)["deviations"]
    assert deviation["topic"] == named["INPUT_TOPICS"]
    assert deviation["command"].endswith("--add-config compression.type=producer")


def test_more_copies_than_brokers_are_refused_in_a_sentence(named: dict[str, str], tagstream: Tagstream) -> None:
    [line] = tagstream("topics", "create", "--replication", 3).fails().splitlines()
    assert line.startswith("Kafka refuses creating the topic 'topics-")
    assert "replication factor" in line
    assert "CreateTopicsRequest" not in line
