"""The index's part of `tagstream forget`, by the entry point group `tagstream.forget`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg
from psycopg import sql

from tagstream_index.database import LOCK, Connection, connected, mapped
from tagstream_index.merge import NAME_HASH
from tagstream_index.query import storable
from tagstream_index.settings import IndexSettings
from workers.assembly.forget_reach import Beyond
from workers.assembly.needs import needed_of
from workers.errors import Unavailable
from workers.republish.forgetting import Subjects

_WAIT_S: Final = 10

_TABLES: Final = r"""
select nspname, relname from pg_class join pg_namespace n on n.oid = relnamespace
where relkind = 'r' and nspname = any(%(schemas)s::text[])
and (relname in ('image', 'history') or relname like 'embedding\_%%') order by 1, 2
"""
_CHOSEN: Final = 'create temp table chosen (subject text collate "C" primary key, version bigint) on commit drop'
_OF_ROWS: Final = """
insert into chosen select subject, version from image where starts_with(subject, %s) on conflict do nothing
"""
_KEEP_HASHES: Final = f"""
insert into gone_version as g (document, version, published, produced_at)
select {NAME_HASH.format("c.subject")}, greatest(c.version, i.version), true, {2**63 - 1}
from chosen c left join image i using (subject) where greatest(c.version, i.version) is not null
on conflict (document) do update set (version, produced_at, changed_at)
    = (greatest(g.version, excluded.version), excluded.produced_at, default)
""".encode()
_CLEAR: Final = b"delete from left_out; update state set (last_error, last_error_at) = (null, null)"
"""Left-out records may belong to these images."""


class IndexRows:
    """The rows of images in the tables of TAGSTREAM_INDEX_SCHEMA."""

    name = "the index"

    def __init__(self, settings: IndexSettings) -> None:
        self._settings = settings

    def search(self, chosen: Subjects) -> dict[str, int]:
        """The number of these images' rows by table; includes an unfinished rebuild.

        Raises:
            Misconfigured, Unavailable: the tables can't be read.
        """
        count = sql.SQL("select count(*) from {} join chosen using (subject)")
        with closing(connected(self._settings, statement_s=0)) as connection, mapped(), connection.transaction():
            self._choose(connection, chosen, ())
            counts = {
                ".".join(table): connection.execute(count.format(sql.Identifier(*table))).fetchall()[0][0]
                for table in self._tables(connection)
            }
        return {place: count for place, count in counts.items() if count}

    def forget(self, chosen: Subjects, newest: Iterable[tuple[str, int]]) -> None:
        """Delete the images' rows, and keep hashes of their names. Records up to their newest version lose.

        Args:
            newest: subjects and their newest version in the topics.

        Raises:
            Misconfigured, Unavailable: the tables can't be written, or are being rebuilt.
        """
        schema = self._settings.index_schema
        with closing(connected(self._settings, statement_s=0)) as connection, mapped(), connection.transaction():
            connection.execute("select set_config('lock_timeout', %s, true)", (f"{_WAIT_S}s",))
            try:
                connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (LOCK, schema))
            except psycopg.errors.LockNotAvailable:
                advice = "Run this again when it has ended."
                raise Unavailable("postgresql", "`index rebuild` is running", advice=advice) from None
            connection.execute("set local lock_timeout = 0; lock table gone_version in share row exclusive mode")
            connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(f"{schema}-new")))
            self._choose(connection, chosen, newest)
            connection.execute(_KEEP_HASHES)
            for table in self._tables(connection):
                where = sql.SQL("delete from {} where subject in (select subject from chosen)")
                connection.execute(where.format(sql.Identifier(*table)))
            connection.execute(_CLEAR)

    def beyond(self) -> list[Beyond]:
        """Places that keep more of the images."""
        end = (datetime.now(UTC) + timedelta(minutes=5)).isoformat(timespec="minutes").replace("+00:00", "Z")
        return [
            Beyond("pictures that search pages keep", "a running page removes them", end),
            Beyond("PostgreSQL's dead rows, log and backups", "VACUUM, checkpoints and you end them"),
        ]

    def _tables(self, connection: Connection) -> list[tuple[str, str]]:
        """Schema and name of each table with subjects."""
        schema = self._settings.index_schema
        return connection.execute(_TABLES, {"schemas": [schema, f"{schema}-new"]}).fetchall()

    @staticmethod
    def _choose(connection: Connection, chosen: Subjects, newest: Iterable[tuple[str, int]]) -> None:
        connection.execute(_CHOSEN)
        versions: dict[str, int | None] = dict.fromkeys(chosen.named)
        versions |= {subject: version if version >= 0 else None for subject, version in newest}
        with connection.cursor() as cursor, cursor.copy("copy chosen from stdin") as copy:
            for subject, version in versions.items():
                if storable(subject) == subject:  # no row can have another
                    copy.write_row((subject, version))
        if chosen.prefix:
            connection.execute(_OF_ROWS, (chosen.prefix,))


def place() -> IndexRows | Beyond:
    """The tables that the environment names."""
    settings = needed_of(IndexSettings)
    if not settings.index_dsn:
        return Beyond("the index, if there is one", "TAGSTREAM_INDEX_DSN is not set: set it and run this again")
    return IndexRows(settings)
