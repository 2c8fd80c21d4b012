"""`tagstream models`: the group, and `import`, `pull` and `random`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from workers.assembly.bundles import check_free, describe
from workers.cli import models_dual, models_labels, models_use
from workers.cli.terminal import Replace, bars, note, say
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.models.bundle import Bundle
    from workers.models.ram.config import Kind
    from workers.models.ram.importer import Lists


def _random_words() -> list[str]:
    from workers.models.dual.config import KINDS
    from workers.models.ram.config import PUBLISHED

    return [*(kind.replace("_", "-") for kind in PUBLISHED), *KINDS]  # packages may add some


DualWord = Literal["siglip2-b16-224", "siglip2-b16-384", "siglip2-so400m14-384", "clip-b32", "clip-b16", "clip-l14"]
AnyWord = Literal["ram", "ram-plus", "tag2text", DualWord]
Dtype = Literal["bf16", "fp32", "fp16"]

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the new bundle.")]
Keep = Annotated[
    bool, typer.Option("--keep", help="Keep an existing bundle if every byte is right, so that a job can run twice.")
]
DtypeOption = Annotated[
    Dtype, typer.Option(help="Type of the stored weights; TAGSTREAM_PRECISION chooses the computing one.")
]
Thresholds = Annotated[
    Path | None,
    typer.Option(
        help="Thresholds, one a line, e.g. ram_tag_list_threshold.txt. Default: 0.68 for each label; for Tag2Text "
        "its program's.",
        show_default=False,
    ),
]
Translations = Annotated[
    list[str] | None,
    typer.Option(metavar="LANGUAGE=FILE", help="Names in another language, e.g. zh=ram_tag_list_chinese.txt."),
]
Vocab = Annotated[
    Path | None, typer.Option(help="vocab.txt of bert-base-uncased, which Tag2Text needs.", show_default=False)
]


def import_model(
    file: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint of RAM, RAM++ or Tag2Text (.pth), or of SigLIP, SigLIP 2 or CLIP (.safetensors), or a "
            "file that an installed package knows."
        ),
    ],
    out: Out,
    tags: Annotated[
        Path | None, typer.Option(help="Tag names, one a line, e.g. ram_tag_list.txt.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json of SigLIP or CLIP, in place of --tags.", show_default=False)
    ] = None,
    space: Annotated[
        str,
        typer.Option(
            help="Name of the space of SigLIP's or CLIP's vectors, e.g. siglip2-b16-384. Default: one of the file's "
            "own.",
            show_default=False,
        ),
    ] = "",
    thresholds: Thresholds = None,
    translations: Translations = None,
    vocab: Vocab = None,
    dtype: DtypeOption = "bf16",
    image_size: Annotated[
        int | None, typer.Option(help="Side of the images in pixels. Default: as trained.", show_default=False)
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The expected sha256 of the file.", show_default=False)] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, kept in the bundle.", show_default=False)
    ] = None,
    replace: Replace = False,
    keep: Keep = False,
) -> None:
    """Make a bundle from a published or fine-tuned checkpoint.

    Reads tensors only, and keeps what inference needs. The file itself tells model and size (Swin-B or Swin-L, 224 or
    384 pixels, number of labels). The published lists are in the folder ram/data of the repository
    xinyu1205/recognize-anything on GitHub; a fine-tune with other labels brings its own. SigLIP and CLIP are
    read in the layouts of transformers, open_clip and OpenAI; `models labels` gives such a bundle labels.

    [dim]RAM:[/]       tagstream models import ram_swin_large_14m.pth -o bundles/ram
               --tags ram_tag_list.txt --thresholds ram_tag_list_threshold.txt
               --translations zh=ram_tag_list_chinese.txt
    [dim]Tag2Text:[/]  tagstream models import tag2text_swin_14m.pth -o bundles/tag2text
               --tags tag2text_ori_tag_list.txt --vocab vocab.txt
    [dim]SigLIP 2:[/]  tagstream models import model.safetensors -o bundles/siglip2
               --tokenizer tokenizer.json --space siglip2-b16-224
    """
    if is_there(out, keep=keep, replace=replace):
        return
    options = {"dtype": dtype, "image_size": image_size, "sha256": sha256, "replace_existing": replace}
    if tokenizer is not None:
        from workers.models.dual.importer import Origin

        if tags or thresholds or translations or vocab:
            raise Misconfigured(
                "SigLIP and CLIP: --tags, --thresholds, --translations and --vocab are of RAM, RAM++ and Tag2Text; "
                "give labels afterwards with `tagstream models labels`."
            )
        origin = Origin(space=space, licence=licence)
        models_dual.import_dual(file, tokenizer, out, origin, **options)
        return
    alone = not (tags or space or thresholds or translations or vocab or image_size or licence)
    if alone and _import_added(file, out, sha256=sha256, replace=replace):
        return
    if tags is None or space:
        raise Misconfigured(
            "RAM, RAM++ and Tag2Text need --tags, and SigLIP and CLIP need --tokenizer; give one. Other files need the "
            "package that knows them, and no such option."
        )
    from workers.models.ram.importer import Lists

    given = Lists(tags, thresholds, _translated(translations), vocab)
    _import(file, out, given, licence=licence, **options)


def pull(
    model: Annotated[AnyWord, typer.Argument(metavar="MODEL", help="The published model.")],
    out: Out,
    dtype: DtypeOption = "bf16",
    downloads: Annotated[Path | None, typer.Option(help="Folder for downloads. Default: your cache folder.")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="The expected sha256 of SigLIP's or CLIP's weights.", show_default=False)
    ] = None,
    replace: Replace = False,
    keep: Keep = False,
) -> None:
    """Fetch a published checkpoint with its lists and bundle them.

    The checkpoint comes from the Hugging Face hub, or from the one in HF_ENDPOINT; tags, thresholds and Chinese names
    come from the repository xinyu1205/recognize-anything on GitHub. An interrupted download goes on where it ended, and
    only files with the published sha256 are accepted. A file in the folder of downloads is not fetched again.

    [dim]From nothing to a tagger:[/]     tagstream models pull ram -o bundles/ram
    [dim]From nothing to a captioner:[/]  tagstream models pull tag2text -o bundles/tag2text
    [dim]For labels of your own:[/]       tagstream models pull siglip2-b16-384 -o bundles/siglip2
    """
    if model in get_args(DualWord):
        if not is_there(out, keep=keep, replace=replace, space=models_dual.space(model)):
            models_dual.pull_dual(model, out, downloads, dtype=dtype, sha256=sha256, replace=replace)
        return
    if sha256 is not None:
        raise Misconfigured(f"--sha256: the files of {model} are known here by theirs; leave it out.")
    from workers.models.pull import PUBLISHED, VOCABULARY, HubFile, download_folder, fetch
    from workers.models.ram.config import PUBLISHED as SIZES
    from workers.models.ram.importer import Lists

    kind = model.replace("-", "_")
    if is_there(out, keep=keep, replace=replace, kind=kind):
        return
    published = PUBLISHED[kind]
    with bars() as tell:

        def have(wanted: HubFile | None) -> Path | None:
            return None if wanted is None else fetch(wanted, downloads or download_folder(), progress=tell)

        tags, thresholds, chinese = (have(each) for each in (published.tags, published.thresholds, published.chinese))
        vocab = have(VOCABULARY if SIZES[kind].facts.captions else None)
        checkpoint = have(published.checkpoint)
    assert tags is not None
    assert checkpoint is not None
    lists = Lists(tags, thresholds, {"zh": chinese} if chinese else {}, vocab)
    _import(checkpoint, out, lists, dtype=dtype, replace_existing=replace)
    say(f"The download stays at {checkpoint}; the bundle does not need it.")


def random(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", autocompletion=_random_words, help="ram, ram-plus, tag2text, siglip or clip: its sizes."
        ),
    ],
    out: Out,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights.")] = 0,
    vocab: Vocab = None,
    dtype: DtypeOption = "bf16",
    replace: Replace = False,
) -> None:
    """Make a bundle of random weights, for trials and benchmarks.

    Its answers mean nothing, and every event made with it says so. RAM, RAM++ and Tag2Text have their full size; siglip
    and clip are small dual encoders with a text tower, for a rehearsal of `import`, `labels`, `calibrate` and `search
    --about`.

    [dim]Try it at full size:[/]  tagstream models random ram -o bundles/random-ram
    [dim]Rehearse:[/]             tagstream models random siglip -o bundles/rehearsal
    """
    from workers.models.dual.config import KINDS
    from workers.models.ram.importer import random_bundle
    from workers.models.ram.wordpiece import WordPiece

    if model not in _random_words():
        raise typer.BadParameter(f"{model!r} is not one of {', '.join(_random_words())}.", param_hint="MODEL")
    check_free(out, replace)
    if model in KINDS:
        if vocab is not None:
            raise Misconfigured(f"--vocab: {model} has no captions; leave it out.")
        models_dual.random_dual(model, out, seed=seed, dtype=dtype, replace=replace)
        return
    if vocab is not None:
        WordPiece.read(vocab)
    with bars() as tell:
        made = random_bundle(
            model.replace("-", "_"),
            out,
            seed=seed,
            dtype=dtype,
            vocabulary=None if vocab is None else vocab.read_bytes(),
            progress=tell,
            replace_existing=replace,
        )
    say(describe(made))


def is_there(out: Path, *, keep: bool, replace: bool, kind: Kind | None = None, space: str | None = None) -> bool:
    """Whether a whole bundle is kept there; if not, a bundle may be put there.

    Raises Misconfigured: the bundle there is damaged or another one, or something there may not be replaced.
    """
    from workers.models.bundle import Bundle

    if keep and replace:
        raise Misconfigured("--keep leaves a bundle and --replace replaces it; give one of them.")
    if not keep or not (out / "model.json").is_file():
        check_free(out, replace)
        return False
    bundle = Bundle.open(out)
    if kind is not None and bundle.manifest.kind != kind:
        raise Misconfigured(f"{out} is a bundle of {bundle.manifest.kind}, not of {kind}; choose another name.")
    if space is not None and (there := bundle.manifest.architecture.get("space")) != space:
        raise Misconfigured(
            f"{out} is a bundle of {there or bundle.manifest.kind}, not of {space}; choose another name."
        )
    bundle.verify()
    say(f"{describe(bundle)}: there already, every byte checked")
    return True


def _import_added(file: Path, out: Path, *, sha256: str | None, replace: bool) -> bool:
    from workers.models.load import import_added

    with bars() as tell:
        made = import_added(file, out, sha256=sha256, progress=tell, replace_existing=replace)
    if made is not None:
        say(describe(made))
        say(f"  licence of the weights: {made.manifest.provenance.licence or 'none is named'}")
    return made is not None


def _import(checkpoint: Path, out: Path, lists: Lists, **options: Any) -> None:
    from workers.models.ram.importer import import_checkpoint, sizes_told

    with bars() as tell:
        made = import_checkpoint(checkpoint, out, lists, progress=tell, **options)
    say(describe(made))
    for line in (*sizes_told(checkpoint, made), _licence(made)):
        say(f"  {line}")
    for line in _notes(made, lists, checked=options.get("sha256") is not None):
        note(line)


def _licence(bundle: Bundle) -> str:
    from workers.models.pull import PUBLISHED

    checkpoint = PUBLISHED[bundle.manifest.kind].checkpoint
    provenance = bundle.manifest.provenance
    if provenance.licence is not None:
        return f"licence of the weights: {provenance.licence}"
    page = f"; look at {checkpoint.page}" if checkpoint.is_this(provenance.sha256 or "") else ""
    return f"licence of the weights: not known here{page} (`models import --licence` keeps it in the bundle)"


def _notes(bundle: Bundle, lists: Lists, *, checked: bool) -> Iterator[str]:
    from workers.models.pull import PUBLISHED
    from workers.models.ram.config import PUBLISHED as SIZES

    published = PUBLISHED[bundle.manifest.kind]
    sha256 = bundle.manifest.provenance.sha256 or ""
    if not checked and not published.checkpoint.is_this(sha256):
        wanted = " or ".join(f"{each[:12]}…" for each in published.checkpoint.sha256)
        yield (
            f"this is not the published {published.checkpoint.name} (sha256 {sha256[:12]}… instead of {wanted}): "
            "a checkpoint of your own, or a damaged copy."
        )
    if lists.thresholds is None and published.thresholds is not None:
        own = bundle.manifest.labels != SIZES[bundle.manifest.kind].labels
        better = "give your own" if own else f"give {published.thresholds.name}, the published ones,"
        yield f"every label has the threshold {bundle.thresholds[0]:g}; {better} with --thresholds."


def _translated(given: Sequence[str] | None) -> dict[str, Path]:
    """Label lists by language, from options such as `zh=file`."""
    found = {}
    for each in given or ():
        language, equals, path = each.partition("=")
        if not equals or not path or not re.fullmatch("[A-Za-z0-9-]+", language):
            raise Misconfigured(f"--translations {each}: write LANGUAGE=FILE, e.g. zh=ram_tag_list_chinese.txt.")
        found[language] = Path(path)
    return found


app = typer.Typer(
    help="Make, check and tune bundles: folders with a model and all that it needs.", no_args_is_help=True
)
app.command("list")(models_use.list_models)
app.command("import")(import_model)
app.command("pull")(pull)
app.command("verify")(models_use.verify)
app.command("tune")(models_use.tune)
app.command("labels")(models_labels.labels)
app.command("calibrate")(models_labels.calibrate)
app.command("random")(random)
app.command("embed")(models_dual.embed)
