"""A run's record: metrics, TensorBoard, curves and hooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Self

from workers.errors import Misconfigured

NUMBERS = "metrics.jsonl"
CURVES = "curves.png"
HOOKS = "tagstream.training_hooks"
"""The entry point group of hooks."""

Log = Callable[[int, Mapping[str, float]], None]
"""Gets a step and its numbers."""
Tell = Callable[[str, int, int | None], None]
"""Gets an activity, its progress, and its total if known."""
Hook = Callable[[dict[str, Any], Path], Log]
"""Gets a run's plan and folder at its start."""


class Record:
    """Writes metrics.jsonl and tensorboard/, and curves.png at the end.

    A context manager: however the run ends, it is closed.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any], step: int, hooks: Sequence[Hook] = ()) -> None:
        """
        Args:
            step: the next step; later lines of an earlier process are dropped.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        lines = numbers(folder)
        self._lines = [line for line in lines if line["step"] < step]
        with (folder / NUMBERS).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self._lines)
        self._file = (folder / NUMBERS).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._logs = [hook(dict(plan), folder) for hook in hooks]

    def __call__(self, step: int, numbers: Mapping[str, float]) -> None:
        line = {"step": step, **numbers}
        self._lines.append(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        for log in self._logs:
            log(step, numbers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()
        draw(self._lines, self._folder / CURVES)


def find_hook(name: str) -> Hook:
    """Find a hook: `module:function`, or an entry point of `HOOKS`.

    Raises:
        Misconfigured: no such hook exists.
    """
    point = next(iter(entry_points(group=HOOKS, name=name)), EntryPoint(name, name, HOOKS))
    try:
        hook = point.load()
    except (ImportError, AttributeError) as error:
        raise Misconfigured(
            f"There is no hook {name!r} ({error}): write module:function, or install what offers it."
        ) from None
    if not callable(hook):
        raise Misconfigured(f"The hook {name!r} is no function.")
    return hook  # type: ignore[no-any-return]


def draw(lines: Sequence[Mapping[str, float]], path: Path) -> None:
    """One picture with a curve for each number, over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for line in lines for name in line if name != "step"))
    if not names:
        return
    figure = Figure(figsize=(6, 2.2 * len(names)))
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(names), squeeze=False, gridspec_kw={"hspace": 0.6})[:, 0]
    for axes, name in zip(rows, names, strict=True):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def numbers(folder: Path) -> list[dict[str, float]]:
    """A run's numbers by step, up to a damaged line."""
    path, lines = folder / NUMBERS, list[dict[str, float]]()
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
