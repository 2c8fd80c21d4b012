"""How many captions a second `tagstream train parse` parses, reading and writing the set included.

    python -m benchmarks parse

On the 200 annotated captions of the tests, over and over; nothing is remembered from one caption to the next but forms
of words.
"""

from __future__ import annotations

import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from tagstream_train.data.samples import Sample, write_dataset
from tagstream_train.parse.run import Choices, parse

ANNOTATED = Path("training/tests/unit/captions.txt")
MANY = 100_000


def measure(folder: Path) -> tuple[float, float]:
    """Captions a second, and captions a second of processor time, which other work on the machine changes less."""
    lines = [line.split("|")[0].strip() for line in ANNOTATED.read_text().splitlines() if not line.startswith("#")]
    samples = (Sample(image=f"{at}.jpg", captions=(line,)) for at, line in enumerate(islice(cycle(lines), MANY)))
    source = write_dataset(folder / "from", samples, [], name="captions")
    began, used = time.perf_counter(), time.process_time()
    parse(source, folder / "to", Choices(), lambda _: None)
    return MANY / (time.perf_counter() - began), MANY / (time.process_time() - used)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rate, each = measure(Path(folder))
    print(f"{rate:,.0f} captions a second, {each:,.0f} a second of processor time")  # noqa: T201


if __name__ == "__main__":
    main()
