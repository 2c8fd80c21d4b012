"""`tagstream train collect`: what workers published and what persons corrected, as a training set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.needs import needed
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from schemas.correction import Corrections
    from workers.settings import Settings
    from workers.training.data.samples import Sample
    from workers.training.engine.collect import Collection, Labels

BATCH = 2_000
"""Records between two notes of the place."""
CORRECTIONS_BYTES = 1 << 30
"""The most memory for what persons said."""


def collect(
    out: Annotated[Path, typer.Option("--out", "-o", help="The training set's folder. A later run adds what is new.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Names of the tags to keep, one a line; without it: all that come.", show_default=False),
    ] = None,
    topic: Annotated[str | None, typer.Option(help="By default TAGSTREAM_OUTPUT_TOPIC.")] = None,
    corrections: Annotated[
        str | None, typer.Option(help="By default TAGSTREAM_CORRECTIONS_TOPIC, if it is set.")
    ] = None,
) -> None:
    """Make a training set of the enriched topic, and of what persons corrected.

    Of each image the newest event counts; what is gone is left out; a person's word goes before a model's. The images
    stay where they are: the set names them as s3://bucket/key. Interrupted, it goes on where it stopped when the same
    command is given again.

    [dim]All that was enriched:[/]   tagstream train collect -o sets/shop
    [dim]Then learn from it:[/]      tagstream train fit sets/shop --from bundles/ram -o bundles/shop
    """
    from workers.training.engine.collect import Collection

    settings = needed("kafka_servers")
    source = topic or settings.output_topic
    said = _corrections(settings, corrections or settings.corrections_topic)
    with Collection(out / "collected.sqlite") as collection:
        unreadable = _read(settings, source, collection)
        kept, unknown = _write(out, source, collection, _labels(labels), said)
    typer.echo(f"{kept:,} images are in {out}" + (f", {len(said):,} of them or others corrected" if said else ""))
    if unreadable:
        typer.echo(f"{unreadable:,} records were none of tagstream's", err=True)
    if unknown:
        typer.echo(f"{sum(unknown.values()):,} tags are not in {labels}: {_most(unknown)}", err=True)


def _read(settings: Settings, topic: str, collection: Collection) -> int:
    """Take what the topic has that was not read before; how many records were none of ours."""
    from workers.backends.kafka import tail
    from workers.cli.clients import security, servers
    from workers.cli.terminal import counting

    unreadable = 0
    reading = tail(
        servers(settings),
        [topic],
        start="beginning",
        at=collection.positions(topic),
        follow=False,
        security=security(settings),
    )
    with reading, counting("offsets read", reading.left()) as advance:
        left, taken = reading.left(), 0
        while not reading.at_end():
            for record in reading.poll(0.2):
                unreadable += collection.take(record.value) is not None
                taken += 1
            if taken >= BATCH:
                taken = 0
                collection.commit(reading.positions())
            before, left = left, reading.left()
            advance(before - left)
        collection.commit(reading.positions())
    return unreadable


def _write(
    out: Path, topic: str, collection: Collection, labels: Labels, said: Corrections | None
) -> tuple[int, dict[str, int]]:
    from workers.cli.terminal import counting
    from workers.training.data.samples import write_dataset
    from workers.training.engine.collect import sample_of

    models: dict[str, str] = {}

    def samples(advance: Callable[[int], None]) -> Iterator[Sample]:
        for image in collection.images():
            for model in (image.models.tagger, image.models.captioner):
                if model is not None:
                    models[f"{model.name} {model.digest[:8]}"] = model.digest
            yield sample_of(image, labels, said)
            advance(1)

    with counting("images written", len(collection)) as advance:
        made = write_dataset(
            out, samples(advance), labels.names, name=out.name, steps=[f"collected from {topic}"], parents=models
        )
    return len(made), labels.unknown


def _labels(file: Path | None) -> Labels:
    from workers.models.labels import read_names
    from workers.training.engine.collect import Labels

    return Labels() if file is None else Labels(list(dict.fromkeys(read_names(file))))


def _corrections(settings: Settings, topic: str) -> Corrections | None:
    """All that persons said; None without a topic."""
    from schemas.correction import Corrections
    from workers.backends.kafka import tail
    from workers.cli.clients import security, servers

    if not topic:
        return None
    said = Corrections()
    unreadable = 0
    with tail(servers(settings), [topic], start="beginning", follow=False, security=security(settings)) as reading:
        for record in reading:
            try:
                said.take(record.key, record.value)
            except ValueError:
                unreadable += 1
            if said.bytes > CORRECTIONS_BYTES:
                raise Misconfigured(f"{topic} holds more than {CORRECTIONS_BYTES:,} bytes of corrections.")
    if unreadable:
        typer.echo(f"{unreadable:,} records of {topic} are no corrections", err=True)
    return said


def _most(unknown: dict[str, int]) -> str:
    from schemas.printable import printable

    first = sorted(unknown, key=lambda name: -unknown[name])[:5]
    return ", ".join(map(printable, first)) + (", …" if len(unknown) > len(first) else "")
