"""What a GPU does with the code for CUDA, in one command: steps in order of worth, until the time is over.

    python -m benchmarks gpu [--minutes 9] [--device auto] [--small] [--out build/gpu.json]

Each step is a process with a share of the time, so that one that hangs or loses the device costs its own rows only. A
part that fails is a row with its error. The table and the document say what is left.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

Figures = Mapping[str, float | int | str]
Parts = Iterator[tuple[str, Callable[[], Figures]]]
"""Of a step, each with its name; it measures when it is called."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        size: of the models, as `tests/parity` names it: "full" or "small384".
        folder: where bundles are kept.
        batches: sizes of the tagger's batches.
        batch: the worker's largest.
        images: a worker's in each measurement.
        children: numbers of workers on one device, ascending.
        timed_s: least seconds of a timing.
        matrix: side of the matrices of the plain product.
        threads: of a processor; None: one a core.
        share: of a CUDA device's memory.
    """

    device: str
    size: str
    folder: Path
    batches: tuple[int, ...] = (16, 1, 4, 64)
    batch: int = 32
    images: int = 2_000
    children: tuple[int, ...] = (1, 2, 4, 8)
    timed_s: float = 1.0
    matrix: int = 8_192
    threads: int | None = None
    share: float = 1.0


def small(folder: Path, device: str = "cpu") -> Scale:
    """What a processor does in seconds."""
    return Scale(
        device, "small384", folder, batches=(2,), batch=2, images=2, children=(2,), timed_s=0, matrix=256, threads=1
    )


class Step(NamedTuple):
    """A step's parts, and its share of the time that the steps before it leave."""

    parts: Callable[[Scale], Parts] | str
    """A function, or its name in `gpu_steps`, which this process does not import: it would load torch once more."""
    share: float


STEPS: Mapping[str, Step] = {
    "tagger": Step("tagger", 4),
    "parity": Step("parity", 3),
    "overlap": Step("overlap", 1.5),
    "memory": Step("memory", 1),
    "self-test": Step("self_test", 1),
    "children": Step("children", 3),
}
"""In order of worth."""

MEASURES = "benchmarks.gpu_steps"
CONTEXT = get_context("forkserver")
"""Its server imports torch once, and never touches the device."""
CONTEXT.set_forkserver_preload([MEASURES])


@dataclass
class Row:
    """What one part gave, or its error."""

    step: str
    part: str
    figures: Figures = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


@dataclass
class Report:
    """All rows, and the parts that the time did not suffice for."""

    rows: list[Row] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] = ()) -> int:
    options = _parse(arguments)
    began = time.monotonic()
    full = not options.small and options.device != "cpu" and _in_a_process("has_cuda")
    scale = Scale(options.device, "full", options.folder) if full else small(options.folder, options.device)
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def keep(report: Report) -> None:
        options.out.write_text(json.dumps({"size": scale.size, **asdict(report)}, indent=1) + "\n")

    report = run(STEPS, scale, began + options.minutes * 60, keep)
    table = Table("step", "part", f"{scale.size} models", "seconds")
    for row in report.rows:
        figures = ", ".join(f"{name} {_short(value)}" for name, value in row.figures.items())
        table.add_row(row.step, row.part, row.error or figures, f"{row.seconds:.1f}", style="red" if row.error else "")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(f"left: {', '.join(report.left) or 'nothing'}; {options.out}", markup=False, soft_wrap=True)
    return 1 if report.left or any(row.error for row in report.rows) else 0


def run(steps: Mapping[str, Step], scale: Scale, until: float, keep: Callable[[Report], object]) -> Report:
    """Run the steps, each within its share of the time that is left.

    Args:
        until: monotonic seconds.
        keep: called after each row, so that a run that is killed leaves what it has.
    """
    report, shares = Report(), sum(step.share for step in steps.values())
    for name, step in steps.items():
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_perform, args=(name, step.parts, scale, theirs))
        process.start()
        theirs.close()
        now = time.monotonic()
        over = now + (until - now) * step.share / shares
        shares -= step.share
        with ours:
            left = _collect(ours, over, report, keep)
        process.join(10 if time.monotonic() < over else 0)
        if left and process.exitcode is not None:
            report.rows.append(Row(name, left.pop(0), error=f"its process ended with {process.exitcode}"))
        process.kill()
        process.join()
        report.left += [f"{name}: {part}" if part else name for part in left]
    keep(report)
    return report


def _collect(pipe: Connection[Any, Any], until: float, report: Report, keep: Callable[[Report], object]) -> list[str]:
    """Add a process's rows to the report until it ends or its time is over; returns the parts that are left."""
    left = [""]
    while pipe.poll(max(0.0, until - time.monotonic())):
        try:
            row, left = pipe.recv()
        except EOFError:
            break
        report.rows += row
        keep(report)
    return left


def _perform(name: str, parts: Callable[[Scale], Parts] | str, scale: Scale, pipe: Connection[Any, Any]) -> None:
    """In a process of its own: send each row, with the names of the parts after it."""
    made: Callable[[Scale], Parts] = parts if callable(parts) else getattr(import_module(MEASURES), parts)
    todo = dict(made(scale))
    pipe.send(([], list(todo)))
    for number, (part, measure) in enumerate(todo.items(), 1):
        row, began = Row(name, part), time.perf_counter()
        try:
            row.figures = measure()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the next part may work
            row.error = f"{type(error).__name__}: {error}"[:300]
        row.seconds = time.perf_counter() - began
        pipe.send(([row], list(todo)[number:]))


def _in_a_process(name: str) -> Any:
    """What a function of `MEASURES` returns."""
    with CONTEXT.Pool(1) as pool:
        return pool.apply(_call, (name,))


def _call(name: str) -> Any:
    return getattr(import_module(MEASURES), name)()


def _short(value: float | int | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--small", action="store_true", help="small models, as without CUDA")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu-models"), help="where models are kept")
    parser.add_argument("--out", type=Path, default=Path("build/gpu.json"))
    return parser.parse_args(list(arguments))
