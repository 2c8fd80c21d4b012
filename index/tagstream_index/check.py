"""`tagstream index check`: compares the tables with the topic.

The topic is merged into temporary tables, as `run` merges it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Cursor, IsolationLevel, sql
from psycopg.rows import dict_row

from schemas.printable import counted
from tagstream_index import left_out
from tagstream_index.database import connected, mapped, readable
from tagstream_index.merge import NO_ID, STAGING, TIME, Loader, Spaces, of
from tagstream_index.outcomes import CONTENT, HEAD, Row
from tagstream_index.settings import IndexSettings
from workers.assembly.progress import Counting, uncounted
from workers.assembly.topic_reading import read_topic
from workers.assembly.topics import state_of
from workers.errors import Broken, Unavailable
from workers.types import Partition, ReadRecord

SHOWN: Final = 100
"""Most subjects that are named."""

_COLUMNS: Final = (*HEAD, *CONTENT)
_TABLES: Final = """
create temp table image (like {schema}.image including defaults);
alter table pg_temp.image add primary key (subject);
create temp table history (like {schema}.history including indexes);
create temp table gone_version (like {schema}.gone_version including all);
insert into pg_temp.gone_version select * from {schema}.gone_version;
create temp table state (like {schema}.state);
create temp table wider (like {schema}.wider including all);
create temp table left_out (like {schema}.left_out including all);
insert into pg_temp.left_out select * from {schema}.left_out;
create temp table differing (subject text collate "C", field text)
"""
"""They hide the index's tables of these names. The index keeps retracted versions longer than the topic."""
_VECTORS: Final = """
create temp table embedding_{n} (like {schema}.embedding_{n});
alter table pg_temp.embedding_{n} add primary key (subject)
"""

_NEWER: Final = f"({of('t', TIME)}) > ({of('e', TIME)})"
_IMAGES_DIFFER: Final = f"""
insert into differing
select subject, unnest(case
    when t.subject is null then array['not in the tables']
    when e.subject is null then array['not in the topic']
    when {_NEWER} then array['newer than the topic']
    else array(select key from jsonb_each(to_jsonb(t)) as said (key, value)
        where key = any(%(columns)s) and value is distinct from to_jsonb(e) -> key)
end)
from {{schema}}.image t full join pg_temp.image e using (subject)
where case
    when t.subject is null then not e.gone
    when e.subject is null or {_NEWER} then %(whole)s and not t.gone
    else ({of("t", ", ".join(_COLUMNS))}) is distinct from ({of("e", ", ".join(_COLUMNS))})
end
"""
"""t: the tables, e: expected. The tables may have forgotten a removal, or kept it longer than the topic."""
_VECTORS_DIFFER: Final = f"""
insert into differing select subject, 'embedding'
from {{schema}}.embedding_{{n}} v full join pg_temp.embedding_{{n}} w using (subject)
left join {{schema}}.image t using (subject) left join pg_temp.image e using (subject)
where (%(whole)s or e.subject is not null) and case
    when t.subject is null or t.gone then v.subject is not null
    when e.subject is null or {_NEWER} then false
    else (v.model, v.vector) is distinct from (w.model, w.vector)
end
"""
_UNREADABLE: Final = f"""
insert into differing select subject, 'last_modified can''t be read'
from {{schema}}.image where not gone and not {readable("last_modified")}
"""
_SUBJECTS: Final = b"""
select subject, array_agg(field order by field) as fields from differing group by 1 order by 1 limit %s
"""


