"""How fast `tagstream retag go` is, and whether kills change what it leaves: each outcome once, then none.

    python -m benchmarks.retag_go [SUBJECTS [KILLS]]      100,000 and 20 by default

The rate is by the time between the first new outcome and the last. `python -m benchmarks cached` is its measure: an
event all of whose results are cached. Then a second plan is carried out and killed again and again, each time a
random way on. In the end the auditor must find no fault, and the newest outcome of each subject must be its last.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.retag import PROGRAM, TOPIC, bundle, fill
from schemas.version import told_version
from tagstream_testing.local.apache_kafka import AS_DEPLOYED, ApacheKafka
from workers.assembly.topic_reading import read_topic
from workers.backends.kafka import group_watch
from workers.environment import read
from workers.retag.plan_file import PlanFile
from workers.retag.planned_work import group_of
from workers.settings import Settings
from workers.types import ReadRecord

SUBJECTS, KILLS = 100_000, 20
_CLI = [sys.executable, "-c", PROGRAM]
_DONE = ("earlier", "rescored", "images", "unchanged", "left", "overtaken")


class Site:
    """A topic of outcomes, and the commands on it."""

    def __init__(self, folder: Path, servers: str) -> None:
        self.plan, self._profiles = folder / "plan", folder / "profiles.json"
        self.memory: dict[str, int] = {}
        """The most that each command took, in kB."""
        self._environment = {
            "TAGSTREAM_KAFKA_SERVERS": servers,
            "TAGSTREAM_TAGGER": str(bundle(folder / "bundle").folder),
            "TAGSTREAM_STATE_DIR": str(folder / "state"),
            "TAGSTREAM_PROFILES": str(self._profiles),
            "TAGSTREAM_KAFKA_SESSION_TIMEOUT_S": "6",
        }
        self._profiles.write_text("{}")

    def settings(self) -> Settings:
        return read(self._environment)

    def threshold(self, threshold: float) -> int:
        """Change it, and plan; returns the planned records."""
        self._profiles.write_text(json.dumps({"default": {"all": threshold}}))
        report = self.run("retag", "plan", "-o", self.plan, "--json")
        return int(report["rescored"])

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, **self._environment}
        command, pipe = [*_CLI, *map(str, arguments)], subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: object) -> dict[str, Any]:
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        name = " ".join(map(str, arguments[:2]))
        self.memory[name] = max(self.memory.get(name, 0), int(err.split()[-1]))
        report: dict[str, Any] = json.loads(out)
        return report

    def committed(self) -> int:
        """Offsets that the run of the plan has committed."""
        group = group_of(PlanFile.open(self.plan).digest)
        with group_watch(self._environment["TAGSTREAM_KAFKA_SERVERS"], group, [TOPIC]) as watch:
            return sum(reach.committed or 0 for reach in watch.look().partitions.values())

    def remade_s(self) -> tuple[int, float]:
        """Outcomes that were made from earlier ones, and the seconds from the first to the last."""
        times: list[int] = []
        mark = b'"topic":"%s"' % TOPIC.encode()
        newest: dict[bytes | None, int] = {}
        last: dict[bytes | None, int] = {}

        def take(record: ReadRecord) -> None:
            version = told_version(record.headers) or 0
            newest[record.key] = max(version, newest.get(record.key, 0))
            last[record.key] = version
            if mark in (record.value or b""):
                times.append(record.timestamp_ms)

        read_topic(self.settings(), TOPIC, take)
        assert newest == last, "a reader by version and one by compaction end with different outcomes"
        return len(times), (max(times) - min(times)) / 1000

    def audit(self) -> dict[str, Any]:
        """The auditor's report on all topics."""
        report = self.run("audit", "--json")
        assert report["proved"], report
        assert (report["other"], report["unverifiable"]) == (0, {})
        return report


def measure(site: Site, subjects: int, kills: int) -> None:
    size = fill(site.settings().kafka_servers[0], site.settings(), subjects)
    print(f"{subjects:,} subjects, {size / subjects:,.0f} bytes of JSON each")  # noqa: T201
    planned, used = site.threshold(0.5), cpu_s()
    report, used = site.run("retag", "go", site.plan, "--json"), cpu_s() - used
    assert report["rescored"] == planned, report
    count, seconds = site.remade_s()
    assert count == planned, count
    print(f"{count:,} planned and made anew: {count / seconds:,.0f}/s, {count / used:,.0f} by processor time")  # noqa: T201
    again = site.run("retag", "go", site.plan, "--json")
    assert (again["rescored"], again["repeated"]) == (0, 0), again
    planned, chance, killed = site.threshold(0.7), random.Random(0), 0
    for _ in range(kills):
        wanted = site.committed() + chance.uniform(0.1, 1) * planned / kills
        process = site.start("retag", "go", site.plan, "--json")
        while process.poll() is None and site.committed() < wanted:
            time.sleep(0.05)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    report = site.run("retag", "go", site.plan, "--json")
    again = site.run("retag", "go", site.plan, "--json")
    assert sum(report[name] for name in _DONE) == planned, report
    assert (again["rescored"], again["repeated"]) == (0, 0), again
    total, _ = site.remade_s()
    assert total == count + planned, (total, count, planned)
    print(f"{planned:,} more through {killed} kills: each once, and a second run publishes none")  # noqa: T201
    audit = site.audit()
    print(f"audit: {audit['events']:,} events and {audit['remade']:,} outcomes made anew, no fault")  # noqa: T201
    for name, kilobytes in site.memory.items():
        print(f"{name}: {kilobytes / 1024:.0f} MiB at most")  # noqa: T201


def cpu_s() -> float:
    """Processor seconds of all ended commands."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    given = [int(each) for each in sys.argv[1:] if each.isdigit()]
    subjects, kills = (*given, *(SUBJECTS, KILLS)[len(given) :])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kafka = ApacheKafka(folder / "kafka", jvm=AS_DEPLOYED)
        try:
            kafka.start()
            measure(Site(folder, kafka.servers), subjects, kills)
        finally:
            kafka.kill()


if __name__ == "__main__":
    main()
