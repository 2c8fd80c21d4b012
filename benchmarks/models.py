"""RAM, RAM++ and Tag2Text at full size on this device: how fast each stage is in each precision and execution, how near
to what the device can do, what it costs in agreement, and, beside a checkout of the official program, by how much it is
faster.

    python -m benchmarks.models [--device cuda] [--official CHECKOUT [--official-python PYTHON]] …

Weights are random: speed does not depend on them, and agreement between precisions is measured all the same, on
answers that mean nothing. All that is compared runs in turn, round by round, in one run. What does not work here, or
does not give its golden answers, is said, left out, and makes the run fail.
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
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import arithmetic
from benchmarks.memory import peak
from benchmarks.official import DEFAULT_INTERPRETER, Official
from benchmarks.stages import TAGGING, Answers, Subject, is_stage, subject_of
from workers.errors import Broken, Misconfigured, TagstreamError
from workers.models.bundle import Bundle
from workers.models.device import EXECUTIONS, PRECISIONS, Device, Execution, Precision, choose_device, named
from workers.models.execution import keep_in
from workers.models.load import COMPILED, with_golden
from workers.models.ram.config import PUBLISHED, Kind
from workers.models.ram.importer import random_bundle
from workers.models.tagger import sample_image
from workers.models.tune import of_captions, of_rows
from workers.types import Pixels

KINDS = tuple(PUBLISHED)
COMPARED = 4
"""Images whose answers are compared."""


class Variant(NamedTuple):
    """What is timed beside others; by the first of them all are measured."""

    precision: Precision
    execution: Execution = "eager"

    def __str__(self) -> str:
        return named(self.precision, self.execution)


@dataclass
class Measured:
    """Of one variant, over the rounds."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Stage → seconds an image, a round each."""
    operations: dict[str, float] = field(default_factory=dict)
    """Stage → operations an image."""
    answers: Answers = field(default_factory=Answers)
    golden: str = ""
    """How far it gives the golden answers."""
    ceilings: list[float] = field(default_factory=list)
    """Operations a second of a matmul in this precision, a round each."""
    peak_bytes: int | None = None

    def total(self) -> list[float]:
        """Seconds an image of all stages, round by round."""
        stages = [row for name, row in self.seconds.items() if is_stage(name)]
        return [sum(row) for row in zip(*stages, strict=True)]


def main(arguments: Sequence[str] = ()) -> int:
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)  # in a file the table keeps its lines
    device = choose_device(options.device)
    precisions = options.precisions or sensible_precisions(device)
    executions = options.executions or device.executions
    variants = [Variant(precision, execution) for precision in precisions for execution in executions]
    refused: list[Variant] = []
    console.print(f"{device.name}, batches of {options.batch}, {options.rounds} rounds in turn", markup=False)
    try:
        for kind in options.models:
            bundle = full_size(kind, options.bundles)
            with _official(options.official, options.official_python, bundle) as official:
                found = measure(bundle, device, variants, options.rounds, options.batch, official, console)
                refused += [each for each in variants if each not in found]
    except TagstreamError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    return 1 if refused else 0


def measure(
    bundle: Bundle,
    device: Device,
    variants: Sequence[Variant],
    rounds: int,
    batch: int,
    official: Official | None,
    console: Console,
) -> dict[Variant, Measured]:
    """Time every stage of a bundle in every variant, in turn, and print what came of it. What torch compiles is kept
    beside the bundle.

    Returns:
        Of those that work here and give the golden answers; others are told to the console.
    """
    images = samples(bundle, max(batch, COMPARED))
    subjects: dict[Variant, Subject] = {}
    found: dict[Variant, Measured] = {}
    guides: list[str] = []
    for variant in variants:
        measured = Measured()
        try:
            if variant.execution == "compiled":
                keep_in(bundle.folder.parent / COMPILED)
            with peak(device) as most:
                subject = subject_of(bundle, device.executing(variant.execution), variant.precision)
                measured.golden = _check(subject, batch)
                measured.answers = subject.answers(images[:COMPARED], guides or None)
        except (Broken, Misconfigured) as refusal:
            console.print(f"{variant}: {refusal}", style="red", markup=False)
            continue
        measured.peak_bytes = most.bytes
        guides = guides or subject.guides(measured.answers.logits)
        subjects[variant], found[variant] = subject, measured
    if not found:
        return found
    batch_guides = [guides[index % len(guides)] for index in range(batch)]
    beside: list[float] = []
    for number in range(rounds):
        if official is not None:
            beside.append(_ask(official, bundle, number % COMPARED)[0])
        ceilings: dict[Precision, float] = {}
        for variant, measured in found.items():
            if variant.precision not in ceilings:
                ceilings[variant.precision] = arithmetic.ceiling(device, variant.precision)
            measured.ceilings.append(ceilings[variant.precision])
            for stage, (seconds, operations) in subjects[variant].stages(images[:batch], batch_guides).items():
                measured.seconds.setdefault(stage, []).append(seconds / batch)
                measured.operations[stage] = operations / batch
    _print(bundle, subjects, found, console)
    if official is not None:
        _print_beside(bundle, subjects, found, beside, official, console)
    return found