@dataclass
class Check:
    """Compares the tables with the topic, up to the indexed offsets. `note` gets sentences about other records."""

    settings: IndexSettings
    counting: Counting = uncounted
    note: Callable[[str], object] = str

    def __post_init__(self) -> None:
        self._topic = self.settings.output_topic
        self._vectors: set[int] = set()

    def run(self) -> dict[str, Any]:
        """Read and compare; returns what `--json` prints.

        Raises:
            Misconfigured, Broken: no tables of this version, no such topic, or another one of that name.
            Unavailable: the database or a broker is away, or a rebuild swapped the tables.
        """
        state = state_of(self.settings, self._topic)
        with closing(connected(self.settings, statement_s=0)) as self._connection, mapped():
            self._connection.execute(STAGING)
            self._execute(_TABLES)
            before = self._indexed(state.id)
            self._loader = loader = Loader(self._spaces(), self._keep)
            self._read({}, before)
            self._connection.isolation_level = IsolationLevel.REPEATABLE_READ
            with self._connection.transaction():
                # In this snapshot the tables are at these offsets.
                indexed = self._indexed(state.id)
                beside, loader.spaces = loader.spaces.beside, self._spaces()
                if loader.spaces.beside != beside:
                    raise Unavailable("postgresql", "the tables were swapped meanwhile", advice="Check again.")
                if indexed != before:
                    self._read(before, indexed)
                return self._compare(loader.records, compacted=state.settings.get("cleanup.policy") == "compact")

    def _execute(self, statements: str, values: Mapping[str, Any] | None = None, number: int = 0) -> Cursor[Any]:
        """Execute statements that name the index's schema."""
        text = sql.SQL(statements.replace("{n}", str(number)))
        return self._connection.execute(text.format(schema=sql.Identifier(self.settings.index_schema)), values)

    def _indexed(self, topic_id: str) -> dict[Partition, int]:
        """The next offset of each partition, as the tables have it."""
        found = self._connection.execute(
            "select topic, partition, next_offset, topic_id from progress where topic = %s", (self._topic,)
        ).fetchall()
        if any(each[3] != (topic_id or NO_ID) for each in found):
            anew = "was made anew since it was indexed. Run `tagstream index rebuild --go`."
            raise Broken(f"the topic {self._topic} {anew}")
        return {Partition(topic, number): offset for topic, number, offset, _ in found}

    def _spaces(self) -> Spaces:
        """The spaces that the index has now, each with a temporary table."""
        spaces = Spaces(self._connection)
        for number in set(spaces.known.values()) - self._vectors:
            self._execute(_VECTORS, number=number)
            self._vectors.add(number)
        return spaces

    def _keep(self, row: Row) -> Row:
        known = row.vector is not None and row.vector[:2] in self._loader.spaces.known
        return row._replace(outcome=None, stored_scores=None, vector=row.vector if known else None)

    def _read(self, begin: Mapping[Partition, int], end: Mapping[Partition, int]) -> None:
        def take(record: ReadRecord) -> None:
            if record.offset < end.get(Partition(record.topic, record.partition), 0):
                self._loader.take(record)

        foreign = read_topic(self.settings, self._topic, take, at=begin, counting=self.counting)
        for line in foreign.notes("not outcomes"):
            self.note(line)
        self._loader.finish()

    def _compare(self, records: int, *, compacted: bool) -> dict[str, Any]:
        others = self._connection.execute("select from progress where topic <> %s limit 1", (self._topic,)).rowcount
        values = {"whole": (whole := compacted and not others), "columns": list(_COLUMNS)}
        self._execute(_IMAGES_DIFFER, values)
        for number in self._vectors:
            self._execute(_VECTORS_DIFFER, values, number)
        self._execute(_UNREADABLE)
        compared, differing = self._connection.execute(
            "select (select count(*) from pg_temp.image), count(distinct subject) from differing"
        ).fetchall()[0]
        return {
            "topic": self._topic,
            "records": records,
            "compared": compared,
            "rows_explained": whole,
            "differing": differing,
            "subjects": self._connection.cursor(row_factory=dict_row).execute(_SUBJECTS, (SHOWN,)).fetchall(),
            "left_out": left_out.told(self._connection, self._topic),
        }


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report for people."""
    for each in report["subjects"]:
        yield f"{each['subject']}: {', '.join(each['fields'])}"
    if (more := report["differing"] - len(report["subjects"])) > 0:
        yield f"… and {more:,} more"
    yield from left_out.lines(report["left_out"])
    told = "" if report["rows_explained"] else ". Rows without a record were left out: the topic may lack outcomes"
    compared = f"{report['compared']:,} of {counted(report['records'], 'record')} of {report['topic']}"
    yield f"{counted(report['differing'], 'image differs', 'images differ')}; compared: {compared}{told}"
