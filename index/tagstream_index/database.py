"""PostgreSQL: connections with time limits, errors as sentences, and the tables' migrations."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any, Final, TypeAlias

import orjson
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.types.json import set_json_dumps

from tagstream_index.settings import IndexSettings
from workers.assembly.needs import needed_of
from workers.errors import Misconfigured, Unavailable

Connection: TypeAlias = psycopg.Connection[Any]

CONNECT_S: Final = 5
CALL_S: Final = 40.0
"""For one transaction. Longer than a batch of vectors takes, shorter than the group waits for a poll (60 s)."""
LOCK: Final = 0x7461_6773
"""The advisory lock of migrations."""

_NO_RIGHT: Final = "42501"
_OF_VALUES: Final = ("22", "23", "54")
"""SQLSTATE classes of values that can't be stored."""


def is_of_a_record(error: psycopg.Error) -> bool:
    """Whether a value caused the error, so no retry helps."""
    state = error.sqlstate or ""
    return state.startswith(_OF_VALUES) or (not state and isinstance(error, psycopg.DataError))


def unavailable(error: psycopg.Error) -> Unavailable | Misconfigured:
    """Our error for one of psycopg's that is not a record's fault."""
    said = " ".join(str(error).split())
    if error.sqlstate == _NO_RIGHT:
        return Misconfigured(f"PostgreSQL does not allow this user what the index needs: {said}")
    return Unavailable("postgresql", said, advice="Check TAGSTREAM_INDEX_DSN, and whether PostgreSQL is up.")


@contextmanager
def mapped() -> Iterator[None]:
    """Let no exception of psycopg through.

    Raises:
        Unavailable: the database is away, refuses us, or is too slow.
        Misconfigured: rights are missing, or the address can't be read.
    """
    try:
        yield
    except psycopg.Error as error:
        raise unavailable(error) from error


def connected(settings: IndexSettings | None = None, *, statement_s: float = CALL_S, made: bool = True) -> Connection:
    """A connection in autocommit mode to the schema TAGSTREAM_INDEX_SCHEMA.

    Args:
        settings: None: read from the environment.
        statement_s: the server's limit for one statement; 0: no limit.
        made: require tables of this version.

    Raises:
        Unavailable, Misconfigured: as `mapped` and `require_tables`.
    """
    settings = settings or needed_of(IndexSettings, "index_dsn")
    try:
        dsn, name = settings.index_dsn.get_secret_value(), "tagstream-index"
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_S, application_name=name)
    except psycopg.ProgrammingError as error:
        raise Misconfigured("TAGSTREAM_INDEX_DSN can't be read: see PostgreSQL's connection URIs") from error
    except psycopg.Error as error:
        raise unavailable(error) from error
    try:
        with limited(connection, CONNECT_S):
            path = f'"{settings.index_schema}", public'
            limits = {"search_path": path, "timezone": "UTC", "statement_timeout": f"{int(statement_s * 1000)}"}
            set_all = "select set_config(name, value, false) from unnest(%s::text[], %s::text[]) as set (name, value)"
            connection.execute(set_all, ([*limits], [*limits.values()]))
            set_json_dumps(orjson.dumps, connection)
        if made:
            with limited(connection):
                require_tables(connection, settings.index_schema)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def limited(connection: Connection, seconds: float = CALL_S) -> Iterator[None]:
    """As `mapped`; in the body the connection is cut after `seconds`.

    The server's own limits don't help if it hangs: libpq waits for its answer without end.
    """
    timer = threading.Timer(seconds, _cut, args=(connection,))
    timer.daemon = True
    timer.start()
    try:
        with mapped():
            yield
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)


def readable(column: str) -> str:
    """SQL: whether Python has this moment. PostgreSQL also stores the year 10000 and years before Christ."""
    return f"{column} between '0001-01-01' and '9999-12-31 23:59:59.999999'"


def migrations() -> list[tuple[int, str]]:
    """Number and SQL of each migration, in order."""
    folder = files("tagstream_index") / "migrations"
    found = (each for each in folder.iterdir() if each.name.endswith(".sql"))
    return sorted((int(each.name.partition("_")[0]), each.read_text(encoding="utf-8")) for each in found)


def require_tables(connection: Connection, schema: str) -> None:
    """Require the tables of this version, and register the types of pgvector.

    Raises:
        Misconfigured: the schema has no tables, or tables of another version.
    """
    if connection.execute("select to_regclass('migration')").fetchone() == (None,):
        raise Misconfigured(f"the schema {schema!r} has no tables of the index: run `tagstream index init`")
    (there,) = connection.execute("select max(number) from migration").fetchone() or (None,)
    newest = migrations()[-1][0]
    if there != newest:
        remedy = "run the newer version of tagstream" if there and there > newest else "run `tagstream index init`"
        has = f"the tables in the schema {schema!r} are of version {there}, and this program needs {newest}"
        raise Misconfigured(f"{has}: {remedy}")
    register_vector(connection)


def become_owner(connection: Connection) -> None:
    """Act as the owner of the tables, where this user may: new tables then have its default rights."""
    connection.execute(
        "select set_config('role', tableowner, false) from pg_tables where schemaname = current_schema"
        " and tablename = 'migration' and pg_has_role(tableowner, 'member')"
    )


def grant_reading(connection: Connection, schema: str, role: str) -> None:
    """Let a role read all present and later tables of this user. Raises Misconfigured: there is no such role."""
    if connection.execute("select from pg_roles where rolname = %s", (role,)).rowcount == 0:
        raise Misconfigured(f"PostgreSQL has no role {role!r}: create it first, such as by `createuser --pwprompt`")
    names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
    with connection.transaction():
        for grant in (
            "grant usage on schema {schema} to {role}",
            "grant select on all tables in schema {schema} to {role}",
            "alter default privileges in schema {schema} grant select on tables to {role}",
        ):
            connection.execute(sql.SQL(grant).format(**names))


def init(connection: Connection, schema: str, language: str | None) -> list[int]:
    """Make the schema and run the migrations that it lacks; returns their numbers.

    Args:
        language: text search configuration of new tables; None: english. Existing tables keep theirs.

    Raises:
        Misconfigured: no such text search configuration, or the tables have another one.
    """
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        known = {name for (name,) in connection.execute("select cfgname from pg_ts_config")}
        if language is not None and language not in known:
            raise Misconfigured(f"PostgreSQL has no text search configuration {language!r}: {', '.join(sorted(known))}")
        connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
        connection.execute("create extension if not exists vector with schema public")
        columns = "number integer primary key, at timestamptz not null default now()"
        connection.execute(f"create table if not exists migration ({columns})")
        become_owner(connection)
        there = {number for (number,) in connection.execute("select number from migration")}
        chosen = language or "english"
        if there:
            (chosen,) = connection.execute("select language::text from state").fetchone() or ("",)
            if language not in (None, chosen):
                raise Misconfigured(f"the tables were made with --language {chosen}: leave it out, or drop the schema")
        missing = [(number, text) for number, text in migrations() if number not in there]
        for number, text in missing:
            connection.execute(text.replace("{language}", chosen).encode())
            connection.execute("insert into migration (number) values (%s)", (number,))
    return [number for number, _ in missing]
