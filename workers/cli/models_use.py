"""`tagstream models list`, `verify` and `tune`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.bundles import size_of
from workers.cli import terminal
from workers.cli.terminal import DeviceOption, bars, note, say
from workers.errors import Misconfigured
from workers.files import require_writable

if TYPE_CHECKING:
    from workers.models.bundle import Bundle
    from workers.models.precision import Tuned
    from workers.models.tune import Trial
    from workers.settings import Settings

NameOrFolder = Annotated[str, typer.Argument(metavar="BUNDLE", help="`compact`, or a bundle's folder.")]
DEFAULT_FOLDER = Path("bundles")


def list_models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Bundles, or folders of bundles. Default: the folder bundles."),
    ] = None,
    known: Annotated[bool, typer.Option("--known", help="What can be pulled, instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, a bundle each.")] = False,
) -> None:
    """List the built-in tagger and the bundles of some folders.

    [dim]Those in ./bundles:[/]    tagstream models list
    [dim]What can be pulled:[/]    tagstream models list --known
    """
    if known:
        _list_known(as_json)
        return
    columns = ("name", "kind", "can be", "labels", "digest", "size", "made of", "use as")
    console, table, broken = terminal.console(), Table(*columns, box=None, pad_edge=False), list[Misconfigured]()
    for use_as, found in _bundles(folders):
        if as_json:
            told = {"error": str(found)} if isinstance(found, Misconfigured) else _document(found, use_as)
            typer.echo(terminal.as_json(told))
        elif isinstance(found, Misconfigured):
            broken.append(found)
        else:
            table.add_row(*map(terminal.text, _row(found, use_as)))
    if not as_json:
        console.print(table)
    for error in broken:
        console.print(terminal.text(f"✗ {error}", "red"))


def _list_known(as_json: bool) -> None:
    from workers.models.dual.published import known

    if as_json:
        for each in known():
            typer.echo(terminal.as_json(each._asdict()))
        return
    columns = ("model", "answers", "languages", "download", "images/s a core", "licence of the weights")
    table = Table(*columns, box=None, pad_edge=False)
    for each in known():
        size = f"{each.bytes / 1e9:.1f} GB" if each.bytes >= 1e8 else f"{each.bytes / 1e6:.0f} MB"
        row = (each.word, each.answers, each.languages, size, f"{each.images_per_s:g}", each.licence or "none named")
        table.add_row(*map(terminal.text, row))
    terminal.console().print(table)


def verify(
    bundle: NameOrFolder,
    device: DeviceOption = None,
    precision: Annotated[
        Literal["tuned", "fp32", "bf16", "fp16", "int8"] | None,
        typer.Option(help="Default: TAGSTREAM_PRECISION.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON document.")] = False,
) -> None:
    """Check a bundle's bytes and this device's golden answers.

    [dim]Before a roll-out:[/]  tagstream models verify bundles/ram
    """
    from workers.environment import read_here
    from workers.models.load import open_bundle, uses_of
    from workers.settings import setting_of

    settings = read_here()
    opened = open_bundle(bundle)
    with bars() as tell:
        tell("reading every file", 0, 1)
        opened.verify()
    uses = uses_of(opened)
    check = partial(
        _golden,
        bundle,
        opened,
        device=device or settings.device,
        precision=precision or settings.precision,
        settings=settings,
    )
    if as_json:
        golden = None if opened.golden is None else [check(use) for use in uses]
        typer.echo(terminal.as_json({**_document(opened, bundle), "golden": golden}))
        return
    say(f"✓ {counted(len(opened.manifest.files), 'file')}, {size_of(opened)}: as they were when the bundle was made")
    say(f"  to pin it: {' or '.join(map(setting_of, uses))}={bundle}@sha256:{opened.digest}")
    if opened.golden is None:
        note("the bundle has no golden answers: what it computes can't be checked.")
        return
    for use in uses:
        found = check(use)
        agreement = f" ({found['agreement']})" if found["agreement"] else ""
        say(f"✓ {use} in {found['precision']}: its golden answers{agreement}")
    if opened.manifest.provenance.random:
        note("its weights are random: its answers mean nothing.")


def tune(
    bundle: NameOrFolder,
    use: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="USE",
            help="Only this use, such as tagger. Default: all uses of the bundle.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, a precision each.")] = False,
) -> None:
    """Find the fastest precision and the best batch on this device.

    Keeps the result in TAGSTREAM_STATE_DIR for TAGSTREAM_PRECISION=tuned, the default. Each precision must give the
    golden answers; then growing batches are timed: half a minute for a small model, some minutes for a large one, and
    some more on CUDA, where the best precision is also tried as CUDA graphs and compiled. A precision ten times slower
    than the best is given up. Run nothing else meanwhile. TAGSTREAM_WORKERS processes compute at the same time, as
    those of a worker do.

    [dim]Once on each kind of device:[/]  tagstream models tune bundles/ram
    """
    from workers.assembly.parts import found_here, tuning_siblings, wanted_processes
    from workers.environment import read_here
    from workers.models.device import named
    from workers.models.load import open_bundle, tune_model, uses_of
    from workers.settings import WorkerPart

    settings = read_here()
    where = device or settings.device
    count = wanted_processes(settings, lambda: found_here(where))
    part = WorkerPart() if count == 1 else WorkerPart(1, count, threads=max(1, found_here(where).threads // count))
    opened = open_bundle(bundle)
    require_writable(settings.state_dir)
    for each in [use] if use else uses_of(opened):
        trials: list[Trial] = []
        with bars() as tell, tuning_siblings(bundle, each, where, part):
            tuned = tune_model(
                bundle,
                settings.state_dir,
                use=each,
                device=where,
                threads=part.threads,
                share=1 / part.of,
                report=trials.append,
                progress=partial(tell, f"timing {opened.name} as a {each}"),
            )
        if as_json:
            for trial in trials:
                typer.echo(terminal.as_json(_trial(trial, opened, each, tuned)))
            continue
        terminal.console().print(_trials(trials, tuned))
        say(
            f"{opened.name} as a {each} on {tuned.device}: {named(tuned.precision, tuned.execution)}, batches of "
            f"{tuned.max_batch}; "
            f"kept in {settings.state_dir}"
        )


def _bundles(folders: list[Path] | None) -> Iterator[tuple[str, Bundle | Misconfigured]]:
    """The bundles, each with the name for TAGSTREAM_TAGGER."""
    from workers.models.bundle import Bundle, list_bundles
    from workers.models.compact import compact_bundle

    yield "compact", compact_bundle()
    for folder in folders or [DEFAULT_FOLDER]:
        if folders and not folder.is_dir():
            yield "", Misconfigured(f"{folder} is no folder.")
        yield from ((str(each.folder) if isinstance(each, Bundle) else "", each) for each in list_bundles(folder))


def _document(bundle: Bundle, use_as: str) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": bundle.name,
        "kind": manifest.kind,
        "uses": _uses(bundle),
        "labels": manifest.labels,
        "digest": bundle.digest,
        "bytes": bundle.size_bytes,
        "random_weights": manifest.provenance.random,
        "source": manifest.provenance.source,
        "use_as": use_as,
    }


def _row(bundle: Bundle, use_as: str) -> tuple[str, ...]:
    manifest = bundle.manifest
    source = "random weights, " if manifest.provenance.random else ""
    return (
        bundle.name,
        manifest.kind,
        ", ".join(_uses(bundle)) or "(its builder is not installed)",
        str(manifest.labels),
        bundle.digest[:12],
        size_of(bundle),
        source + manifest.provenance.source,
        use_as,
    )


def _uses(bundle: Bundle) -> list[str]:
    """The bundle's uses; empty if its builder is not installed."""
    from workers.models.load import uses_of

    try:
        return list(uses_of(bundle))
    except Misconfigured:
        return []


