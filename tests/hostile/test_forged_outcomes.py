"""Another producer writes outcomes that no worker made: `tagstream audit` passes none of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import Stack
from tests.support.raw_kafka import batch, produce, record
from tests.support.waiting import eventually
from tests.support.worker_process import Site, photo, worker
from workers.audit.report import AuditReport

pytestmark = pytest.mark.timeout(300)


def forge(site: Site, partition: int, offset: int) -> None:
    """Publish a real outcome once more, as if it were of this record."""
    real = site.read(site.enriched)[0]
    document = json.loads(real.value)
    document["event"] |= {"partition": partition, "offset": offset}
    headers = [(name.encode(), value) for name, value in real.headers]
    forged = batch([record(json.dumps(document).encode(), key=real.key, headers=headers)])
    assert produce(site.stack.kafka.servers, site.enriched, 0, forged)[0] == 0


def test_audit_finds_each_forged_outcome(
    stack: Stack, unique: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an offset, and of a partition, that the input never had, and of a record that is not committed."""
    monkeypatch.setattr("workers.cli.audit.SETTLED_S", 1.0)
    site = Site(stack, unique("forged"), partitions=1)
    for number in range(4):
        site.upload(f"{number}.jpg", photo(number))
    site.send([(site.own(f"{number}.jpg"), ()) for number in range(3)])
    with worker(site, "w", tmp_path) as process:
        eventually(lambda: len(site.outcomes()) == 3, 90, process.said)
        assert process.terminate() == 0
    site.send([(site.own("3.jpg"), ())])
    assert site.audit().proved
    for partition, offset in ((0, 99_999), (0, 3), (7, 0)):
        forge(site, partition, offset)
    report = site.audit()
    assert not report.proved
    assert named(report) == {
        "without-record": [f"{site.images}:0:99999", f"{site.images}:7:0"],
        "uncommitted": [f"{site.images}:0:3"],
    }


def named(report: AuditReport) -> dict[str, list[str]]:
    """The records that are wrong, by fault."""
    return {fault: [one.record for one in found] for fault, found in report.findings.items() if found}
