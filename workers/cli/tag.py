"""`tagstream tag`: tags local photos, without Kafka, a store or a cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.needs import with_models
from workers.cli import terminal
from workers.cli.terminal import CaptionerOption, DeviceOption, TaggerOption, note
from workers.errors import MISCONFIGURED

if TYPE_CHECKING:
    from workers.assembly.local_files import FailedFile, FileTagger, TaggedFile
    from workers.cli.tag_page import Page
    from workers.pipeline.roles import ModelsByUse
    from workers.settings import Settings

PATIENCE_S = 120.0
"""Least seconds to wait for a service's caption: here no other image waits behind it."""


def tag(
    paths: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER", help="Images, and folders of images.")],
    model: TaggerOption = None,
    captioner: CaptionerOption = None,
    device: DeviceOption = None,
    top: Annotated[int, typer.Option(min=1, help="Most tags of an image, best first.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, a file each.")] = False,
    page: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Also write an HTML page with pictures, tags, captions and a search.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tag and caption local images as the worker would.

    Uses the worker's decoders, limits and models, and needs no server. A file that can't be tagged gets one line with
    the reason; the exit code is 2 only if no file could be tagged. A folder's images are found by their endings and
    taken in order of name. TAGSTREAM_ROLES adds results, such as the text in pictures.

    [dim]With the built-in tagger:[/]  tagstream tag photo.jpg ~/Pictures

    [dim]With your own bundles:[/]  tagstream tag ~/Pictures --model bundles/ram --captioner bundles/tag2text --json

    [dim]To look through in a browser:[/]  tagstream tag ~/Pictures --page out.html
    """
    from workers.assembly.local_files import TaggedFile, image_files
    from workers.assembly.requirements import require_labelled
    from workers.cli.tag_page import page_at, told_by

    settings = with_models(model, captioner, device)
    require_labelled(settings)
    files = image_files(paths)
    tagged = 0
    with nullcontext() if page is None else page_at(page) as written, _tagger(settings, files, written) as tagger:
        console = terminal.console()
        for result in tagger.results():
            tagged += isinstance(result, TaggedFile)
            if written is not None:
                written.add(_name(result.path), result, _document(result, top))
            if as_json:
                typer.echo(terminal.as_json(_document(result, top)))
            else:
                console.print(_row(result, top, console.width))
                if isinstance(result, TaggedFile) and (told := told_by(result)):
                    line = ", ".join(f"{name} {value}" for name, value in told.items())
                    console.print(terminal.text(f"  {shorten(line, 400, placeholder=' …')}", "dim"))
    if page is not None:
        typer.echo(f"a page with the images: {_name(page.absolute())}", err=True)
    failed = len(files) - tagged
    missed = f", {failed:,} could not be" if failed else ""
    typer.echo(f"{tagged:,} of {counted(len(files), 'image')} tagged{missed}", err=True)
    if not tagged:
        raise typer.Exit(MISCONFIGURED)


@contextmanager
def _tagger(settings: Settings, files: list[Path], page: Page | None) -> Iterator[FileTagger]:
    from workers.assembly.composition import load_models
    from workers.assembly.decoders import intake, limits, profiles
    from workers.assembly.local_files import FileTagger, LocalFiles
    from workers.assembly.remote import remote_captioner
    from workers.cli.tag_page import TRANSFORM
    from workers.models.result_kinds import added_kinds
    from workers.models.template import TemplateCaptioner

    models = load_models(settings)
    _warm_up(models)
    tagger, by_use = models["tagger"], dict[str, Any](models)
    patient = {"caption_wait_s": max(PATIENCE_S, settings.caption_wait_s)}
    remote = remote_captioner(settings.model_copy(update=patient))
    transforms = [model.transform for model in (*by_use.values(), *([remote] if remote else []))]
    picture = None
    if page is not None:
        page.begin(tagger)
        picture = TRANSFORM
        transforms.append(picture)
    store = LocalFiles(files)
    with closing(intake(settings, transforms, store)) as made, closing(remote) if remote else nullcontext():
        yield FileTagger(
            store,
            made,
            tagger,
            profiles(settings, tagger)["default"],
            captioner=models.get("captioner"),
            added={added_kinds()[role]: by_use[role] for role in settings.roles},
            template=TemplateCaptioner() if settings.captioner == "template" else None,
            remote=remote,
            picture=picture,
            max_bytes=limits(settings).max_object_bytes,
        )
        if remote is not None and (why := remote.unready()):
            note(why)


def _warm_up(models: ModelsByUse) -> None:
    """Check the golden answers, without the search for the best batch."""
    from workers.assembly.local_files import BATCH

    loaded: dict[str, Any] = dict(models)
    for model in loaded.values():
        model.max_batch = model.max_batch or BATCH
        model.warm_up()
        if model.random_weights:
            note(f"the weights of {model.name} are random: its answers mean nothing.")


def _document(result: TaggedFile | FailedFile, top: int) -> dict[str, Any]:
    from workers.assembly.local_files import FailedFile
    from workers.pipeline.facts import image_of

    file = {"file": _name(result.path)}
    if isinstance(result, FailedFile):
        return file | {"error": {"reason": result.reason, "detail": result.detail}}
    tags: list[dict[str, Any]] = [{"name": name, "score": score} for name, score in result.tags[:top]]
    for each, parents in zip(tags, result.parents, strict=False):
        if parents:
            each["parents"] = list(parents)
    results = {kind.name: value for kind, value in result.results.items()}
    return (
        file
        | {"tags": tags, "caption": result.caption, "image": image_of(result.facts, result.told)}
        | ({"results": results} if results else {})
        | ({"missing": [{"want": "caption", "reason": result.missing.reason}]} if result.missing else {})
    )


def _row(result: TaggedFile | FailedFile, top: int, width: int) -> Table:
    from workers.assembly.local_files import FailedFile

    name, most = _name(result.path), width // 4 - 2
    if len(name) > most:
        name = f"…{name[1 - most :]}"  # its end says more
    if isinstance(result, FailedFile):
        return _line("red", name, f"✗ {result.reason}", result.detail)
    tags = ", ".join(f"{tag} {score:.2f}" for tag, score in result.tags[:top])
    caption = f"({result.missing})" if result.missing else result.caption
    return _line("", name, tags or "no tag is above its threshold", caption or "")


def _line(style: str, *cells: str) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for ratio in (3, 5, 4):
        table.add_column(ratio=ratio, style=style, overflow="ellipsis", no_wrap=True)
    table.add_row(*map(terminal.text, cells))
    return table


def _name(path: Path) -> str:
    """A path as text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
