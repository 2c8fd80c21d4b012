"""`tagstream index rebuild`: new tables from the topic take the place of the old ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from tagstream_index.database import LOCK, become_owner, connected, init, mapped, require_tables
from tagstream_index.merge import BELIEVED, NO_ID, STAGING, TIME, Loader, Spaces, merge_staged, of
from tagstream_index.outcomes import HEAD
from tagstream_index.settings import IndexSettings
from tagstream_index.status import COUNTS
from workers.assembly.clients import security, servers
from workers.assembly.progress import Counting, uncounted
from workers.assembly.topic_reading import read_topic
from workers.assembly.topics import state_of
from workers.backends.kafka import extents
from workers.errors import Broken, Misconfigured, Unavailable
from workers.types import Partition

_SHORT_S: Final = 5.0
"""Tables are swapped when a pass over the newest records takes less."""
_WAIT_S: Final = 10.0
"""The longest wait for another rebuild's end."""
_SWAP_TRIES: Final = 60
_SWAP_WAIT_S: Final = 2.0
"""The longest wait for statements on the old tables; later statements wait behind it."""

_INDEXES: Final = """
select indexname, indexdef from pg_indexes where schemaname = %s
and indexname not in (select conname from pg_constraint where connamespace = to_regnamespace(%s))
"""
_TO: Final = "case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end"
_OLD: Final = "relnamespace = to_regnamespace(%(schema)s) and relkind = 'r' and relname = any(%(new)s)"
_GRANTS: Final = f"""
select format('grant %%s on %%I to %%s', privilege_type, relname, {_TO})
from pg_class, aclexplode(relacl) where {_OLD}
union select format('grant %%s (%%I) on %%I to %%s', privilege_type, attname, relname, {_TO})
from pg_class join pg_attribute on attrelid = pg_class.oid, aclexplode(attacl) where {_OLD}
union select format('grant %%s on %%I to %%s', privilege_type, name, {_TO})
from unnest(%(new)s) name, pg_default_acl, aclexplode(defaclacl)
where defaclnamespace = to_regnamespace(%(schema)s) and defaclobjtype = 'r'
and defaclrole = (select oid from pg_roles where rolname = current_user)
""".encode()
"""The rights on tables of the same names and on their columns, and the default rights of `index init --reader`."""
_GUARDED: Final = "select relname from pg_class where relnamespace = to_regnamespace(%s) and relrowsecurity"
_PROGRESS: Final = f"""
insert into progress (topic, partition, topic_id, next_offset, record_at)
select topic, partition, topic_id, next, {BELIEVED}
from unnest(%s::text[], %s::integer[], %s::text[], %s::bigint[], %s::bigint[])
    as m (topic, partition, topic_id, next, at_ms)
on conflict (topic, partition) do update
set (next_offset, record_at) = (excluded.next_offset, coalesce(excluded.record_at, progress.record_at))
""".encode()
_TABLES: Final = "select relname from pg_class where relnamespace = to_regnamespace(%s) and relkind = 'r'"
_FIRST: Final = ("gone_version", "progress", "state", "space")
"""The order in which others lock tables; the tables of embeddings come next, then `image`."""


