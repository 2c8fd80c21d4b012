"""The tests' measurements, as a page and as series in build/; benchmarks/RESULTS.md describes them."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from schemas.enriched_image import EnrichedImage
from tests.kube.rollout import Sample
from tests.support.worker_process import Site

PAGE = Path("build/kube-report.md")
SERIES = Path("build/autoscaling.csv")
_ROW_S = 10.0


@dataclass
class Report:
    lines: list[str] = field(default_factory=list)
    scaled: str = ""
    waits: list[str] = field(default_factory=list)
    """Of tests that compare how long an image waits."""
    notes: list[str] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    """Of tests that compare triggers."""

    def dark(self, what: str, site: Site) -> None:
        """How long an input partition was without an outcome, at most and for half of the partitions."""
        times: dict[int, list[float]] = defaultdict(list)
        for output in site.outputs():
            if isinstance(output, EnrichedImage):
                times[output.event.partition].append(datetime.fromisoformat(output.produced_at).timestamp())
        gaps = sorted(max(b - a for a, b in pairwise(sorted(of_one))) for of_one in times.values() if len(of_one) > 1)
        events = sum(map(len, times.values()))
        self.lines.append(f"| {what} | {events:,} | {gaps[len(gaps) // 2]:.1f} s | {gaps[-1]:.1f} s |")

    def scaling(self, samples: Sequence[Sample]) -> None:
        self.scaled = f"{in_words(samples)}\n\n{in_rows(samples)}"
        write(samples, SERIES)

    def waiting(self, what: str, seconds: Sequence[float]) -> None:
        median, late = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
        self.waits.append(f"| {what} | {len(seconds)} | {median:.1f} s | {late:.1f} s |")

    def trigger(self, name: str, samples: Sequence[Sample], changes: int, drained_s: float) -> None:
        most = max(sample.wanted for sample in samples)
        self.triggers.append(f"| {name} | {most} | {changes} | {drained_s:.0f} s |")
        write(samples, SERIES.with_name(f"trigger-{len(self.triggers)}.csv"))

    def write(self) -> None:
        dark = "| | events | a partition without an outcome, median | at most |\n|---|---|---|---|"
        waits = "| | images | median | 99th percentile |\n|---|---|---|---|"
        triggers = "| trigger | workers, at most | changes of their number | all done after |\n|---|---|---|---|"
        parts = [self.scaled, *self.notes]
        for head, lines in ((dark, self.lines), (waits, self.waits), (triggers, self.triggers)):
            if lines:
                parts.append("\n".join([head, *lines]))
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text("\n\n".join(part for part in parts if part) + "\n")


def in_words(samples: Sequence[Sample]) -> str:
    """How long it took from lag to workers, and back to one."""
    first = next(sample.at_s for sample in samples if sample.lag > 0)
    more = next(sample.at_s for sample in samples if sample.ready > 1)
    done = next(sample.at_s for sample in samples if sample.at_s > more and sample.lag == 0)
    least = next(sample.at_s for sample in samples if sample.at_s > done and sample.wanted == 1)
    return (
        f"A second worker was ready {more - first:.0f} s after the first event, "
        f"{max(sample.ready for sample in samples)} at most; all was done after {done - first:.0f} s, and one worker "
        f"was left after {least - first:.0f} s."
    )


def in_rows(samples: Sequence[Sample]) -> str:
    lines = ["| after | lag | wanted workers | ready | images/s |", "|---|---|---|---|---|"]
    due = 0.0
    for sample in samples:
        if sample.at_s >= due:
            due = (sample.at_s // _ROW_S + 1) * _ROW_S
            seen = f"{sample.lag:,} | {sample.wanted} | {sample.ready} | {sample.rate:.0f}"
            lines.append(f"| {sample.at_s:.0f} s | {seen} |")
    return "\n".join(lines)


def write(samples: Sequence[Sample], path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, [each.name for each in fields(Sample)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(map(asdict, samples))
