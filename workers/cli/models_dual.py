"""Dual encoders in `tagstream models`: `import` and `pull` of their files, and `embed`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workers.assembly.bundles import describe
from workers.cli import terminal
from workers.cli.terminal import DeviceOption, bars, note, say
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.models.dual.config import Kind
    from workers.models.dual.importer import Origin
    from workers.models.ram.importer import WeightDtype


def space(word: str) -> str:
    """The space of a published one's vectors."""
    from workers.models.dual.published import PUBLISHED

    return PUBLISHED[word].origin(word).space


def import_dual(weights: Path, tokenizer: Path, out: Path, origin: Origin, **options: Any) -> None:
    """Make a bundle of local files, and describe it; `options` as of `workers.models.dual.importer.import_dual`."""
    from workers.models.dual import importer

    with bars() as tell:
        made = importer.import_dual(weights, tokenizer, out, origin, progress=tell, **options)
    config = made.manifest.architecture
    say(describe(made))
    say(
        f"  vectors of {config['dimensions']} numbers in the space {config['space']}, images of {config['side']} pixels"
    )
    licence = made.manifest.provenance.licence
    say(f"  licence: {licence or 'none is named for the weights (`models import --licence` keeps one in the bundle)'}")
    if not origin.space:
        note(
            "the space has a name of its own, as for a model of your own; a published one is named by --space, such as "
            "siglip2-b16-384."
        )


def pull_dual(
    model: str, out: Path, downloads: Path | None, *, dtype: WeightDtype, sha256: str | None, replace: bool
) -> None:
    """Fetch a published dual encoder and bundle it."""
    from workers.models.dual.published import PUBLISHED
    from workers.models.pull import download_folder, fetch

    published = PUBLISHED[model]
    folder = downloads or download_folder()
    wanted = published.weights if sha256 is None else dataclasses.replace(published.weights, sha256=(sha256.lower(),))
    with bars() as tell:
        tokenizer = fetch(published.tokenizer, folder / published.tokenizer.repo.replace("/", "--"), progress=tell)
        weights = fetch(wanted, folder / wanted.repo.replace("/", "--"), progress=tell)
    origin, size = published.origin(model), published.image_size
    import_dual(weights, tokenizer, out, origin, dtype=dtype, image_size=size, sha256=sha256, replace_existing=replace)
    say(f"The download stays at {weights}; the bundle does not need it.")


def random_dual(kind: Kind, out: Path, *, seed: int, dtype: WeightDtype, replace: bool) -> None:
    """Make a small bundle of random weights, beside its files."""
    from workers.models.dual.importer import Origin, import_dual, write_checkpoint

    weights, tokenizer = (out.with_name(f"{out.name}.{ending}") for ending in ("safetensors", "tokenizer.json"))
    for file in (weights, tokenizer):
        if file.exists() and not replace:
            raise Misconfigured(f"{file} exists already; give --replace, or choose another name.")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(kind, weights, tokenizer, seed)
    origin = Origin(f"random {kind}", f"random-{kind}-{seed}", f"seed {seed}")
    made = import_dual(weights, tokenizer, out, origin, dtype=dtype, replace_existing=replace)
    say(describe(made))
    say(f"for a rehearsal of `models import`: {weights} --tokenizer {tokenizer} --space {origin.space}")


def embed(
    bundle: Annotated[Path, typer.Argument(help="A dual encoder's bundle with its text tower.")],
    sentences: Annotated[list[str], typer.Argument(metavar="SENTENCE…", help="What to make vectors of.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.npy",
            help="Write the vectors as one float32 array (sentences, numbers) instead.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="To compute in; vectors are float32.")] = "fp32",
) -> None:
    """Make vectors of sentences, in the space of the bundle's images.

    Prints one JSON document a line, a sentence each: text, space, dimensions and vector. Vectors have length 1. The dot
    product with an image's vector of the same space is their cosine.

    [dim]To look at:[/]       tagstream models embed bundles/siglip2 'a dog on a beach'
    [dim]For a program:[/]    tagstream models embed bundles/siglip2 'a dog' 'a cat' -o vectors.npy
    """
    import numpy as np

    from workers.models.dual.text import open_text

    if out is not None and (out.suffix != ".npy" or out.is_dir()):
        raise Misconfigured(f"--out {out}: give a file whose name ends in .npy.")
    for number, sentence in enumerate(sentences, 1):
        if not sentence.strip():
            raise Misconfigured(f"Sentence {number} of {len(sentences)} is empty: write what an image shows.")
    text = open_text(bundle, device=device or "cpu", precision=precision)
    with bars() as tell:
        vectors = text.encode(sentences, lambda done, total: tell("encoding sentences", done, total)).numpy()
    if out is not None:
        with out.open("wb") as file:
            np.save(file, vectors)
        say(f"{out}: {len(vectors)} x {vectors.shape[1]} numbers in the space {text.space}")
        return
    for sentence, vector in zip(sentences, vectors, strict=True):
        document = {"text": sentence, "space": text.space, "dimensions": len(vector), "vector": vector.tolist()}
        typer.echo(terminal.as_json(document))
