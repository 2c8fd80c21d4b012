"""`tagstream train collect`: published events and corrections as a training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.printable import counted, printable
from workers.assembly.needs import needed
from workers.cli.terminal import counting, note
from workers.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from schemas.correction import Corrections
    from tagstream_train.data.samples import Sample
    from tagstream_train.engine.collect import CollectedLabels, Collection
    from workers.settings import Settings
    from workers.types import ReadRecord

_MOST_MODELS = 100
"""Named in the set's header; any producer may name others without end."""
CORRECTIONS_BYTES = 1 << 30
"""The most memory for corrections."""


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    out: Annotated[Path, typer.Option("--out", "-o", help="The training set's folder. A later run adds what is new.")]
    labels: Annotated[
        Path | None,
        typer.Option(help="Names of the tags to keep, one a line; without it: all that come.", show_default=False),
    ] = None
    topic: Annotated[str | None, typer.Option(help="By default TAGSTREAM_OUTPUT_TOPIC.")] = None
    corrections: Annotated[str | None, typer.Option(help="By default TAGSTREAM_CORRECTIONS_TOPIC, if it is set.")] = (
        None
    )


def collect(options: CollectOptions) -> None:
    """Make a training set from the enriched topic and people's corrections.

    Each image has the tags of its event with the greatest version; removed images are left out. A person's correction
    overrides a model's tag. Images stay in their bucket: the set names them as s3://bucket/key. After an interruption
    the same command resumes.

    [dim]All that was enriched:[/]   tagstream train collect -o sets/shop
    [dim]Then learn from it:[/]      tagstream train fit sets/shop --from bundles/ram -o bundles/shop
    """
    from tagstream_train.engine.collect import Collection
    from workers.assembly.topic_reading import read_topic

    settings = needed("kafka_servers")
    source = options.topic or settings.output_topic
    said = _corrections(settings, options.corrections or settings.corrections_topic)
    with Collection(options.out / "collected.sqlite") as collection:
        foreign = read_topic(
            settings,
            source,
            lambda record: collection.take(record.value, record.key, record.headers),
            at=collection.positions(source),
            keep=collection.commit,
            counting=counting,
        )
        kept, unknown = _write(options.out, source, collection, _labels(options.labels), said)
    typer.echo(
        f"{counted(kept, 'image')} in {options.out}" + (f", {len(said):,} of them or others corrected" if said else "")
    )
    note(*foreign.notes("not tagstream's", "images that are gone"))
    if unknown:
        typer.echo(f"{options.labels} lacks {counted(sum(unknown.values()), 'tag')}: {_most(unknown)}", err=True)


def _write(
    out: Path, topic: str, collection: Collection, labels: CollectedLabels, said: Corrections | None
) -> tuple[int, dict[str, int]]:
    from tagstream_train.data.samples import write_dataset
    from tagstream_train.engine.collect import sample_of

    models: dict[str, str] = {}

    def samples(advance: Callable[[int], None]) -> Iterator[Sample]:
        for image in collection.images():
            for model in (image.models.tagger, image.models.captioner):
                if model is not None and len(models) < _MOST_MODELS:
                    models[f"{model.name} {model.digest[:8]}"] = model.digest
            yield sample_of(image, labels, said)
            advance(1)

    with counting("images written", len(collection)) as advance:
        made = write_dataset(
            out, samples(advance), labels.names, name=out.name, steps=[f"collected from {topic}"], parents=models
        )
    return len(made), labels.unknown


def _labels(file: Path | None) -> CollectedLabels:
    from tagstream_train.engine.collect import CollectedLabels
    from workers.models.labels import read_names

    return CollectedLabels() if file is None else CollectedLabels(list(dict.fromkeys(read_names(file))))


def _corrections(settings: Settings, topic: str) -> Corrections | None:
    """All corrections of people; None without a topic."""
    from schemas.correction import Corrections
    from workers.assembly.topic_reading import read_topic

    if not topic:
        return None
    said = Corrections()

    def take(record: ReadRecord) -> None:
        said.take(record.key, record.value)
        if said.bytes > CORRECTIONS_BYTES:
            raise Misconfigured(f"{topic} holds more than {CORRECTIONS_BYTES:,} bytes of corrections.")

    note(*read_topic(settings, topic, take, counting=counting).notes("no corrections"))
    return said


def _most(unknown: dict[str, int]) -> str:
    first = sorted(unknown, key=lambda name: -unknown[name])[:5]
    return ", ".join(map(printable, first)) + (", …" if len(unknown) > len(first) else "")
