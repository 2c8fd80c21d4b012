"""How many captions a second `tagstream train parse` parses, with each parser, reading and writing the set included.

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

from tagstream_train.parse.grammar import GrammarParser
from tagstream_train.parse.mentions import Parser
from tagstream_train.parse.run import CaptionsFile, Choices, parse
from workers.processors import processors

ANNOTATED = Path("training/tests/unit/captions.txt")
MANY = {"lexicon": 100_000, "grammar": 10_000}


def measure(name: str, processes: int, folder: Path) -> tuple[float, float]:
    """Captions a second, and captions a second of processor time, which other work on the machine changes less."""
    lines = [line.split("|")[0].strip() for line in ANNOTATED.read_text().splitlines() if not line.startswith("#")]
    table = folder / "captions.tsv"
    count = MANY[name]
    table.write_text("".join(f"{at}.jpg\t{line}\n" for at, line in enumerate(islice(cycle(lines), count))))
    parser: Parser | None = GrammarParser() if name == "grammar" else None
    began, used = time.perf_counter(), _processor_s()
    parse(CaptionsFile(table), folder, parser, Choices(processes=processes), lambda _: None)
    return count / (time.perf_counter() - began), count / (_processor_s() - used)


def _processor_s() -> float:
    """Of this process and its children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    for name in MANY:
        for processes in sorted({1, processors()}):
            with tempfile.TemporaryDirectory() as folder:
                rate, each = measure(name, processes, Path(folder))
            print(  # noqa: T201
                f"{name}, processes: {processes}: {rate:,.0f} captions a second, {each:,.0f} a second of processor time"
            )


if __name__ == "__main__":
    main()
