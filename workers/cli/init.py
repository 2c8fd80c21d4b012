"""`tagstream init` writes a commented file of settings; `--env-file` reads it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from workers.cli import terminal
from workers.errors import INTERRUPTED, Misconfigured

REQUIRED = ("kafka_servers", "s3_endpoint", "buckets")
MATTERING = (
    *("kafka_servers", "group", "input_topics", "output_topic", "dead_letter_topic", "skipped_topic"),
    *("kafka_security_protocol", "kafka_tls_ca", "kafka_sasl_mechanism", "kafka_user", "kafka_password"),
    *("s3_endpoint", "s3_region", "s3_access_key", "s3_secret_key", "buckets", "key_globs"),
    *("redis_url", "tagger", "captioner", "device", "state_dir", "http_host", "http_port", "log_level"),
)
"""The settings in the file."""
_ASKED = (
    *(("kafka_servers",), ("s3_endpoint",), ("s3_access_key", "s3_secret_key")),
    *(("buckets",), ("redis_url",), ("tagger",)),
)
"""Fields to ask for in turn; those checked together are asked together."""


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="File to write.")] = Path(
        "tagstream.env"
    ),
    kafka_servers: Annotated[str | None, typer.Option(metavar="HOST:PORT,…", help="Kafka's bootstrap servers.")] = None,
    s3_endpoint: Annotated[str | None, typer.Option(metavar="URL", help="The object store.")] = None,
    s3_access_key: Annotated[str | None, typer.Option(metavar="KEY", help="Access key. Default: anonymous.")] = None,
    s3_secret_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with the secret key, which stays there.")
    ] = None,
    buckets: Annotated[str | None, typer.Option(metavar="NAME,…", help="Buckets that events may name.")] = None,
    redis_url: Annotated[str | None, typer.Option(metavar="URL", help="Redis. Default: no cache.")] = None,
    tagger: Annotated[str | None, typer.Option(metavar="NAME", help="`compact`, or a bundle's folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented file with the settings that matter.

    On a terminal it asks for missing values. Only its owner may read the file, since it may hold secrets.

    [dim]By asking:[/]    tagstream init
    [dim]By options:[/]   tagstream init --kafka-servers kafka:9092 --s3-endpoint http://minio:9000 --buckets photos
    [dim]Afterwards:[/]   tagstream --env-file tagstream.env check
    """
    if file.exists() and not force:
        raise Misconfigured(f"{file} exists: --force overwrites it")
    options = {
        "KAFKA_SERVERS": kafka_servers,
        "S3_ENDPOINT": s3_endpoint,
        "S3_ACCESS_KEY": s3_access_key,
        "S3_SECRET_KEY_FILE": s3_secret_key_file,
        "BUCKETS": buckets,
        "REDIS_URL": redis_url,
        "TAGGER": tagger,
    }
    given = {f"TAGSTREAM_{name}": value for name, value in options.items() if value}
    values = asked(given) if sys.stdin.isatty() else given
    if wrong := _wrong(values, *REQUIRED):
        raise Misconfigured("\n".join([*wrong, "`tagstream init --help` lists the options; on a terminal it asks."]))
    _write(file, written({name: _anywhere(name, value) for name, value in values.items()}), force)
    typer.echo(f"{file} is written. Next:\n\n  tagstream --env-file {shlex.quote(str(file))} check")


