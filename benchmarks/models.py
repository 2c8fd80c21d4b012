"""RAM, RAM++ and Tag2Text at full size on this device: how fast each stage is, what it costs in agreement, and,
beside a checkout of the official program, by how much it is faster.

    python -m benchmarks.models [--official CHECKOUT [--official-python PYTHON]] …

Weights are random: speed does not depend on them, and agreement between precisions is measured all the same, on
answers that mean nothing. All that is compared runs in turn, round by round, in one run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import arithmetic
from benchmarks.memory import peak
from benchmarks.official import DEFAULT_INTERPRETER, Official
from benchmarks.stages import Answers, Subject, subject_of
from workers.errors import Misconfigured, TagstreamError
from workers.models.agreement import of_captions, of_rows
from workers.models.bundle import Bundle
from workers.models.device import PRECISIONS, Device, Precision, choose_device
from workers.models.ram.config import Kind
from workers.models.ram.random_bundle import random_bundle
from workers.models.tagger import sample_image
from workers.types import Pixels

KINDS: tuple[Kind, ...] = ("ram", "ram_plus", "tag2text")
COMPARED = 4
"""Images whose answers are compared."""


@dataclass
class Measured:
    """Of one precision, over the rounds."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Stage → seconds an image, a round each."""
    operations: dict[str, float] = field(default_factory=dict)
    """Stage → operations an image."""
    answers: Answers = field(default_factory=Answers)
    ceiling: float = 0.0
    peak_bytes: int | None = None

    def total(self) -> list[float]:
        """Seconds an image of all stages, round by round."""
        stages = [row for name, row in self.seconds.items() if "labels" not in name]
        return [sum(row) for row in zip(*stages, strict=True)]


def main(arguments: Sequence[str] = ()) -> int:
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)  # in a file the table keeps its lines
    device = choose_device(options.device)
    precisions = options.precisions or sensible_precisions(device)
    console.print(f"{device.name}, batches of {options.batch}, {options.rounds} rounds in turn", markup=False)
    try:
        for kind in options.models:
            bundle = full_size(kind, options.bundles)
            with _official(options.official, options.official_python, bundle) as official:
                measure(bundle, device, precisions, options.rounds, options.batch, official, console)
    except TagstreamError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    return 0


def measure(
    bundle: Bundle,
    device: Device,
    precisions: Sequence[Precision],
    rounds: int,
    batch: int,
    official: Official | None,
    console: Console,
) -> dict[Precision, Measured]:
    """Time every stage of a bundle in every precision, in turn, and print what came of it."""
    images = samples(bundle, max(batch, COMPARED))
    subjects: dict[Precision, Subject] = {}
    found = {precision: Measured() for precision in precisions}
    guides: list[str] = []
    for precision, measured in found.items():
        with peak(device) as most:
            subjects[precision] = subject = subject_of(bundle, device, precision)
            measured.answers = subject.answers(images[:COMPARED], guides or None)
        measured.peak_bytes = most.bytes
        measured.ceiling = arithmetic.ceiling(device, precision)
        guides = guides or subject.guides(measured.answers.logits)
    batch_guides = [guides[index % len(guides)] for index in range(batch)]
    beside: list[float] = []
    for number in range(rounds):
        if official is not None:
            beside.append(_ask(official, bundle, number % COMPARED)[0])
        for precision, measured in found.items():
            for stage, (seconds, operations) in subjects[precision].stages(images[:batch], batch_guides).items():
                measured.seconds.setdefault(stage, []).append(seconds / batch)
                measured.operations[stage] = operations / batch
    _print(bundle, subjects, found, console)
    if official is not None:
        _print_beside(bundle, subjects, found, beside, official, console)
    return found


def sensible_precisions(device: Device) -> list[Precision]:
    """Those that the device computes natively; others run too, slowly (`--precisions` asks for them)."""
    if device.kind == "cuda":
        return ["fp32", "bf16", "fp16"]
    found: list[Precision] = ["fp32"]
    if "bf16" in device.name:
        found.append("bf16")
    if "fp16" in device.name:
        found.append("fp16")
    return [*found, "int8"] if "vnni" in device.name or "amx_int8" in device.name else found


