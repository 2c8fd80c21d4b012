"""`tagstream train pretrain` and `finetune`: train a tagger or captioner from captions and tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from schemas.printable import counted
from tagstream_train.cli.common import (
    ArgumentOfSet,
    BucketOption,
    HookOption,
    JsonOption,
    WorkOption,
    existing,
    progress,
    store,
)
from workers.assembly.bundles import check_free, describe
from workers.cli import terminal
from workers.cli.terminal import Replace, say
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tagstream_train.loop import Progress
    from tagstream_train.pretrain.recipes import Run
    from tagstream_train.pretrain.run import Pretrained
    from workers.models.bundle import Bundle

Recipe = Literal["tiny", "small", "paper"]


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    dataset: Annotated[Path, typer.Argument(metavar="SET", help="A training set with captions and parsed tags.")]
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder, to be made.")]
    model: Annotated[
        Literal["ram", "ram-plus", "tag2text"] | None,
        typer.Option(help="The model to train; needed without --run-file.", show_default=False),
    ] = None
    recipe: Annotated[
        Recipe, typer.Option(help="Sizes and schedule: tiny for a CPU, small for one GPU, paper for eight.")
    ] = "small"
    run: Annotated[Path | None, existing("A run's TOML file, instead of a recipe.", "--run-file")] = None
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            exists=True,
            help="Begin with these weights: an official Swin checkpoint (.pth), or a bundle.",
            show_default=False,
        ),
    ] = None
    vocabulary: Annotated[
        Path | None,
        existing(
            "vocab.txt of bert-base-uncased. Without it, the bundle's, or one of the captions' own words.", "--vocab"
        ),
    ] = None
    label_embeddings: Annotated[
        Path | None,
        existing("Text embeddings of the labels in their order, for RAM and RAM++: one safetensors matrix."),
    ] = None
    image_features: Annotated[Path | None, existing("CLIP's features of the images, to distil.")] = None
    text_features: Annotated[Path | None, existing("CLIP's features of the captions, to align (RAM++).")] = None
    alignment: Annotated[
        Literal["guided", "none"] | None,
        typer.Option(
            "--tags",
            help="Teach Tag2Text to align too (itc, itm), its matching guided by the image's tags, or by none.",
            show_default=False,
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.", show_default=False)
    ] = None
    bucket: BucketOption = None
    hook: HookOption = None
    work: WorkOption = None
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = 2
    show: Annotated[bool, typer.Option("--show", help="Print the run as TOML and stop.")] = False
    keep_captioner: Annotated[
        bool, typer.Option("--keep-captioner", help="Keep RAM's captioning branch, to train on with --from.")
    ] = False
    replace: Replace = False
    as_json: JsonOption = False


def pretrain(options: PretrainOptions) -> None:
    """Pre-train Tag2Text, RAM or RAM++, and write a bundle.

    After an interruption the same command resumes from the last checkpoint. WORK/run.toml has all options, and repeats
    the run with --run-file. To change a recipe, print it with --show, edit it, and give it with --run-file. A part of
    the images is held back, to measure with and to choose each label's threshold. docs/guide/training.md describes the
    losses and the files of features.

    [dim]On a CPU, a small set:[/]     tagstream train pretrain pets --model tag2text --recipe tiny -o bundles/pets
    [dim]On eight GPUs, as the paper:[/]
    torchrun --nproc-per-node 8 --no-python tagstream train pretrain web --model ram-plus --recipe paper
                          --from swin_large_22k.pth --vocab vocab.txt -o bundles/web
    """
    from tagstream_train.plan import toml_of

    chosen = _chosen(options)
    if options.show:
        typer.echo(toml_of(chosen), nl=False)
        return
    _train(options, chosen, keep_captioner=options.keep_captioner)


def _chosen(options: PretrainOptions) -> Run:
    """Read the run's file or recipe, with the command line's changes."""
    from tagstream_train.plan import read_toml
    from tagstream_train.pretrain import recipes
    from workers.models.bundle import Bundle

    model, file, start = options.model, options.run, options.start
    if file is None and model is None:
        raise Misconfigured("Say what to train: --model ram, ram-plus or tag2text, or a run's file with --run-file.")
    run = read_toml(recipes.Run, file) if file is not None else recipes.recipe(options.recipe, model or "ram")
    if model is not None and run.model != model:
        raise Misconfigured(f"{file} trains {run.model}, and --model says {model}.")
    files = ("start", "vocabulary", "label_embeddings", "image_features", "text_features")
    run = run.model_copy(update={name: str(path) for name in files if (path := getattr(options, name))})
    if options.alignment is not None:
        untagged = recipes.UNTAGGED[options.recipe] if file is None else 0.0
        plan = run.alignment or recipes.AlignmentPlan(untagged=untagged)
        run = run.model_copy(update={"alignment": plan.model_copy(update={"tags": options.alignment})})
    if start is not None and start.is_dir():
        manifest = Bundle.open(start).manifest
        run = run.sized_as(manifest.kind, manifest.architecture)
    return run if options.seed is None else run.seeded(options.seed)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    dataset: ArgumentOfSet
    parent: Annotated[Path, typer.Option("--from", metavar="BUNDLE", help="A Tag2Text with an alignment part.")]
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder, to be made.")]
    task: Annotated[Literal["retrieval"], typer.Option(help="What to train for.")] = "retrieval"
    epochs: Annotated[int, typer.Option(min=1, help="How often each image is seen, with one of its captions.")] = 30
    batch: Annotated[int, typer.Option(min=1, help="Pairs that are computed together, in each process.")] = 32
    accumulation: Annotated[int, typer.Option(min=1, help="Batches that make one step.")] = 1
    lr: Annotated[float, typer.Option(help="Learning rate, which falls to 0 by a cosine.")] = 1e-5
    augment: Annotated[
        Literal["paper", "flip", "none"], typer.Option(help="Changes of images: as in pre-training, flips alone, none.")
    ] = "paper"
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bf16: faster on GPUs.")] = False
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 2
    bucket: BucketOption = None
    hook: HookOption = None
    work: WorkOption = None
    replace: Replace = False
    as_json: JsonOption = False


def finetune(options: FinetuneOptions) -> None:
    """Fine-tune a Tag2Text for retrieval, and write a bundle.

    Trains its network and its alignment part to distinguish an image's captions from others. Its tags and captions
    change too: measure them. After an interruption the same command resumes from the last checkpoint.

    [dim]On COCO:[/]
    tagstream train import coco_karpathy_train.json --images coco -o coco
    tagstream train finetune coco --from bundles/tag2text -o bundles/coco --bf16
    tagstream train evaluate bundles/coco coco_karpathy_test.json --images coco --task retrieval
    """
    from tagstream_train.plan import Plan
    from tagstream_train.retrieval.finetune import retrieval_run
    from workers.models.bundle import Bundle

    plan = Plan(
        epochs=options.epochs,
        batch=options.batch,
        accumulation=options.accumulation,
        lr=options.lr,
        clip=0.0,
        precision="bf16" if options.bf16 else "fp32",
        seed=options.seed,
    )
    _train(options, retrieval_run(Bundle.open(options.parent), plan, options.augment))


def _train(options: PretrainOptions | FinetuneOptions, chosen: Run, *, keep_captioner: bool = False) -> None:
    """Train, write the bundle, and print the result."""
    from tagstream_train.data.images import Images
    from tagstream_train.data.samples import DataSet
    from tagstream_train.loop import rank
    from tagstream_train.pretrain.run import pretrain as train
    from tagstream_train.pretrain.run import write_bundle
    from tagstream_train.record import find_hook
    from tagstream_train.retrieval.finetune import write_finetuned

    check_free(options.out, options.replace)
    data = DataSet(options.dataset)
    folder = options.work or options.out.with_name(f"{options.out.name}.work")
    with progress() as tell:

        def report(stage: int, done: Progress) -> None:
            tell(f"stage {stage} of {len(chosen.stages)}, steps", done.step, done.steps)

        hooks = [find_hook(name) for name in options.hook or ()]
        made = train(
            data, chosen, folder, store=store(options.bucket), workers=options.workers, hooks=hooks, report=report
        )
        if rank() != 0:
            return
        tell("the bundle", 0, 1)
        if chosen.retrieval:
            bundle = write_finetuned(made, options.out, replace_existing=options.replace)
        else:
            bundle = write_bundle(
                made,
                options.out,
                Images(options.dataset, store=store(options.bucket)),
                workers=options.workers,
                keep_captioner=keep_captioner,
                replace_existing=options.replace,
            )
    if options.as_json:
        say(terminal.as_json(_document(made, bundle)))
        return
    say(describe(bundle))
    for line in _lines(made, bundle, folder):
        say(f"  {line}")


def _document(made: Pretrained, bundle: Bundle) -> dict[str, Any]:
    from tagstream_train.export import card_of

    card = card_of(bundle)
    return {
        "bundle": str(bundle.folder),
        "digest": bundle.digest,
        "steps": made.steps,
        "losses": dict(made.losses),
        "metrics": {} if card is None else card.metrics,
    }


def _lines(made: Pretrained, bundle: Bundle, folder: Path) -> Iterator[str]:
    document = _document(made, bundle)
    yield f"{counted(made.steps, 'step')}, {counted(made.images, 'image')}; {folder} has the run's file and its curves"
    if made.losses:
        yield "losses of the last step: " + ", ".join(f"{name} {loss:.4g}" for name, loss in made.losses.items())
    for name, value in document["metrics"].items():
        yield f"{name} of {counted(len(made.held), 'image')} held back: {'-' if value is None else f'{value:.1%}'}"
    if not made.held and not made.run.retrieval:
        yield "no image was held back: nothing is measured, and thresholds are those of the training images"
