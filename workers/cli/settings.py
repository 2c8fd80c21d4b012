"""`tagstream settings`: lists every variable with default and meaning, or writes a file to fill in."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from workers.cli import terminal
from workers.errors import Misconfigured

REQUIRED = ("kafka_servers", "s3_endpoint", "buckets")
MATTERING = (
    *("kafka_servers", "group", "input_topics", "output_topic", "dead_letter_topic", "skipped_topic"),
    *("kafka_security_protocol", "kafka_tls_ca", "kafka_sasl_mechanism", "kafka_user", "kafka_password"),
    *("s3_endpoint", "s3_region", "s3_access_key", "s3_secret_key", "buckets", "key_globs"),
    *("redis_url", "tagger", "captioner", "device", "state_dir", "http_host", "http_port", "log_level"),
)
"""The settings of the template."""


def settings(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, a variable each.")] = False,
    template: Annotated[
        bool, typer.Option("--template", help="The settings that matter, as a file to fill in.")
    ] = False,
) -> None:
    """List every TAGSTREAM_… variable with its default and its meaning.

    [bold]tagstream check[/] shows their present values and whether they work.

    [dim]A file to fill in:[/]  tagstream settings --template > tagstream.env
    [dim]Try it:[/]             tagstream --env-file tagstream.env check
    """
    if as_json and template:
        raise Misconfigured("--json and --template are two formats: keep one")
    if template:
        typer.echo("\n".join(_template()))
    elif as_json:
        for document in _documents():
            typer.echo(terminal.as_json(document))
    else:
        console = terminal.console()
        console.print(terminal.listing(("variable", "default", "meaning"), _rows(), 2, console.width))


def _documents() -> Iterator[dict[str, Any]]:
    from workers.environment import FIELDS, default_text, group_of, is_secret, variable

    for field, info in FIELDS.items():
        yield {
            "variable": variable(field),
            "group": group_of(field),
            "default": default_text(field),
            "meaning": info.description or "",
            "secret": is_secret(field),
        }


def _rows() -> Iterator[Sequence[str | Text]]:
    from workers.environment import FIELDS, default_text, group_of, is_secret, variable

    group = ""
    for field, info in FIELDS.items():
        if group_of(field) != group:
            group = group_of(field)
            yield ("",)
            yield (Text(group, "bold"),)
        also = " or …_FILE" if is_secret(field) else ""
        yield f"{variable(field)}{also}", default_text(field), (info.description or "").replace("`", "")


def _template() -> Iterator[str]:
    """Each setting that matters below its meaning: required ones to fill in, others as comments with their default."""
    from workers.environment import FIELDS, default_text, group_of, plain, variable

    yield "# Settings of tagstream that matter most; `tagstream settings` lists all."
    yield "# For `tagstream --env-file`, or for a shell. The environment overrides this file."
    group = ""
    for field in MATTERING:
        if group_of(field) != group:
            group = group_of(field)
            yield from ("", f"# ----- {group} -----")
        default = default_text(field) and shlex.quote(default_text(field))
        yield from ("", f"# {plain(FIELDS[field].description)}")
        yield f"{'' if field in REQUIRED else '#'}{variable(field)}={default}"
