"""The judge of `tagstream audit` finds no fault in a worker's outcomes, of every kind."""

from tagstream_testing.memory_broker import Fault
from tests.support.harness import DEAD, GROUP, IN, OUT, POISON, SKIPPED, EchoCaptioner, Harness
from workers.audit.judge import Judge, Topics
from workers.audit.report import AuditReport
from workers.audit.seen import Seen
from workers.types import Unreadable

RED = (255, 0, 0)


def audited(harness: Harness) -> AuditReport:
    ranges = {partition: (0, end) for partition, end in harness.broker.committed(GROUP).items()}
    with Seen() as seen:
        judge = Judge(ranges, Topics(OUT), seen)
        for topic in (OUT, DEAD, SKIPPED):
            for read in harness.broker.visible(topic):
                judge.outcome(read)
        for read in harness.broker.visible(IN):
            judge.record(read)
        return judge.finish()


def test_every_kind_of_outcome_is_known_to_the_audit(harness: Harness) -> None:
    harness.captioner = EchoCaptioner()
    harness.captioner.fails = True
    harness.put("poison.png", POISON)
    harness.give("a.png", RED)  # partial, with a dead letter
    harness.send(harness.event("gone.png"), 1)
    harness.send(harness.notification("a.png", "gone.png", "poison.png"))
    harness.send(harness.notification("a.png", "b.png", name="ObjectRemoved:Delete"), 1)
    harness.send(b"no event")
    harness.broker.append_aborted(IN, 0, b"k", b"aborted")
    offset = harness.broker.append_unreadable(IN, 0, 5, Unreadable("batch-too-large", "too large"))
    harness.appended.append((0, offset + 4))
    harness.send(harness.event("a.png", options={"want": ["tags"]}))
    harness.work()
    report = audited(harness)
    assert report.proved, report.as_json()
    assert (report.records, report.events, report.strange) == (7, 9, 0)
    assert not report.unverifiable


def test_at_least_once_a_repeat_after_a_failure_is_found() -> None:
    harness = Harness(partitions=1)
    harness.delivery = "at_least_once"
    harness.give("a.png", RED)
    harness.broker.fail_next(Fault.OFFSETS_REFUSED)
    harness.work()
    report = audited(harness)
    assert [str(finding) for finding in report.findings["doubled"]] == [f"{IN}:0:0: event 0 came again, at {OUT}:0:1"]
