"""`tagstream models`: bundles of models."""

from __future__ import annotations

import typer

from workers.cli import models_make, models_use

app = typer.Typer(help="Bundles: folders that hold a model with all that it needs.", no_args_is_help=True)
app.command("list")(models_use.list_models)
app.command("import")(models_make.import_model)
app.command("pull")(models_make.pull)
app.command("verify")(models_use.verify)
app.command("tune")(models_use.tune)
app.command("labels")(models_make.labels)
app.command("random")(models_make.random)
