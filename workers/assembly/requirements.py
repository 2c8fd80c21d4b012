"""The files and bundles of the settings: questions that raise where one can't be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

from workers.assembly.remote import endpoint_check
from workers.environment import require_readable
from workers.errors import Misconfigured
from workers.models.bundle import Bundle, compact_folder, require_pinned
from workers.models.dual.config import KINDS, space_of
from workers.models.labels import label_ids
from workers.models.result_kinds import kind_of
from workers.service.process import Slot
from workers.settings import FIELDS_KIND, Settings, setting_of

Question: TypeAlias = Callable[[], object]
"""Raises `Misconfigured` where the answer is no."""


def of_a_worker(settings: Settings) -> Iterator[Question]:
    yield lambda: Slot(settings.state_dir / "slots", settings.group).close()
    yield from of_models(settings)
    yield partial(require_embedder, settings)
    yield partial(require_labelled, settings)
    yield partial(require_fields, settings)


def of_models(settings: Settings) -> Iterator[Question]:
    tagger = _tagger(settings)
    if tagger is None:
        yield partial(require_readable, settings, "labels_file")
        yield partial(require_readable, settings, "profiles")
    else:
        # Only some settings need it, and it brings the clients.
        from workers.assembly.decoders import allowed_names, profiles

        yield lambda: (names := allowed_names(settings)) is None or label_ids(tagger, names)
        yield partial(profiles, settings, tagger)
    for use in settings.bundles():
        yield partial(_require_bundle, settings, use)
    if settings.captioner_address is not None:
        yield partial(endpoint_check, settings)


def _tagger(settings: Settings) -> Bundle | None:
    """The tagger for label and profile files; None without such files or bundle."""
    if settings.labels_file is None and settings.profiles is None:
        return None
    with suppress(Misconfigured):
        return opened(settings.bundles()["tagger"].name_or_folder)
    return None


def require_embedder(settings: Settings) -> str:
    """The tagger's name, where TAGSTREAM_WANT names embeddings. Raises Misconfigured: the tagger gives none."""
    if "embedding" not in settings.want:
        return ""
    bundle = opened(settings.bundles()["tagger"].name_or_folder)
    if space_of(bundle.manifest) is None:
        raise Misconfigured(
            f"TAGSTREAM_WANT={','.join(settings.want)}: the tagger {bundle.name} gives no embeddings; compact, "
            "RAM, RAM++ and dual encoders do. Leave `embedding` out, or name such a bundle in TAGSTREAM_TAGGER."
        )
    return bundle.name


def require_labelled(settings: Settings) -> None:
    """Raises Misconfigured: TAGSTREAM_WANT names tags, and the tagger is a dual encoder without labels."""
    named = settings.bundles().get("tagger")
    if named is None or "tags" not in settings.want:
        return
    manifest = opened(named.name_or_folder).manifest
    if manifest.kind in KINDS and not manifest.labels:
        raise Misconfigured(
            f"{named.name_or_folder} has no labels, and TAGSTREAM_WANT={','.join(settings.want)} asks for tags: give "
            "it labels with `tagstream models labels`, or set TAGSTREAM_WANT=embedding."
        )


def require_fields(settings: Settings) -> str:
    """Where fields come from. Raises Misconfigured: TAGSTREAM_WANT names them, and no service gives them."""
    if FIELDS_KIND in settings.want and settings.captioner_address is None:
        raise Misconfigured(
            f"TAGSTREAM_WANT={','.join(settings.want)}: {FIELDS_KIND} come with the captions of an address in "
            f"TAGSTREAM_CAPTIONER, which is {settings.captioner}"
        )
    return f"they come with the captions of {settings.captioner}"


def _require_bundle(settings: Settings, use: str) -> None:
    """Require the bundle, whole and pinned; the compact one is made if it is missing.

    The content of its weights is compared when they are loaded.
    """
    name, digest = settings.bundles()[use]
    if name != "compact" or digest:
        require_pinned(opened(name), digest, setting_of(use))
    if use in settings.roles:
        kind_of(use, opened(name))


def opened(name: str) -> Bundle:
    """Open a bundle without its weights; imports torch only for the compact one.

    Raises Misconfigured: it is no bundle.
    """
    if name != "compact":
        return Bundle.open(Path(name))
    with suppress(Misconfigured):
        return Bundle.open(compact_folder())
    from workers.models.compact import compact_bundle  # brings torch

    return compact_bundle()