def cache_folder() -> Path:
    """Where the random bundles are kept, unless one says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tagstream" / "benchmarks"


def full_size(kind: Kind, folder: Path) -> Bundle:
    """A bundle of seeded weights of the published size, made once and kept in the folder."""
    target = folder / f"random-{kind}"
    try:
        return Bundle.open(target)
    except Misconfigured:
        return random_bundle(kind, target, replace_existing=True)


def samples(bundle: Bundle, count: int) -> list[Pixels]:
    return [sample_image(bundle.manifest.transform.size, seed) for seed in range(count)]


@contextmanager
def _official(checkout: Path | None, interpreter: str, bundle: Bundle) -> Iterator[Official | None]:
    with (
        nullcontext() if checkout is None else Official(checkout, interpreter, bundle, samples(bundle, COMPARED))
    ) as official:
        yield official


def _ask(official: Official, bundle: Bundle, image: int) -> tuple[float, str, str]:
    """Seconds, tags and caption (empty for a tagger) of the official program."""
    if bundle.manifest.kind == "tag2text":
        return official.caption(image)
    return (*official.tag(image), "")


def _print(
    bundle: Bundle, subjects: dict[Precision, Subject], found: dict[Precision, Measured], console: Console
) -> None:
    reference = next(iter(found))
    table = Table(
        bundle.name, "images/s", f"to {reference}", "GFLOP", "GFLOP/s", "of a matmul", box=None, pad_edge=False
    )
    for precision, measured in found.items():
        base = found[reference]
        for stage, seconds in measured.seconds.items():
            rate = measured.operations[stage] / statistics.median(seconds)
            ratio = _ratio(base.seconds[stage], seconds)
            table.add_row(
                f"{precision} {stage}",
                f"{1 / statistics.median(seconds):.3g}",
                ratio,
                f"{measured.operations[stage] / 1e9:.1f}",
                f"{rate / 1e9:.0f}",
                f"{rate / measured.ceiling:.0%}",
            )
        whole = measured.total()
        table.add_row(
            f"{precision} in all",
            f"{1 / statistics.median(whole):.3g}",
            _ratio(base.total(), whole),
            style="bold",
            end_section=True,
        )
    console.print(table)
    for precision, measured in found.items():
        console.print(f"{precision}, {_profile(subjects[precision], measured)}", markup=False)
    for precision, measured in found.items():
        memory = "" if measured.peak_bytes is None else f", at most {measured.peak_bytes / 1e9:.1f} GB"
        agreement = "" if precision == reference else f"; with {reference}: {_agreement(subjects, found, precision)}"
        console.print(
            f"{precision}: matmul ceiling {measured.ceiling / 1e9:.0f} GFLOP/s{memory}{agreement}", markup=False
        )


def _print_beside(
    bundle: Bundle,
    subjects: dict[Precision, Subject],
    found: dict[Precision, Measured],
    beside: list[float],
    official: Official,
    console: Console,
) -> None:
    asked = [_ask(official, bundle, image)[1:] for image in range(COMPARED)]
    console.print(f"the official program: {statistics.median(beside):.2f} s an image")
    for precision, measured in found.items():
        tags = subjects[precision].guides(measured.answers.logits)
        same = [f"{sum(a == b for a, (b, _) in zip(tags, asked, strict=True))} of {COMPARED} tag sets"]
        if measured.answers.captions:
            theirs = [caption for _, caption in asked]
            same.append(str(of_captions(theirs, measured.answers.captions)))
        ratio = _ratio(beside, measured.total())
        console.print(f"{precision}: {ratio} times as fast, with the same {', '.join(same)}", markup=False)


def _agreement(subjects: dict[Precision, Subject], found: dict[Precision, Measured], precision: Precision) -> str:
    reference = found[next(iter(found))].answers
    answers = found[precision].answers
    parts = [str(of_rows(subjects[precision].tagger, reference.logits, answers.logits))]
    if answers.captions:
        parts.append(f"{of_captions(reference.captions, answers.captions)} under the same guide")
    return ", ".join(parts)


def _profile(subject: Subject, measured: Measured) -> str:
    """What an event gains whose profile names few labels."""
    encoder, head = measured.seconds["encoder"], measured.seconds["head"]
    tagging = [sum(pair) for pair in zip(encoder, head, strict=True)]
    ratios = (
        _ratio(head, measured.seconds[subject.profiled_head]),
        _ratio(tagging, measured.seconds[subject.profiled_tagging]),
    )
    labels = f"{len(subject.profile.ids)} of {subject.engine.model.labels} labels"
    return f"a profile of {labels}: the head {ratios[0]} times as fast, tagging {ratios[1]} times"


def _ratio(base: Sequence[float], seconds: Sequence[float]) -> str:
    """How many times as fast, round by round: median, and the span."""
    ratios = sorted(one / other for one, other in zip(base, seconds, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="fp32 first; by default what is native")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--bundles", type=Path, default=cache_folder(), help="where the random bundles are kept")
    parser.add_argument("--official", type=Path, help="a checkout of the official program, timed in the same run")
    parser.add_argument("--official-python", default=DEFAULT_INTERPRETER, help="the interpreter that runs it")
    return parser.parse_args(list(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
