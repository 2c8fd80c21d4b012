"""`examples/index/opensearch` as OpenSearch's own classes read it.

No server runs: its plugin for Kafka is not on Maven Central.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.tests.support import Said, enriched, retraction
from tagstream_testing.local import programs
from tagstream_testing.local.apache_kafka import QUICK_START
from tests.sinks.jars import class_path

pytestmark = [pytest.mark.sinks, pytest.mark.timeout(300)]

INDEX = Path(__file__).parents[2] / "examples" / "index" / "opensearch" / "index.json"
CHECK = Path(__file__).with_name("check_index.groovy")


def checked(index: Path, *messages: Said) -> subprocess.CompletedProcess[str]:
    said = "".join(f"{each.but(document_id=each.key.decode()).value.decode()}\n" for each in messages)
    command = [programs.java(), *QUICK_START, "-cp", class_path("opensearch"), "groovy.ui.GroovyMain", str(CHECK)]
    return subprocess.run([*command, str(index)], input=said, capture_output=True, text=True, timeout=200)


def test_messages_become_versioned_documents_and_deletions_of_their_own_ids() -> None:
    gone = retraction("a.jpg", 7, version_id="v 1")
    done = checked(INDEX, enriched("a.jpg", 5), retraction("a.jpg", 6), gone)
    operations = [json.loads(line) for line in done.stdout.splitlines()]
    assert [tuple(each.values()) for each in operations] == [
        ("photos/a.jpg", "5", "index"),
        ("photos/a.jpg", "6", "delete"),
        ("photos?versionId=v%201/a.jpg", "7", "delete"),
    ], done.stderr


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda index: index["settings"]["index"].update(gc_delete="7d"), "gc_delete"),
        (lambda index: index["settings"]["ingestion_source"].update(source_partition_strategy="all"), "unknown"),
        (lambda index: index["settings"]["ingestion_source"]["mapper_settings"].update(version="x"), "unknown"),
        (lambda index: index["mappings"]["properties"]["tags"].update(type="keywords"), "keywords"),
    ],
    ids=["setting", "source", "mapper", "type"],
)
def test_what_opensearch_does_not_know_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], word: str
) -> None:
    index = json.loads(INDEX.read_text())
    change(index)
    (tmp_path / "index.json").write_text(json.dumps(index))
    done = checked(tmp_path / "index.json")
    assert done.returncode == 1
    assert word in done.stderr
