"""`tagstream compare`: compares two taggers and says whether one may replace the other."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.errors import DONE

if TYPE_CHECKING:
    from workers.backends.kafka import ReadRecord
    from workers.comparison import Objection, Outcomes, PromotionRule, TagAgreement, TagCounts
    from workers.settings import Settings

NOT_YET = 1
"""Exit code if the candidate may not be promoted."""
_BAR = 40


def compare(
    live: Annotated[str, typer.Argument(metavar="A", help="The live tagger's output topic.")],
    candidate: Annotated[str, typer.Argument(metavar="B", help="The candidate's output topic.")],
    images: Annotated[int, typer.Option(min=1, help="Fewest compared images.")] = 1_000,
    jaccard: Annotated[float, typer.Option(min=0, max=1, help="Least mean Jaccard index.")] = 0.8,
    label_images: Annotated[
        int, typer.Option(min=1, help="Judge a label alone if the live tagger gave it to so many images.")
    ] = 20,
    label_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of a label's images with the label from both.")
    ] = 0.5,
    may_lose_labels: Annotated[
        bool, typer.Option("--may-lose-labels", help="Accept labels that the candidate never gives.")
    ] = False,
    worst: Annotated[int, typer.Option(min=0, max=1_000, help="How many of the worst labels to list.")] = 20,
    changes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write what differs, for `tagstream index serve --changes FILE`."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Compare two output topics' tags and say whether the second tagger passes.

    Run the candidate as a second group with an output topic of its own and TAGSTREAM_SAMPLE=0.01. Images are joined by
    subject and content, tags by name; people's tags do not count. Ends with 0 when the candidate may be promoted, and
    with 1 and the reasons when it may not.

    [dim]A sample of the live images:[/]  tagstream compare images.enriched images.candidate --images 5000
    """
    from workers.comparison import PromotionRule

    rule = PromotionRule(images, jaccard, label_images, label_agreement, may_lose_labels)
    found = Compared.of(live, candidate, rule, changes)
    if as_json:
        typer.echo(terminal.as_json(found.document(worst)))
    else:
        found.print(worst)
    raise typer.Exit(NOT_YET if found.against else DONE)


@dataclass(frozen=True)
class Compared:
    """The comparison of two topics, for people and programs."""

    topics: tuple[str, str]
    taggers: tuple[list[str], list[str]]
    found: TagAgreement
    rule: PromotionRule
    against: list[Objection]

    @classmethod
    def of(cls, live: str, candidate: str, rule: PromotionRule, changes: Path | None = None) -> Compared:
        """Read both topics to their present end, the smaller (candidate's) first.

        Args:
            changes: where to write what differs.
        """
        from workers.comparison import Outcomes, agreement, objections
        from workers.retag.changes import Changed, ChangesWriter

        settings = needed("kafka_servers")
        theirs = Outcomes()
        _read(settings, candidate, theirs)
        ours = Outcomes(only=theirs.subjects())
        _read(settings, live, ours)
        with ChangesWriter() as writer:

            def tell(subject: str, known: Set[str], tags: Set[str]) -> None:
                if changes is not None:
                    writer.take(Changed.between(subject, sorted(known), sorted(tags)))

            found = agreement(ours, theirs, tell)
            if changes is not None:
                writer.write(changes, before=live, after=candidate, images=found.compared)
        taggers = list(ours.taggers.values()), list(theirs.taggers.values())
        return cls((live, candidate), taggers, found, rule, objections(found, rule, taggers[1]))

    def document(self, worst: int) -> Mapping[str, Any]:
        from workers.comparison import judged, lost

        labels = list(judged(self.found, self.rule).items())
        return {
            "may_be_promoted": not self.against,
            "objections": [asdict(each) for each in self.against],
            "rule": asdict(self.rule),
            "live": {"topic": self.topics[0], "taggers": self.taggers[0]},
            "candidate": {"topic": self.topics[1], "taggers": self.taggers[1]},
            "compared": self.found.compared,
            "other_content": self.found.other_content,
            "jaccard": self.found.jaccard,
            "mean_jaccard": self.found.mean_jaccard,
            "tags": asdict(self.found.tags),
            "judged_labels": len(labels),
            "worst_labels": [
                {"name": name, **asdict(counts), "agreement": counts.share} for name, counts in labels[:worst]
            ],
            "lost_labels": dict(list(lost(self.found, self.rule).items())[:worst]),
        }

    def print(self, worst: int) -> None:
        from workers.comparison import judged, lost

        console, found, tags = terminal.console(), self.found, self.found.tags
        for role, topic, taggers in zip(("live", "candidate"), self.topics, self.taggers, strict=True):
            console.print(terminal.text(f"{role} {topic}: {', '.join(taggers) or 'no tagger'}"))
        console.print(f"{counted(found.compared, 'image')} compared, {found.other_content:,} with other content")
        console.print(
            f"tags: {tags.both:,} by both, {tags.live:,} by the live one alone, "
            f"{tags.candidate:,} by the candidate alone"
        )
        if found.mean_jaccard is not None:
            console.print(f"mean Jaccard index {found.mean_jaccard:.3f}")
            console.print(_distribution(found))
        labels = judged(found, self.rule)
        if labels and worst:
            console.print(_worst(labels, worst))
        for name, count in list(lost(found, self.rule).items())[:worst]:
            console.print(terminal.text(f"{count:9,} × {name}, which the candidate never gives"))
        for each in self.against:
            console.print(terminal.text(f"✗ not to be promoted: {each.reason}", "red"))
            console.print(terminal.text(f"  next: {each.advice}"))
        if not self.against:
            console.print(terminal.text("✓ the candidate may be promoted", "green"))
            console.print("  next: name its bundle in the live workers' TAGSTREAM_TAGGER, and roll that out")


def _read(settings: Settings, topic: str, outcomes: Outcomes) -> None:
    from schemas.enriched_image import EnrichedImage, Retraction, read_output
    from workers.assembly.topic_reading import read_topic

    def take(record: ReadRecord) -> None:
        if record.value is None:
            return
        output = read_output(record.value)
        if isinstance(output, EnrichedImage | Retraction):
            outcomes.take(output)

    foreign = read_topic(settings, topic, take, counting=terminal.counting)
    terminal.note(*foreign.notes("no outcomes", "images that are gone"))


def _distribution(found: TagAgreement) -> Table:
    table = Table("Jaccard", "images", "", box=None, pad_edge=False)
    for number, count in enumerate(found.jaccard):
        bounds = "1" if number == len(found.jaccard) - 1 else f"{number / 10:g} to {(number + 1) / 10:g}"
        table.add_row(bounds, f"{count:,}", "█" * round(_BAR * count / found.compared))
    return table


def _worst(labels: Mapping[str, TagCounts], most: int) -> Table:
    table = Table("worst labels", "both", "live alone", "candidate alone", "agreement", box=None, pad_edge=False)
    for name, counts in list(labels.items())[:most]:
        numbers = (f"{count:,}" for count in (counts.both, counts.live, counts.candidate))
        table.add_row(terminal.text(name), *numbers, f"{counts.share:.0%}")
    return table