def _check(subject: Subject, batch: int) -> str:
    """Warm the tagger up for such batches, as a worker does; says how far it gives the golden answers.

    Raises:
        Broken: it does not, in a batch of some size.
    """
    subject.tagger.max_batch = batch
    subject.tagger.warm_up()
    agreement = with_golden(subject.bundle, "tagger", subject.tagger)
    return f"the golden answers: {agreement}" if agreement else "no golden answers to compare with"


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


def _print(bundle: Bundle, subjects: dict[Variant, Subject], found: dict[Variant, Measured], console: Console) -> None:
    reference = next(iter(found))
    columns = ("images/s", f"to {reference}", "of the time", "GFLOP", "GFLOP/s", "of a matmul")
    table = Table(bundle.name, *columns, box=None, pad_edge=False)
    for variant, measured in found.items():
        base = found[reference]
        whole = measured.total()
        for stage, seconds in measured.seconds.items():
            shares = [part / all_of_it for part, all_of_it in zip(seconds, whole, strict=True)]
            table.add_row(
                f"{variant} {stage}",
                f"{1 / statistics.median(seconds):.3g}",
                _ratio(base.seconds[stage], seconds),
                f"{statistics.median(shares):.1%}" if is_stage(stage) else "",
                *_arithmetic(measured, stage),
            )
        table.add_row(
            f"{variant} in all",
            f"{1 / statistics.median(whole):.3g}",
            _ratio(base.total(), whole),
            style="bold",
            end_section=True,
        )
    console.print(table)
    for variant, measured in found.items():
        console.print(f"{variant}, {_profile(subjects[variant], measured)}", markup=False)
    for variant, measured in found.items():
        memory = "" if measured.peak_bytes is None else f", at most {measured.peak_bytes / 1e9:.1f} GB"
        agreement = "" if variant == reference else f"; with {reference}: {_agreement(subjects, found, variant)}"
        console.print(
            f"{variant}: a matmul has {_middle(measured.ceilings)} GFLOP/s{memory}; {measured.golden}{agreement}",
            markup=False,
        )


def _arithmetic(measured: Measured, stage: str) -> tuple[str, ...]:
    """Operations of an image, a second, and as a share of what a matmul did in the same round; nothing where there are
    none."""
    operations = measured.operations[stage]
    if not operations:
        return ()
    rates = [operations / seconds for seconds in measured.seconds[stage]]
    shares = sorted(rate / ceiling for rate, ceiling in zip(rates, measured.ceilings, strict=True))
    share = f"{statistics.median(shares):.0%} ({shares[0]:.0%} to {shares[-1]:.0%})"
    return f"{operations / 1e9:.1f}", _middle(rates), share


def _middle(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates) / 1e9:.0f}"


def _print_beside(
    bundle: Bundle,
    subjects: dict[Variant, Subject],
    found: dict[Variant, Measured],
    beside: list[float],
    official: Official,
    console: Console,
) -> None:
    asked = [_ask(official, bundle, image)[1:] for image in range(COMPARED)]
    console.print(f"the official program: {statistics.median(beside):.2f} s an image")
    for variant, measured in found.items():
        tags = subjects[variant].guides(measured.answers.logits)
        same = [f"{sum(a == b for a, (b, _) in zip(tags, asked, strict=True))} of {COMPARED} tag sets"]
        if measured.answers.captions:
            theirs = [caption for _, caption in asked]
            same.append(str(of_captions(theirs, measured.answers.captions)))
        ratio = _ratio(beside, measured.total())
        console.print(f"{variant}: {ratio} times as fast, with the same {', '.join(same)}", markup=False)


def _agreement(subjects: dict[Variant, Subject], found: dict[Variant, Measured], variant: Variant) -> str:
    reference = found[next(iter(found))].answers
    answers = found[variant].answers
    parts = [str(of_rows(subjects[variant].tagger, reference.logits, answers.logits))]
    if answers.captions:
        parts.append(f"{of_captions(reference.captions, answers.captions)} under the same guide")
    return ", ".join(parts)


def _profile(subject: Subject, measured: Measured) -> str:
    """What an event gains whose profile names few labels."""
    seconds = measured.seconds
    ratios = (
        _ratio(seconds["head"], seconds[subject.profiled_head]),
        _ratio(seconds[TAGGING], seconds[subject.profiled_tagging]),
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
    parser.add_argument("--executions", nargs="+", choices=EXECUTIONS, help="by default all that the device has")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--bundles", type=Path, default=cache_folder(), help="where the random bundles are kept")
    parser.add_argument("--official", type=Path, help="a checkout of the official program, timed in the same run")
    parser.add_argument("--official-python", default=DEFAULT_INTERPRETER, help="the interpreter that runs it")
    return parser.parse_args(list(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
