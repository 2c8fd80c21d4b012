"""`tagstream bench`: what an image costs on this machine with the models of the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers import __version__
from workers.assembly.needs import with_models
from workers.cli.terminal import CaptionerOption, DeviceOption, TaggerOption, bars, note
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.capacity import MachineProfile


def bench(
    photos: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE|FOLDER", help="Images to decode. Default: drawn ones.")
    ] = None,
    model: TaggerOption = None,
    captioner: CaptionerOption = None,
    device: DeviceOption = None,
    most: Annotated[int, typer.Option("--most", min=1, max=1000, help="Most images to decode.")] = 60,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", dir_okay=False, help="Write the profile for `tagstream capacity`."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The profile, as one JSON document.")] = False,
) -> None:
    """Measure decoding and models on this machine.

    Takes about a minute with the built-in tagger; run nothing else meanwhile. Prints Markdown, to paste into an issue.
    `tagstream capacity --profile FILE` computes from it how many such machines you need. Run `tagstream models tune`
    first: it finds the best precision.

    [dim]The settings' models:[/]  tagstream bench

    [dim]Your photos, for capacity:[/]  tagstream bench ~/Pictures --model bundles/ram -o here.json
    """
    from workers.assembly.bench_measures import measured
    from workers.assembly.local_files import image_files

    settings, images = with_models(model, captioner, device), image_files(photos) if photos else []
    images = images[:: max(1, -(-len(images) // most))]
    if settings.captioner_address is not None:
        note(f"captions come from {settings.captioner_address}, which is not measured: `capacity --caption-s` adds it.")
    if output is not None and not os.access(output.parent, os.W_OK):
        raise Misconfigured(f"{output} can't be written: its folder is missing, or may not be written to")
    with bars() as tell:
        profile = measured(settings, images, tell, note)
    document = profile.model_dump_json(by_alias=True, indent=1)
    if output is not None:
        output.write_text(document + "\n", encoding="utf-8")
    typer.echo(document if as_json else report(profile))
    if output is not None:
        typer.echo(f"{output}: for tagstream capacity IMAGES_A_DAY --profile {output}", err=True)


def report(profile: MachineProfile) -> str:
    """The profile as a table of Markdown."""
    rows = [
        ("machine", profile.machine),
        ("tagstream", __version__),
        ("model", profile.name),
        *([("a batch of 1", f"{1000 * profile.single_s:.1f} ms")] if profile.batch > 1 else []),
        (f"a batch of {profile.batch}", f"{1000 * profile.batch_s:.1f} ms, {1 / profile.image_s:.1f} images/s"),
        ("processors that it keeps busy", f"{profile.device_cores:.1f}"),
        *(
            (f"decoding {size:g} megapixels", f"{1000 * profile.decode_core_s(size):.1f} ms of one processor")
            for size in sizes(profile)
        ),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {told} |" for name, told in rows)


def sizes(profile: MachineProfile) -> list[float]:
    """The measured sizes; of many the smallest, the middle one and the largest."""
    found = sorted({each.rounded for each in profile.decoded})
    return found if len(found) <= 3 else [found[0], found[len(found) // 2], found[-1]]
