"""`tagstream compare`: compares two taggers and says whether one may replace the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from schemas.printable import counted
from workers.assembly.needs import needed
from workers.cli import terminal
from workers.errors import DONE

if TYPE_CHECKING:
    from workers.assembly.comparing import ComparedTopics
    from workers.comparison import PromotionRule

NOT_YET = 1
"""Exit code if the candidate may not be promoted."""


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
    from workers.assembly.comparing import compare_topics
    from workers.comparison import PromotionRule

    rule = PromotionRule(images, jaccard, label_images, label_agreement, may_lose_labels)
    settings = needed("kafka_servers")
    made = compare_topics(settings, live, candidate, rule, changes, terminal.counting, terminal.note)
    if as_json:
        typer.echo(terminal.as_json(_document(made, rule, live, candidate, worst)))
    else:
        _print(made, rule, live, candidate, worst)
    raise typer.Exit(NOT_YET if made.against else DONE)


def _document(made: ComparedTopics, rule: PromotionRule, live: str, candidate: str, worst: int) -> Mapping[str, Any]:
    from workers.comparison import judged, lost

    found = made.found
    labels = list(judged(found, rule).items())
    return {
        "may_be_promoted": not made.against,
        "objections": [asdict(each) for each in made.against],
        "rule": asdict(rule),
        "live": {"topic": live, "taggers": made.live},
        "candidate": {"topic": candidate, "taggers": made.candidate},
        "compared": found.compared,
        "other_content": found.other_content,
        "mean_jaccard": found.mean_jaccard,
        "tags": asdict(found.tags),
        "judged_labels": len(labels),
        "worst_labels": [
            {"name": name, **asdict(counts), "agreement": counts.share} for name, counts in labels[:worst]
        ],
        "lost_labels": dict(list(lost(found, rule).items())[:worst]),
    }


def _print(made: ComparedTopics, rule: PromotionRule, live: str, candidate: str, worst: int) -> None:
    from workers.comparison import judged, lost

    console, found, tags = terminal.console(), made.found, made.found.tags
    terminal.say(f"live {live}: {', '.join(made.live) or 'no tagger'}")
    terminal.say(f"candidate {candidate}: {', '.join(made.candidate) or 'no tagger'}")
    console.print(f"{counted(found.compared, 'image')} compared, {found.other_content:,} with other content")
    console.print(
        f"tags: {tags.both:,} by both, {tags.live:,} by the live one alone, {tags.candidate:,} by the candidate alone"
    )
    if found.mean_jaccard is not None:
        console.print(f"mean Jaccard index {found.mean_jaccard:.3f}")
    labels = judged(found, rule)
    if labels and worst:
        table = Table("worst labels", "both", "live alone", "candidate alone", "agreement", box=None, pad_edge=False)
        for name, counts in list(labels.items())[:worst]:
            numbers = (f"{count:,}" for count in (counts.both, counts.live, counts.candidate))
            table.add_row(terminal.text(name), *numbers, f"{counts.share:.0%}")
        console.print(table)
    for name, count in list(lost(found, rule).items())[:worst]:
        terminal.say(f"{count:9,} × {name}, which the candidate never gives")
    for each in made.against:
        console.print(terminal.text(f"✗ not to be promoted: {each.reason}", "red"))
        terminal.say(f"  next: {each.advice}")
    if not made.against:
        console.print(terminal.text("✓ the candidate may be promoted", "green"))
        console.print("  next: name its bundle in the live workers' TAGSTREAM_TAGGER, and roll that out")
