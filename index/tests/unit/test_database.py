"""The indexer's reactions to the database's errors."""

import psycopg
import pytest

from tagstream_index.database import is_of_a_record, unavailable
from workers.errors import Misconfigured, Unavailable


@pytest.mark.parametrize(
    "name", ["DiskFull", "OutOfMemory", "TooManyConnections", "AdminShutdown", "ReadOnlySqlTransaction"]
)
def test_a_database_that_is_full_or_stops_is_waited_for(name: str) -> None:
    error = getattr(psycopg.errors, name)("could not extend file")
    assert not is_of_a_record(error)
    assert isinstance(unavailable(error), Unavailable)


def test_a_value_is_of_its_record_and_a_missing_right_of_the_settings() -> None:
    assert is_of_a_record(psycopg.errors.UntranslatableCharacter("x"))
    assert isinstance(unavailable(psycopg.errors.InsufficientPrivilege("x")), Misconfigured)
