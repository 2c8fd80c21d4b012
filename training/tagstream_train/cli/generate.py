"""`tagstream train generate`: add a model's tags and captions to a set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted
from tagstream_train.cli.common import (
    ArgumentOfSet,
    BatchOption,
    BucketOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
    existing,
    note_skipped,
    progress,
    store,
)
from workers.cli import terminal
from workers.cli.terminal import note, say

if TYPE_CHECKING:
    from tagstream_train.engine.generate import Generated
    from workers.ports import Captioner


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The model: `compact`, or a bundle's folder.")]
    dataset: ArgumentOfSet
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="The folder of the new set.")]
    captioner: Annotated[
        Path | None,
        existing(
            "A Tag2Text bundle that captions under the tags of BUNDLE. By default BUNDLE itself, if it is one.",
            folder=True,
        ),
    ] = None
    agree: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="Add a label's tag above the score from which at least this part of its tags is among the set's own, "
            "instead of above the bundle's threshold.",
            show_default=False,
        ),
    ] = None
    captions: Annotated[bool, typer.Option(help="Whether to write captions where a model can.")] = True
    batch: BatchOption = 16
    threads: ThreadsOption = 2
    device: DeviceOption = "auto"
    precision: PrecisionOption = "fp32"
    bucket: BucketOption = None
    as_json: JsonOption = False


def generate(options: GenerateOptions) -> None:
    """Add a model's tags and captions to every image of a set.

    A tag is added when its score is above the bundle's threshold, unless the image is known not to have it; it is
    marked as generated, so `train clean` can check it. Thresholds of hardly learned labels give them to every image:
    with --agree 0.5 no image gets them. These tags guide the captions. generated.jsonl has every answer with its
    scores. After an interruption the same command resumes.

    [dim]Tags and captions:[/]  tagstream train generate bundles/first web -o web2
    """
    from tagstream_train.data.images import Images
    from tagstream_train.data.samples import DataSet
    from tagstream_train.engine.generate import agreeing
    from tagstream_train.engine.generate import generate as run
    from workers.models.load import load_tagger

    source = DataSet(options.dataset)
    tagger = load_tagger(options.bundle, device=options.device, precision=options.precision)
    writer = _captioner(options) if options.captions else None
    images = Images(options.dataset, store=store(options.bucket))
    if options.agree is not None:
        tagger.thresholds = agreeing(tagger, source, images, options.agree)
    with progress() as tell:
        made = run(
            tagger,
            writer,
            source,
            options.out,
            images,
            batch=options.batch,
            threads=options.threads,
            report=lambda done: tell("images", done, len(source)),
        )
    _tell(made, options.out, options.as_json)


def _captioner(options: GenerateOptions) -> Captioner | None:
    from workers.models.load import load_captioner, open_bundle, uses_of

    if options.captioner is None and "captioner" not in uses_of(open_bundle(options.bundle)):
        return None
    return load_captioner(options.captioner or options.bundle, device=options.device, precision=options.precision)


def _tell(made: Generated, out: Path, as_json: bool) -> None:
    if as_json:
        numbers = {"set": str(out), "images": len(made.dataset), "tags": made.tags, "captions": made.captions}
        say(terminal.as_json({**numbers, "unknown": made.unknown, "skipped": made.skipped}))
        return
    tags, captions = counted(made.tags, "tag"), counted(made.captions, "caption")
    say(f"{out}: {counted(len(made.dataset), 'image')}, {tags} and {captions} more")
    if made.unknown:
        first = max(made.unknown, key=lambda name: made.unknown[name])
        note(f"the set lacks {counted(len(made.unknown), 'label')} of the model, {first!r} the most frequent")
    note_skipped(made.skipped)
