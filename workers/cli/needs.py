"""What a command needs of its settings: found out before anything starts, and told all at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.settings import Settings

_TLS_FILES = ("kafka_tls_ca", "kafka_tls_cert", "kafka_tls_key")
_MODEL_FILES = ("labels_file", "profiles")


def needed(*fields: str, models: bool = False) -> Settings:
    """The environment's settings; these fields are set, and the files of Kafka's TLS can be read.

    Args:
        models: the bundles, and the files of labels and profiles, are needed too.

    Raises:
        Misconfigured: a line for each setting that is missing or wrong.
    """
    from workers.settings import read

    settings = read(os.environ)
    wrong = []
    for question in _questions(settings, fields, models):
        try:
            question()
        except Misconfigured as error:
            wrong.append(str(error))
    if wrong:
        raise Misconfigured("\n".join(wrong))
    return settings


def _questions(settings: Settings, fields: tuple[str, ...], models: bool) -> Iterator[Callable[[], object]]:
    """Each raises `Misconfigured` where the answer is no."""
    yield lambda: settings.require(*fields)
    files = (
        ["kafka_tls_ca", "kafka_tls_cert", "kafka_tls_key"] if settings.kafka_security_protocol.endswith("SSL") else []
    )
    for field in [*files, *(("labels_file", "profiles") if models else ())]:
        yield lambda field=field: _require_file(settings, field)  # type: ignore[misc]
    for use in settings.bundles() if models else ():
        yield lambda use=use: _require_bundle(settings, use)  # type: ignore[misc]


def _require_file(settings: Settings, field: str) -> None:
    from workers.settings import variable

    path: Path | None = getattr(settings, field)
    if path is None:
        return
    try:
        path.open("rb").close()
    except OSError as error:
        raise Misconfigured(f"{variable(field)}={path} can't be read: {error.strerror}") from error


def _require_bundle(settings: Settings, use: str) -> None:
    """All but the weights: to read those takes long. The compact tagger's bundle is made where there is none."""
    from workers.models.bundle import Bundle

    name = settings.bundles()[use].name_or_folder
    if name != "compact":
        Bundle.open(Path(name))
