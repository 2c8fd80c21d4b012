"""`tagstream train learn`: the whole loop of the papers on a drawn set."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli import terminal
from workers.cli.models_terminal import say
from workers.cli.train.data import JsonOption
from workers.cli.train.extra import needs
from workers.cli.train.progress import progress

if TYPE_CHECKING:
    from workers.training.learn import Learned

_COLUMNS = ("round", "mAP", "mAP unseen", "tags right", "tags found")


def learn(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for sets and bundles; must be empty.")],
    fast: Annotated[bool, typer.Option("--fast", help="A minute, which shows that it runs and no more.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Draw images, parse their captions, train, generate, clean, train again, fine-tune, and measure each step.

    It is meant for a quarter of an hour on two idle cores, and shows on images whose truth is known what each step of
    the papers is worth: mAP on new images and on combinations never seen, and how right and how complete
    the tags were that each model learned from. The bundles stay in the folder and run as any other.
    """
    needs("train")
    from workers.training.learn import FAST, FULL
    from workers.training.learn import learn as run

    with progress() as tell:
        learned = run(out, FAST if fast else FULL, seed=seed, tell=tell)
    if as_json:
        say(terminal.as_json(_document(learned)))
        return
    say("  ".join(f"{name:>10}" for name in _COLUMNS))
    for each in learned.rounds:
        say("  ".join([f"{each.name:>10}", *(f"{n:>10.1%}" for n in (each.test, each.unseen, each.right, each.found))]))
    say(f"CIDEr-D of captions: {learned.guided:.3f} guided by tags, {learned.unguided:.3f} without")


def _document(learned: Learned) -> dict[str, Any]:
    rounds = [{**dataclasses.asdict(each), "bundle": str(each.bundle)} for each in learned.rounds]
    return {"rounds": rounds, "guided": learned.guided, "unguided": learned.unguided}
