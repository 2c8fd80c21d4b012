"""What a command needs of its settings: found out before anything starts, and told all at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from workers.errors import Misconfigured

if TYPE_CHECKING:
    from workers.models.bundle import Bundle
    from workers.settings import Settings

_TLS_FILES = ("kafka_tls_ca", "kafka_tls_cert", "kafka_tls_key")


def needed(*fields: str, worker: bool = False) -> Settings:
    """The environment's settings; these fields are set, and the files of Kafka's TLS can be read.

    Args:
        worker: the state folder can be written; the bundles are those that are pinned, and the files of labels and
            profiles fit them.

    Raises:
        Misconfigured: a line for each setting that is missing, wrong, or contradicts another.
    """
    from workers.settings import examine

    settings, wrong = examine(os.environ, *fields)
    _ask(wrong, (*_files(settings), *(_of_a_worker(settings) if worker else ())))
    return settings


_Question = Callable[[], object]
"""Raises `Misconfigured` where the answer is no."""


def _ask(wrong: list[str], questions: Iterable[_Question]) -> None:
    """
    Raises:
        Misconfigured: all that is wrong, what was known before first.
    """
    for question in questions:
        try:
            question()
        except Misconfigured as error:
            wrong.append(str(error))
    if wrong:
        raise Misconfigured("\n".join(dict.fromkeys(wrong)))


def with_models(tagger: str | None, captioner: str | None, device: str | None) -> Settings:
    """The environment's settings, with what options name in place of it; None: as the environment says.

    An option goes before its variable.

    Raises:
        Misconfigured: a line for each setting, bundle and file of a setting that can't be used.
    """
    from workers.settings import read

    bundles = {"TAGSTREAM_TAGGER": tagger, "TAGSTREAM_CAPTIONER": captioner}
    named = {variable: name for variable, name in bundles.items() if name is not None}
    place = {} if device is None else {"TAGSTREAM_DEVICE": device}
    settings = read({**os.environ, **named, **place})
    _ask([], _of_models(settings))
    return settings


def _files(settings: Settings) -> Iterator[_Question]:
    if settings.kafka_security_protocol.endswith("SSL"):
        for field in _TLS_FILES:
            yield partial(_require_file, settings, field)


def _of_a_worker(settings: Settings) -> Iterator[_Question]:
    yield partial(_require_state, settings)
    yield from _of_models(settings)


def _of_models(settings: Settings) -> Iterator[_Question]:
    tagger = _tagger(settings)
    if tagger is None:
        yield partial(_require_file, settings, "labels_file")
        yield partial(_require_file, settings, "profiles")
    else:
        yield partial(_require_labels, settings, tagger)
        yield partial(_require_profiles, settings, tagger)
    for field in settings.bundles():
        yield partial(_require_bundle, settings, field)


def _tagger(settings: Settings) -> Bundle | None:
    """The tagger that label and profile files must fit; None if there are no such files, or it does not open."""
    if settings.labels_file is None and settings.profiles is None:
        return None
    with suppress(Misconfigured):
        return opened(settings.bundles()["tagger"].name_or_folder)
    return None


def _require_file(settings: Settings, field: str) -> None:
    from workers.settings import variable

    path: Path | None = getattr(settings, field)
    if path is None:
        return
    try:
        path.open("rb").close()
    except OSError as error:
        raise Misconfigured(f"{variable(field)}={path} can't be read: {error.strerror}") from error


def _require_state(settings: Settings) -> None:
    from workers.service.slots import Slot

    Slot(settings.state_dir / "slots", settings.group).close()


def _require_labels(settings: Settings, tagger: Bundle) -> None:
    from workers.cli.profiles import allowed_names
    from workers.models.labels import label_ids

    names = allowed_names(settings)
    if names is not None:
        label_ids(tagger, names)


def _require_profiles(settings: Settings, tagger: Bundle) -> None:
    from workers.cli.profiles import profiles

    profiles(settings, tagger)


def _require_bundle(settings: Settings, field: str) -> None:
    """That it is there, whole and the one that is pinned; the content of its weights, which takes long to read, is
    compared when they are loaded. The compact tagger's is made where it is missing."""
    from workers.models.bundle import require_pinned
    from workers.settings import variable

    name, digest = settings.bundles()[field]
    if name != "compact" or digest:
        require_pinned(opened(name), digest, variable(field))


def opened(name: str) -> Bundle:
    """A bundle without its weights; torch, which takes seconds, is imported only where one may have to be made.

    Raises:
        Misconfigured: it is none.
    """
    from workers.models.bundle import Bundle

    if name != "compact":
        return Bundle.open(Path(name))
    from workers.models.compact import compact_bundle

    return compact_bundle()
