"""What the tests measured, as a page and a picture in build/."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from schemas.enriched_image import EnrichedImage
from tests.kube.rollout import Sample
from tests.support.worker_process import Site

PAGE = Path("build/kube-report.md")
PICTURE = Path("build/autoscaling.png")


@dataclass
class Report:
    """One line for each thing that happened."""

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
        """Lag and workers over time, as a picture and as numbers."""
        peak = max(sample.lag for sample in samples)
        first = next(sample.at_s for sample in samples if sample.lag > 0)
        more = next(sample.at_s for sample in samples if sample.ready > 1)
        done = next(sample.at_s for sample in samples if sample.at_s > more and sample.lag == 0)
        least = next(sample.at_s for sample in samples if sample.at_s > done and sample.wanted == 1)
        self.scaled = (
            f"{peak:,} events of lag. A second worker was ready after {more - first:.0f} s, "
            f"{max(sample.ready for sample in samples)} at most; all was done after {done - first:.0f} s, and one "
            f"worker was left after {least - first:.0f} s."
        )
        draw(samples, PICTURE)

    def waiting(self, what: str, seconds: Sequence[float]) -> None:
        """How long images waited for their outcome; sorted."""
        median, late = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)]
        self.waits.append(f"| {what} | {len(seconds)} | {median:.1f} s | {late:.1f} s |")

    def trigger(self, name: str, samples: Sequence[Sample], changes: int, drained_s: float) -> None:
        """How one way to scale did its load."""
        most = max(sample.wanted for sample in samples)
        self.triggers.append(f"| {name} | {most} | {changes} | {drained_s:.0f} s |")
        draw(samples, PICTURE.with_name(f"trigger-{len(self.triggers)}.png"))

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


def draw(samples: Sequence[Sample], picture: Path) -> None:
    """Lag above, workers below, by the second."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    seconds = [sample.at_s for sample in samples]
    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(8, 4.5), layout="constrained")
    above.plot(seconds, [sample.lag for sample in samples], color="tab:blue")
    above.set_ylabel("lag, events")
    below.step(seconds, [sample.wanted for sample in samples], color="tab:orange", label="asked for")
    below.step(seconds, [sample.ready for sample in samples], color="tab:green", linestyle="--", label="ready")
    below.set_ylabel("workers")
    below.set_xlabel("seconds")
    below.legend(frameon=False)
    for each in (above, below):
        each.set_ylim(bottom=0)
        each.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
