"""`tagstream train`: data sets, training, and how good a model is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from tagstream_train.cli import clean, collect, data, evaluate, fit, generate, parse, pretrain
from tagstream_train.cli.common import command_of

app = typer.Typer(
    help="Train taggers and captioners on your own images, and measure them. docs/guide/training.md is the guide.",
    no_args_is_help=True,
)
_COMMANDS: dict[str, Callable[[Any], None]] = {
    "fit": fit.fit,
    "import": data.import_data,
    "split": data.split,
    "clean": clean.clean,
    "collect": collect.collect,
    "parse": parse.parse,
    "pretrain": pretrain.pretrain,
    "finetune": pretrain.finetune,
    "generate": generate.generate,
    "evaluate": evaluate.evaluate,
}
for _name, _run in _COMMANDS.items():
    app.command(_name)(command_of(_run))
