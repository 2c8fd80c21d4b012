"""The settings of the index: the worker's, and a table of its own."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from workers.settings import Endpoint, Port, SecretUrl, Settings

FOR_EVER: Final = float("inf")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _check_dsn(dsn: SecretUrl) -> SecretUrl:
    text = dsn.get_secret_value()
    if text and not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("it must begin with postgresql://")
    return dsn


def _check_schema(name: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,47}", name):
        raise ValueError("it must have 1 to 48 lower-case letters, digits and _, and not begin with a digit")
    return name


def seconds(text: object) -> object:
    """Seconds of a text like `30d`, `12h`, `90m`, `45s` or `forever`."""
    if not isinstance(text, str):
        return text
    bare = text.strip().lower()
    if bare == "forever":
        return FOR_EVER
    found = re.fullmatch(r"(\d{1,9})([smhd])", bare)
    if found is None:
        raise ValueError("it must be such as 30d, 12h, 90m or 45s, or forever")
    return float(int(found[1]) * _UNITS[found[2]])


def _setting(default: Any, meaning: str) -> Any:
    return Field(default, description=meaning, json_schema_extra={"group": "Index"})


class IndexSettings(Settings):
    """The worker's settings, and TAGSTREAM_INDEX_…."""

    index_dsn: Annotated[SecretUrl, AfterValidator(_check_dsn)] = _setting(
        SecretUrl(""), "`postgresql://user:password@host:port/database`. Required"
    )
    index_schema: Annotated[str, AfterValidator(_check_schema)] = _setting(
        "tagstream", "PostgreSQL schema that holds the tables; `tagstream index init` makes it"
    )
    index_group: Annotated[str, Field(min_length=1)] = _setting(
        "tagstream-index", "Consumer group of `tagstream index run`"
    )
    index_batch: Annotated[int, Field(ge=1, le=10_000)] = _setting(1_000, "Most outcomes of one database transaction")
    index_forget_after: Annotated[float, Field(gt=0), BeforeValidator(seconds)] = _setting(
        FOR_EVER,
        "How long key and version of a removed image are kept, so that a late older outcome does not bring it back: "
        "`30d`, `12h` or `forever`",
    )
    index_http_port: Port = _setting(
        8081, "Port of /livez, /startupz, /readyz and /metrics; 0: any free port; `off`: none"
    )
    index_page_token: SecretStr = _setting(
        SecretStr(""),
        "Token of the search page, at least 16 characters: to correct tags, and to read where it is bound to another "
        "address than this machine's own; empty: the page only reads",
    )
    index_store_url: Endpoint = _setting(
        "",
        "Address by which browsers reach the object store, `https://host`: the search page leads to originals by "
        "links of five minutes; needs `TAGSTREAM_S3_REGION`; empty: off",
    )