@dataclass
class Rebuild:
    """One rebuild; `partial`: also from a topic that may lack outcomes. `note` gets sentences about other records."""

    settings: IndexSettings
    partial: bool
    counting: Counting = uncounted
    note: Callable[[str], object] = str

    def __post_init__(self) -> None:
        self._topic, self._schema = self.settings.output_topic, self.settings.index_schema
        self._names = {"old": sql.Identifier(self._schema), "new": sql.Identifier(f"{self._schema}-new")}
        self._next: dict[Partition, int] = {}
        self._unread = 0

    def run(self) -> dict[str, Any]:
        """Build and swap; returns what `--json` prints.

        Raises:
            Misconfigured: no tables, the topic is not compacted, another rebuild runs, or views depend on the tables.
            Broken: the topic was recreated during the rebuild.
            Unavailable: the database or a broker is away, or the old tables are in use without end.
        """
        began = time.monotonic()
        state = state_of(self.settings, self._topic)
        with closing(connected(self.settings, statement_s=0, made=False)) as self._connection, mapped():
            language = self._allowed(compacted=state.settings.get("cleanup.policy") == "compact")
            indexes = self._make(language)
            loader = Loader(Spaces(self._connection, indexed=False))
            self._read(loader, state.id)
            self._index(indexes)
            self._carry()
            loader.spaces = Spaces(self._connection)
            at = float("-inf")
            while time.monotonic() - at > _SHORT_S:
                at = time.monotonic()
                self._read(loader, state.id)
            self._swap()
            images, gone = self._connection.execute(COUNTS).fetchone() or (0, 0)
        return {
            "schema": self._schema,
            "topic": self._topic,
            "records": loader.records,
            "unreadable": self._unread + loader.refused,
            "images": images,
            "gone": gone,
            "seconds": round(time.monotonic() - began, 1),
        }

    def try_first(self) -> dict[str, Any]:
        """The numbers that `run` would read and replace; changes nothing. Raises as `run`."""
        state = state_of(self.settings, self._topic)
        ends = extents(servers(self.settings), [self._topic], security=security(self.settings))
        with closing(connected(self.settings, made=False)) as self._connection, mapped():
            self._allowed(compacted=state.settings.get("cleanup.policy") == "compact")
            images, gone = self._connection.execute(COUNTS).fetchone() or (0, 0)
        offsets = sum(each.end - each.begin for each in ends.values())
        return {"schema": self._schema, "topic": self._topic, "offsets": offsets, "images": images, "gone": gone}

    def _execute(self, statement: str) -> psycopg.Cursor[Any]:
        """Execute a statement that names the schemas."""
        return self._connection.execute(sql.SQL(statement).format(**self._names))

    def _allowed(self, *, compacted: bool) -> str:
        """Require tables, one rebuild, and all outcomes; returns the text search configuration."""
        connection = self._connection
        connection.execute("set synchronous_commit = off; set client_connection_check_interval = '1s'")
        connection.execute(f"set lock_timeout = '{_WAIT_S}s'".encode())
        try:
            connection.execute("select pg_advisory_lock(%s, hashtext(%s))", (LOCK, self._schema))
        except psycopg.errors.LockNotAvailable:
            raise Misconfigured(f"another `index rebuild` of the schema {self._schema!r} is running") from None
        require_tables(connection, self._schema)
        become_owner(connection)
        found = connection.execute("select distinct topic from progress where topic <> %s", (self._topic,)).fetchall()
        others = ", ".join(topic for (topic,) in found)
        lacks = f"the images of {others} are not in the topic {self._topic}" if others else ""
        if not compacted:
            lacks = f"the topic {self._topic} is not compacted (cleanup.policy=compact), so it may lack outcomes"
        if lacks and not self.partial:
            raise Misconfigured(f"{lacks}: the new tables would lose images. To accept that, add --partial")
        (language,) = connection.execute("select language::text from state").fetchone() or ("",)
        return str(language)

    def _make(self, language: str) -> list[str]:
        """Make empty tables; returns the definitions of their indexes."""
        connection, schema = self._connection, f"{self._schema}-new"
        self._execute("drop schema if exists {new} cascade")
        self._execute("set search_path = {new}, public")
        init(connection, schema, language)
        connection.execute(STAGING)
        self._swap(rehearse=True)
        found = connection.execute(_INDEXES, (schema, schema)).fetchall()
        for name, _ in found:
            connection.execute(sql.SQL("drop index {}").format(sql.Identifier(name)))
        self._execute("insert into gone_version select * from {old}.gone_version")
        return [definition for _, definition in found]

    def _read(self, loader: Loader, topic_id: str) -> None:
        """Read on, up to the topic's present end."""
        foreign = read_topic(
            self.settings, self._topic, loader.take, at=self._next, keep=self._next.update, counting=self.counting
        )
        loader.finish()
        for line in foreign.notes("not outcomes"):
            self.note(line)
        self._unread += foreign.count
        if state_of(self.settings, self._topic).id != topic_id:
            raise Broken(f"the topic {self._topic} was made anew meanwhile: run `tagstream index rebuild` again")
        rows = [(*place, topic_id or NO_ID, at, loader.times_ms.get(place)) for place, at in self._next.items()]
        self._connection.execute(_PROGRESS, [*map(list, zip(*rows, strict=True))])

    def _index(self, definitions: Sequence[str]) -> None:
        spaces = Spaces(self._connection)
        with self.counting("indexes", len(definitions) + len(spaces.known)) as advance:
            for definition in definitions:
                self._connection.execute(definition.encode())
                advance(1)
            for number in spaces.known.values():
                spaces.index(number)
                advance(1)
        self._connection.execute("analyze image")

    def _carry(self) -> None:
        """Keep removals that the topic has no longer."""
        with self._connection.transaction():
            self._execute(
                f"insert into incoming ({', '.join(HEAD)}, of_version)"
                f" select {of('o', ', '.join(HEAD))}, false from {{old}}.image o left join image n using (subject)"
                f" where o.gone and (n.subject is null or ({of('o', TIME)}) > ({of('n', TIME)}))"
            )
            merge_staged(self._connection, Spaces(self._connection).known, retracts=False)

    def _swap(self, *, rehearse: bool = False) -> None:
        """Exchange the tables; `rehearse`: only find out whether it can be done.

        Raises:
            Misconfigured: something depends on the tables, or they have row security.
            Unavailable: statements on the old tables do not end.
        """
        self._connection.execute(f"set lock_timeout = '{_SWAP_WAIT_S}s'".encode())
        for _ in range(_SWAP_TRIES):
            try:
                with self._connection.transaction(force_rollback=rehearse):
                    self._exchange()
                return
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                time.sleep(_SWAP_WAIT_S)
            except psycopg.errors.DependentObjectsStillExist as error:
                why = f"the tables can't be swapped: {error.diag.message_detail}"
                raise Misconfigured(f"{why}. Drop it, and make it again after the rebuild") from error
        raise Unavailable("postgresql", f"other statements hold the tables of the schema {self._schema!r} without end")

    def _exchange(self) -> None:
        """Put the new tables, with their rights, in the old ones' place."""
        connection = self._connection
        connection.execute("set local synchronous_commit = on")
        new = [name for (name,) in connection.execute(_TABLES, (f"{self._schema}-new",))]
        vectors = [f"embedding_{number}" for (number,) in self._execute("select number from {old}.space")]
        rest = [name for name in new if name not in _FIRST and not name.startswith("embedding_")]
        old = sql.SQL(", ").join(sql.Identifier(self._schema, name) for name in (*_FIRST, *vectors, *rest))
        connection.execute(sql.SQL("lock table {} in access exclusive mode").format(old))
        if guarded := connection.execute(_GUARDED, (self._schema,)).fetchone():
            why = f"the table {guarded[0]!r} has row security, and new tables would show readers all rows"
            raise Misconfigured(f"{why}: disable it, and make it again after the rebuild")
        grants = connection.execute(_GRANTS, {"schema": self._schema, "new": new}).fetchall()
        connection.execute(sql.SQL("drop table {}").format(old))
        for name in new:
            self._execute(f"alter table {{new}}.{name} set schema {{old}}")
        self._execute("drop schema {new}")
        self._execute("set search_path = {old}, public")
        for (grant,) in grants:
            connection.execute(grant)
