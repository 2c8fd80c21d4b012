"""How many captions a second `tagstream train parse` parses, reading and writing the set included.

    python -m benchmarks parse

On the 200 annotated captions of the tests, over and over; nothing is remembered from one caption to the next but forms
of words.
"""

from __future__ import annotations

import os
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from tagstream_train.parse.run import CaptionsFile, Choices, parse
from workers.processors import processors

ANNOTATED = Path("training/tests/unit/captions.txt")
MANY = 100_000


def measure(processes: int, folder: Path) -> tuple[float, float]:
    """Captions a second, and captions a second of processor time, which other work on the machine changes less."""
    lines = [line.split("|")[0].strip() for line in ANNOTATED.read_text().splitlines() if not line.startswith("#")]
    table = folder / "captions.tsv"
    table.write_text("".join(f"{at}.jpg\t{line}\n" for at, line in enumerate(islice(cycle(lines), MANY))))
    began, used = time.perf_counter(), _processor_s()
    parse(CaptionsFile(table), folder, Choices(processes=processes), lambda _: None)
    return MANY / (time.perf_counter() - began), MANY / (_processor_s() - used)


def _processor_s() -> float:
    """Of this process and its children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    for processes in sorted({1, processors()}):
        with tempfile.TemporaryDirectory() as folder:
            rate, each = measure(processes, Path(folder))
        print(  # noqa: T201
            f"processes: {processes}: {rate:,.0f} captions a second, {each:,.0f} a second of processor time"
        )


if __name__ == "__main__":
    main()
