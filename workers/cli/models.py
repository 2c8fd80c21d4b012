"""`tagstream models`: bundles of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from workers.cli import screen
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.models.bundle import Bundle

app = typer.Typer(help="Bundles: folders that hold a model with all that it needs.", no_args_is_help=True)


@app.command("list")
def list_models(
    folder: Annotated[
        Path, typer.Argument(file_okay=False, help="A folder of bundles, as TAGSTREAM_TAGGER may name one of them.")
    ] = Path("bundles"),
) -> None:
    """List the built-in tagger and the bundles of a folder; one that does not load says why.

    tagstream models list bundles
    """
    from workers.models.bundle import list_bundles
    from workers.models.compact import compact_bundle

    bundles: list[Bundle | Misconfigured] = [compact_bundle(), *list_bundles(folder)]
    table = Table("name", "kind", "labels", "digest", "weights", "use as", box=None, pad_edge=False)
    for bundle in bundles:
        if not isinstance(bundle, Misconfigured):
            table.add_row(*_row(bundle, built_in=bundle is bundles[0]))
    console = screen.console()
    console.print(table)
    for bundle in bundles:
        if isinstance(bundle, Misconfigured):
            console.print(f"✗ {bundle}", style="red", markup=False)


def _row(bundle: Bundle, *, built_in: bool) -> tuple[str, ...]:
    manifest = bundle.manifest
    size = sum(facts.bytes for facts in manifest.files.values())
    random = " (random weights)" if manifest.provenance.random else ""
    return (
        bundle.name + random,
        manifest.kind,
        str(manifest.labels),
        bundle.digest[:12],
        f"{size / 1e6:.0f} MB",
        "compact" if built_in else str(bundle.folder),
    )


@app.callback()
def _group() -> None:
    """Keep `list` a word of its own."""
