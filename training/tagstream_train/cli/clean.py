"""`tagstream train clean`: drop the wrong tags of a training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted
from tagstream_train.cli.common import BucketOption, progress, store
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.ports import Tagger


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    dataset: Annotated[Path, typer.Argument(metavar="SET", help="The training set.")]
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="BUNDLE",
            help="A bundle that judges, or compact. Of several the first confirms, the others vote.",
        ),
    ]
    out: Annotated[Path, typer.Option("--out", "-o", help="The cleaned set's folder.")]
    confirm: Annotated[
        float, typer.Option(min=0, max=10, help="A region must score over a label's threshold times this.")
    ] = 1.0
    outliers: Annotated[
        float,
        typer.Option(
            min=0, max=0.9, help="Share of each label's regions, the farthest from the others, that lose the tag."
        ),
    ] = 0.1
    regions: Annotated[str, typer.Option(metavar="NAME", help="grid, or a detector that another package brings.")] = (
        "grid"
    )
    labels: Annotated[Path | None, typer.Option(help="The only labels to check, one a line.", show_default=False)] = (
        None
    )
    all_tags: Annotated[bool, typer.Option("--all", help="Check the tags of the set's author and of people too.")] = (
        False
    )
    bucket: BucketOption = None
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda")] = "auto"


def clean(options: CleanOptions) -> None:
    """Drop tags that no image region, model vote or neighbourhood confirms.

    Every decision is in OUT/decisions.jsonl with its reason; OUT/report.html shows some of each with their pictures.
    Images are not moved. After an interruption the same command resumes.

    [dim]With another model than the tags are of:[/]  tagstream train clean sets/shop -m bundles/other -o sets/clean
    """
    from tagstream_train.data.images import Images
    from tagstream_train.data.samples import DataSet
    from tagstream_train.engine.clean import DROPPED, Cleaner, Rules, write_cleaned
    from tagstream_train.engine.regions import TaggerLooker, regions_of
    from tagstream_train.engine.report import Examples, page
    from workers.models.labels import read_names

    if options.out.resolve() == options.dataset.resolve():
        raise Misconfigured("--out is the set itself: name another folder, so that nothing is lost by a wrong rule")
    given = DataSet(options.dataset)
    rules = Rules(
        confirm=options.confirm,
        outliers=options.outliers,
        protected=frozenset() if options.all_tags else Rules().protected,
        labels=None if options.labels is None else frozenset(read_names(options.labels)),
    )
    proposals = regions_of(options.regions)
    models = [TaggerLooker(_warm(each, options.device)) for each in options.model]
    cleaner = Cleaner(given, models, proposals, rules)
    images = Images(options.dataset, store=store(options.bucket))
    examples = Examples()
    with progress() as tell:
        cleaned = cleaner.clean(
            lambda sample: images.load(sample.image),
            options.out / "evidence",
            lambda done: tell("images looked at", done, len(given)),
        )
        made = write_cleaned(cleaned, given, options.out, models, examples.add)
    facts = {
        "set": str(options.dataset),
        "judged by": ", ".join(each.name for each in models),
        "regions": options.regions,
    }
    report = options.out / "report.html"
    report.write_text(page("Cleaned tags", examples, images.load, facts), encoding="utf-8")
    dropped = sum(examples.counts.get(reason, 0) for reason in DROPPED)
    tags = counted(sum(examples.counts.values()), "tag")
    typer.echo(f"{dropped:,} of {tags} dropped; {counted(len(made), 'image')} in {options.out}")
    for reason, count in sorted(examples.counts.items(), key=lambda item: -item[1]):
        typer.echo(f"{count:>9,}  {reason}")
    typer.echo(f"what was decided and why: {report}", err=True)


def _warm(bundle: str, device: str) -> Tagger:
    from workers.models.load import load_tagger

    tagger = load_tagger(bundle, device=device)
    tagger.warm_up()
    return tagger
