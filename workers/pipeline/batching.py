"""Batches for the device: work-conserving, and halved to the failing image when one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from workers.errors import Broken

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class SafeBatch:
    """The batch size that is known to be safe. Memory that runs out halves it; quiet batches let it grow back.

    Args:
        largest: what the model's warm-up found safe.
        quiet: full batches without trouble before it doubles again.
    """

    def __init__(self, largest: int, quiet: int = 100) -> None:
        self.largest = max(1, largest)
        self.size = self.largest
        self._quiet = quiet
        self._good = 0

    def ran(self, images: int) -> None:
        if self.size < self.largest and images >= self.size:
            self._good += 1
            if self._good >= self._quiet:
                self.size = min(self.largest, self.size * 2)
                self._good = 0

    def ran_out_of_memory(self, images: int) -> None:
        """Halve the safe size: so many images were too many. A batch above the safe size says nothing new of it."""
        self.size = max(1, min(self.size, images // 2))
        self._good = 0


def run_halving(
    step: Callable[[Sequence[Item]], Sequence[Answer]],
    items: Sequence[Item],
    failed: Callable[[Sequence[Item], Exception], None],
) -> list[Answer | Exception]:
    """Run `step` on all items at once; when it raises, on halves, until only the failing items are left.

    Args:
        step: a list in, a list of the same length and order out, which is for the caller to make sure.
        failed: called for every failing call, with its items.

    Returns:
        For each item its answer, or what a call with this item alone raised.

    Raises:
        Broken: `step` says that it is not the items' fault.
    """
    if not items:
        return []
    try:
        return list(step(items))
    except Broken:
        raise
    except Exception as error:  # noqa: BLE001  # a model may raise anything; the caller decides whose fault it is
        failed(items, error)
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return run_halving(step, items[:middle], failed) + run_halving(step, items[middle:], failed)