def asked(given: Mapping[str, str]) -> dict[str, str]:
    """The given values, and right answers for the others."""
    values = dict(given)
    try:
        for fields in _ASKED:
            if not any(_field(name) in fields for name in given):
                values |= _answers(fields)
    except typer.Abort:
        typer.echo("\nNothing was written.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    return values


def _answers(fields: tuple[str, ...]) -> dict[str, str]:
    """Right answers for these fields; an empty first answer leaves out the others."""
    from workers.environment import variable

    while True:
        values: dict[str, str] = {}
        for field in fields:
            if not (answer := _ask(field)):
                break
            values[variable(field)] = answer
        wrong = _wrong(values, *(field for field in fields if field in REQUIRED))
        if not wrong:
            return values
        terminal.console(stderr=True).print(terminal.text("\n".join(wrong), "red", lines=True))


def _ask(field: str) -> str:
    from workers.environment import FIELDS, default_text, plain, variable

    typer.echo(f"\n{plain(FIELDS[field].description)}.")
    hidden = field == "s3_secret_key"
    default = default_text(field)
    return str(typer.prompt(f"  {variable(field)}", default, show_default=bool(default), hide_input=hidden)).strip()


def _wrong(values: Mapping[str, str], *required: str) -> list[str]:
    """A line for each wrong or missing value."""
    from workers.environment import examine

    hidden = [
        f"{name} holds a line break or another character that is not printable"
        for name in values
        if not values[name].isprintable()
    ]
    return hidden or examine(values, *required)[1]


def _anywhere(name: str, value: str) -> str:
    """The value with a path that means the same in every folder."""
    from workers.settings import expanded

    is_path = name.endswith("_FILE") or (name == "TAGSTREAM_TAGGER" and value != "compact")
    return str(expanded(Path(value)).absolute()) if is_path else value


def written(values: Mapping[str, str]) -> str:
    """The file's text: each setting below its meaning; unset ones as comments.

    Args:
        values: by name of the variable, which may be that of a secret's file.
    """
    from workers.environment import FIELDS, default_text, group_of, plain, variable

    by_field = {_field(name): f"{name}={shlex.quote(value)}" for name, value in values.items()}
    lines = [
        "# Settings of tagstream that matter most; `tagstream settings` lists all.",
        "# For `tagstream --env-file`, or for a shell. The environment overrides this file.",
    ]
    group = ""
    for field in MATTERING:
        if group_of(field) != group:
            group = group_of(field)
            lines += ["", f"# ----- {group} -----"]
        default = default_text(field) and shlex.quote(default_text(field))
        lines += ["", f"# {plain(FIELDS[field].description)}", by_field.get(field, f"#{variable(field)}={default}")]
    return "\n".join(lines) + "\n"


def _field(name: str) -> str:
    """The field of a variable, or of its `…_FILE`."""
    return name.removeprefix("TAGSTREAM_").removesuffix("_FILE").lower()


def _write(file: Path, text: str, force: bool) -> None:
    how = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(file, how, 0o600), "w", encoding="utf-8") as opened:
            os.fchmod(opened.fileno(), 0o600)
            opened.write(text)
    except OSError as error:
        raise Misconfigured(f"{file} can't be written: {error.strerror}") from error


LARGEST_BYTES = 1 << 20
_COMPLAINTS = 20
"""The most complaints about one file."""
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]{0,99})=(.*)", re.DOTALL)
_PIECE = re.compile(r"""'([^']*+)'|"((?:[^"\\]++|\\.)*+)"|\\(.)|([^\s'"\\]++)""")
"""What a value is made of, as in a shell: in single quotes, in double quotes, behind a backslash, or bare.

Nothing that was matched is given back, so a quote without an end costs one look at the line."""
_ESCAPE = re.compile(r'\\(["\\$`])')
_REST = re.compile(r"\s*(\s#.*)?")
_FILE = "_FILE"


def load_env_file(path: Path) -> None:
    """Set the file's variables in this process's environment, where unset.

    Raises:
        Misconfigured: a line for everything that is wrong with it; nothing was set then. Values are not named.
    """
    for name, value in parse_env_file(_text(path), str(path)).items():
        if not _is_set(name):
            os.environ[name] = value


def parse_env_file(text: str, source: str) -> Mapping[str, str]:
    """The variables of `NAME=value` lines; the later value of a repeated name.

    Lines are read as a shell reads them, but nothing is expanded: `$` is a `$`.

    Args:
        source: the file's name, for complaints.

    Raises:
        Misconfigured: a line for each that can't be read, and for each unknown setting.
    """
    found: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(wrong) == _COMPLAINTS:
            break
        try:
            name, value = _assignment(line.rstrip("\r"))
            found[name] = value
        except ValueError as error:
            wrong.append(f"{source}:{number}: {error}")
    if wrong:
        raise Misconfigured("\n".join(wrong))
    return found


def _text(path: Path) -> str:
    """The file, which may be a pipe too."""
    from workers.settings import expanded

    try:
        with expanded(path).open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"--env-file {path} can't be read: {error.strerror}") from error
    if len(content) > LARGEST_BYTES:
        raise Misconfigured(f"--env-file {path} has more than {LARGEST_BYTES:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Misconfigured(f"--env-file {path} is not text in UTF-8") from error


def _assignment(line: str) -> tuple[str, str]:
    from workers.environment import unknown

    parts = _ASSIGNMENT.fullmatch(line)
    if parts is None:
        raise ValueError("not NAME=value")
    name, value = parts[1], "".join(_pieces(parts[2]))
    if complaint := unknown(name):
        raise ValueError(complaint)
    if "\0" in value:
        raise ValueError(f"{name} has a NUL character")
    return name, value


def _pieces(text: str) -> Iterator[str]:
    at = 0
    while piece := _PIECE.match(text, at):
        single, double, escaped, bare = piece.groups()
        yield _ESCAPE.sub(r"\1", double) if double is not None else single or escaped or bare or ""
        at = piece.end()
    if not _REST.fullmatch(text, at):
        raise ValueError("quote a value with spaces, and close the quote on the same line")


def _is_set(name: str) -> bool:
    """Whether the name or its `…_FILE` has a value."""
    names = (name, name.removesuffix(_FILE), f"{name}{_FILE}")
    return any(os.environ.get(each, "").strip() for each in names)
