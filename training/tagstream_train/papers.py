"""Published results on public evaluation sets (papers.json)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

_FILE = Path(__file__).with_name("papers.json")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(_Frozen):
    """A model's published numbers in percent; None: not reported."""

    model: str
    source: str
    map: float | None = None
    precision: float | None = None
    recall: float | None = None
    bleu4: float | None = None
    cider: float | None = None


class Benchmark(_Frozen):
    """An evaluation set that papers report on.

    `files`: what the names of its annotation files begin with.
    """

    files: str
    classes: int
    rows: tuple[Row, ...]
    note: str = ""


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All of them, by name."""
    return TypeAdapter(dict[str, Benchmark]).validate_json(_FILE.read_bytes())


def benchmark_of(file: str) -> tuple[str, Benchmark] | None:
    """The benchmark with an annotation file of this name."""
    return next((each for each in benchmarks().items() if file.startswith(each[1].files)), None)
