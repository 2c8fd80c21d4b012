"""Works out what a number of images a day needs: workers, processors, partitions, memory, Redis, Kafka.

    .venv/bin/python scripts/sizing.py 1000000 --model "RAM, bf16" --megapixels 2
    .venv/bin/python scripts/sizing.py --fill docs/sizing.md

docs/sizing.md explains the formulas and where the figures were measured; a test compares its table with this program.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.cli.memory import worst_bytes
from workers.settings import Settings

DAY_S = 86_400
GB = 10**9
DECODE_S_A_MEGAPIXEL = 0.010
"""Of one processor, for a JPEG (docs/deploying.md)."""
EVENT_BYTES, ENRICHED_BYTES = 160, 1_420
"""Of the README's own event and its outcome, as they are sent and uncompressed."""
REDIS_BYTES = 3_000
"""Of one image in Redis, at the most (docs/deploying.md)."""
PARTITIONS = (6, 12, 24, 48, 60, 120, 240, 360, 720)
"""Numbers with many divisors: the autoscaler takes only numbers of workers that divide the partitions."""


@dataclass(frozen=True)
class Model:
    """What an image costs: seconds of one processor on a Xeon with AMX (docs/models.md), and the weights' bytes."""

    core_s: float
    weights_bytes: int


MODELS = {
    "compact, fp32": Model(0.0625, 18_000_000),
    "RAM, bf16": Model(0.7, 420_000_000),
    "RAM, fp32": Model(2.3, 420_000_000),
    "Tag2Text, bf16": Model(0.5, 750_000_000),
    "Tag2Text, fp32": Model(1.8, 750_000_000),
}
"""The compact one was measured as a whole worker: 32 images a second on two busy cores of an EPYC (README)."""


@dataclass(frozen=True)
class Need:
    """What is known beforehand.

    Args:
        peak: the busiest hour's rate to the day's mean.
        known: share of the images whose bytes were seen before; they cost no model and no decoder.
        load: share of the processors that may be busy in the busiest hour; the rest is for catching up.
        cores: processors of one worker.
        kept_days: how long the input topic keeps its records.
        copies: of each record, by Kafka's replication.
    """

    images_a_day: int
    model: str
    megapixels: float = 2.0
    peak: float = 3.0
    known: float = 0.0
    load: float = 0.7
    cores: int = 8
    kept_days: int = 7
    copies: int = 3

    @property
    def at_peak(self) -> float:
        """Images a second in the busiest hour."""
        return self.images_a_day / DAY_S * self.peak

    @property
    def core_s(self) -> float:
        """Seconds of one processor for an image that was not seen before."""
        return MODELS[self.model].core_s + DECODE_S_A_MEGAPIXEL * self.megapixels

    @property
    def processors(self) -> float:
        return self.at_peak * (1 - self.known) * self.core_s / self.load

    @property
    def workers(self) -> int:
        """Two at least, so that one can be replaced."""
        return max(2, math.ceil(self.processors / self.cores))

    @property
    def partitions(self) -> int:
        """Room for twice the workers, because partitions of a topic with keys should not be added later."""
        return next((each for each in PARTITIONS if each >= 2 * self.workers), 2 * self.workers)

    @property
    def worker_bytes(self) -> int:
        """Of one worker with the default budgets, as `tagstream check` computes it."""
        return worst_bytes(Settings(), self.cores, MODELS[self.model].weights_bytes)

    @property
    def redis_bytes_a_day(self) -> float:
        return self.images_a_day * (1 - self.known) * REDIS_BYTES

    @property
    def input_bytes(self) -> int:
        return self.images_a_day * EVENT_BYTES * self.kept_days * self.copies

    @property
    def output_bytes_a_day(self) -> int:
        return self.images_a_day * ENRICHED_BYTES * self.copies

    @property
    def catch_up_h(self) -> float:
        """Hours until the lag of one hour's outage is gone, at the day's mean rate."""
        capacity = self.workers * self.cores / (self.core_s * (1 - self.known))
        mean = self.images_a_day / DAY_S
        return mean / (capacity - mean)


EXAMPLES = (
    Need(100_000, "compact, fp32", cores=2),
    Need(1_000_000, "RAM, bf16", cores=16),
    Need(1_000_000, "Tag2Text, bf16", cores=16, known=0.3),
)


def table(needs: Sequence[Need]) -> str:
    """A column for each case, as Markdown."""
    rows = {
        "images a day": [f"{need.images_a_day:,}" for need in needs],
        "model": [need.model for need in needs],
        "megapixels of an image": [f"{need.megapixels:g}" for need in needs],
        "seen before": [f"{need.known:.0%}" for need in needs],
        "**images a second, busiest hour**": [f"{need.at_peak:.1f}" for need in needs],
        "core seconds an image": [f"{need.core_s:.3f}" for need in needs],
        "**processors**": [f"{need.processors:.1f}" for need in needs],
        "**workers**": [f"{need.workers} of {need.cores} processors" for need in needs],
        "**partitions**": [f"{need.partitions}" for need in needs],
        "**memory of a worker, at worst**": [f"{need.worker_bytes / 2**30:.1f} GiB" for need in needs],
        "**Redis, for each day that is kept**": [f"{need.redis_bytes_a_day / GB:.1f} GB" for need in needs],
        "**input topic on disk, 7 days, 3 copies**": [f"{need.input_bytes / GB:.1f} GB" for need in needs],
        "**output topic on disk, each day, 3 copies**": [f"{need.output_bytes_a_day / GB:.1f} GB" for need in needs],
        "an outage of one hour is caught up in": [f"{60 * need.catch_up_h:.0f} min" for need in needs],
    }
    head = f"| |{' |' * len(needs)}\n|---|{'---|' * len(needs)}\n"
    return head + "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in rows.items())


def filled(page: str) -> str:
    """The page with the table of the examples between its markers."""
    begin, end = "<!-- sizing:begin -->\n", "<!-- sizing:end -->"
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}{table(EXAMPLES)}{end}", page, flags=re.DOTALL)


def _share(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError("a share is at least 0 and less than 1")
    return float(text)


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    asks.add_argument("images_a_day", type=int, nargs="?", default=1_000_000)
    asks.add_argument("--model", choices=MODELS, default="RAM, bf16")
    asks.add_argument("--megapixels", type=float, default=2.0)
    asks.add_argument("--peak", type=float, default=3.0, help="the busiest hour's rate to the day's mean")
    asks.add_argument("--known", type=_share, default=0.0, help="share of images whose bytes were seen before")
    asks.add_argument("--cores", type=int, default=8, help="processors of one worker")
    asks.add_argument("--fill", type=Path, help="write the table of the examples into this page instead")
    given = vars(asks.parse_args())
    if page := given.pop("fill"):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(table([Need(**given)]))


if __name__ == "__main__":
    main()
