"""Dual encoders in `tagstream models`: `import` and `pull` of their files, and `embed`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workers.assembly.bundles import describe
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.cli.terminal import DeviceOption, bars, note, say
from workers.errors import Misconfigured

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workers.models.bundle import Bundle
    from workers.models.dual.importer import Origin
    from workers.models.ram.alignment import Alignment
    from workers.models.ram.importer import WeightDtype


def words() -> list[str]:
    """Names of the published dual encoders."""
    from workers.models.dual.published import PUBLISHED

    return list(PUBLISHED)


def space(word: str) -> str:
    """The space of a published one's vectors."""
    from workers.models.dual.published import PUBLISHED

    return PUBLISHED[word].origin(word).space


def import_dual(
    weights: Path,
    tokenizer: Path,
    out: Path,
    origin: Origin,
    *,
    dtype: WeightDtype,
    image_size: int | None,
    sha256: str | None,
    replace: bool,
) -> None:
    """Make a bundle of local files, and describe it."""
    from workers.models.dual import importer

    with bars() as tell:
        made = importer.import_dual(
            weights,
            tokenizer,
            out,
            origin,
            dtype=dtype,
            image_size=image_size,
            sha256=sha256,
            progress=tell,
            replace_existing=replace,
        )
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
    import_dual(
        weights,
        tokenizer,
        out,
        published.origin(model),
        dtype=dtype,
        image_size=published.image_size,
        sha256=sha256,
        replace=replace,
    )
    say(f"The download stays at {weights}; the bundle does not need it.")


def embed(
    bundle: Annotated[
        Path,
        typer.Argument(help="A dual encoder's bundle with its text tower, or a Tag2Text's with its alignment part."),
    ],
    sentences: Annotated[
        list[str] | None,
        typer.Argument(metavar="SENTENCE…", help="What to make vectors of.", show_default=False),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="An image instead, by an alignment part. Repeat it for more.",
            show_default=False,
        ),
    ] = None,
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
    product with an image's vector of the same space is their cosine. A Tag2Text's alignment part has a space of its
    own, without vectors of workers: it makes those of images too.

    [dim]To look at:[/]       tagstream models embed bundles/siglip2 'a dog on a beach'
    [dim]For a program:[/]    tagstream models embed bundles/siglip2 'a dog' 'a cat' -o vectors.npy
    [dim]Images:[/]           tagstream models embed bundles/tag2text --image a.jpg --image b.jpg
    """
    import numpy as np

    if out is not None and (out.suffix != ".npy" or out.is_dir()):
        raise Misconfigured(f"--out {out}: give a file whose name ends in .npy.")
    if bool(sentences) == bool(images):
        raise Misconfigured("Give sentences, or images by --image.")
    names = sentences or [str(image) for image in images or ()]
    space, vectors = _vectors(bundle, sentences or [], images or [], device or "cpu", precision)
    if out is not None:
        with out.open("wb") as file:
            np.save(file, vectors)
        say(f"{out}: {len(vectors)} x {vectors.shape[1]} numbers in the space {space}")
        return
    for name, vector in zip(names, vectors, strict=True):
        document = {"space": space, "dimensions": len(vector), "vector": vector.tolist()}
        typer.echo(terminal.as_json({"text" if sentences else "image": name, **document}))


def _vectors(
    bundle: Path, sentences: list[str], images: list[Path], device: str, precision: Literal["fp32", "bf16"]
) -> tuple[str, NDArray[np.float32]]:
    """Their space, and the vectors of sentences or of images."""
    from workers.models.bundle import Bundle
    from workers.models.dual.text import open_text
    from workers.models.ram.alignment import has_alignment, load_alignment

    opened = Bundle.open(bundle)
    if images or has_alignment(opened):
        alignment = load_alignment(opened, device=device)
        if precision != "fp32":
            raise Misconfigured("An alignment part computes in fp32: leave --precision out.")
        return alignment.space, _pictured(alignment, opened, images) if images else alignment.sentences(
            sentences
        ).numpy()
    text = open_text(opened, device=device, precision=precision)
    with bars() as tell:
        vectors = text.encode(sentences, lambda done, total: tell("encoding sentences", done, total))
    return text.space, vectors.numpy()


def _pictured(alignment: Alignment, bundle: Bundle, images: list[Path]) -> NDArray[np.float32]:
    import numpy as np

    from workers.assembly.local_files import FailedFile, LocalFiles, answers_of

    reader = SimpleNamespace(
        name=bundle.name, transform=bundle.transform, forward=lambda pixels: alignment.images(pixels).units.numpy()
    )
    found = []
    for each in answers_of(needed(), LocalFiles(images), reader):
        if isinstance(each, FailedFile):
            raise Misconfigured(f"{each.path}: {each.detail}")
        found.append(each[1])
    return np.stack(found)