def _golden(
    name: str, bundle: Bundle, use: str, *, device: str, precision: str, settings: Settings
) -> dict[str, str | None]:
    """Use, precision, and agreement (None: no golden answers for this use). Raises Broken: an answer is wrong."""
    from workers.models.load import load, with_golden

    model = load(use, name, device=device, precision=precision, state_dir=settings.state_dir)
    model.max_batch = 1  # known, so that warming up checks the answers and settles nothing
    model.warm_up()
    agreement = with_golden(bundle, use, model)
    return {"use": use, "precision": model.precision, "agreement": None if agreement is None else str(agreement)}


def _trial(trial: Trial, bundle: Bundle, use: str, chosen: Tuned) -> dict[str, Any]:
    return {
        "bundle": bundle.name,
        "use": use,
        "precision": trial.precision,
        "execution": trial.execution,
        "images_per_s": trial.images_per_s,
        "max_batch": trial.max_batch,
        "agreement": None if trial.agreement is None else str(trial.agreement),
        "refusal": trial.refusal or None,
        "chosen": _is(trial, chosen),
    }


def _is(trial: Trial, chosen: Tuned) -> bool:
    return (trial.precision, trial.execution) == (chosen.precision, chosen.execution)


def _trials(trials: list[Trial], chosen: Tuned) -> Table:
    table = Table("precision", "images/s", "batch", "agreement with the golden answers", box=None, pad_edge=False)
    for trial in trials:
        if trial.refusal:
            table.add_row(trial.name, "", "", trial.refusal)
            continue
        speed = f"{trial.images_per_s:.3g}"
        style = "bold" if _is(trial, chosen) else ""
        table.add_row(trial.name, speed, str(trial.max_batch), str(trial.agreement or "not known"), style=style)
    return table
