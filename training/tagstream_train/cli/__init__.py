"""`tagstream train`: data sets, training, and how good a model is."""

from __future__ import annotations

import typer

from tagstream_train.cli import clean, collect, data, evaluate, fit, generate, learn, parse, pretrain

app = typer.Typer(
    help="Train taggers and captioners on your own images, and measure them. docs/training.md is the guide.",
    no_args_is_help=True,
)
app.command()(fit.fit)
app.command("import")(data.import_data)
app.command("split")(data.split)
app.command("shards")(data.shards)
app.command("clean")(clean.clean)
app.command("collect")(collect.collect)
app.command()(parse.parse)
app.command("pretrain")(pretrain.pretrain)
app.command("generate")(generate.generate)
app.command("evaluate")(evaluate.evaluate)
app.command()(learn.draw)
app.command()(learn.learn)
