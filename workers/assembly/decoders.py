"""Builds the intake and the profiles that the settings name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import PIL
from pydantic_core import from_json

from workers import __version__
from workers.assembly.clients import object_store
from workers.errors import Misconfigured
from workers.intake import Limits, ProcessIntake
from workers.intake.geometry import scale_of
from workers.intake.threads import LargeImages
from workers.models.files import text_of
from workers.models.labels import read_names
from workers.pipeline.profiles import Labelled, Profile, read_profiles
from workers.ports import ObjectStore
from workers.processors import processors
from workers.rendition import Rendition
from workers.settings import Settings, expanded
from workers.types import Facts, Transform

REDUCING_GAPS: Final = {"off": 0.0, "close": 3.0, "fast": 1.5}
"""By TAGSTREAM_DECODE_SCALING. Pillow's documentation finds no difference to a fair resize from 3 on."""


def intake(settings: Settings, transforms: Sequence[Transform], store: ObjectStore | None = None) -> ProcessIntake:
    """The intake of these settings.

    Raises Misconfigured: there can be no such object store, or this system has no sandbox for decoders.
    """
    if sys.platform != "linux":
        raise Misconfigured("images are decoded in sandboxed processes, which need Linux: use it, a container or WSL2")
    folder, of = settings.part.folder, settings.part.of
    return ProcessIntake(
        store or object_store(settings),
        transforms,
        limits(settings),
        fetch_threads=settings.fetch_threads,
        children=decoders(settings),
        decode_s=settings.decode_timeout_s,
        reducing_gap=reducing_gap(settings),
        large=None if folder is None else LargeImages(folder / "decode.lock", settings.decode_memory // of),
        rendition=Rendition.of(settings.rendition, settings.buckets),
    )


def decoders(settings: Settings) -> int:
    """Number of concurrent decodes."""
    return settings.decode_threads or processors()


def limits(settings: Settings) -> Limits:
    return Limits(
        max_object_bytes=settings.max_object_bytes,
        fetch_s=settings.get_timeout_s,
        max_pixels=settings.max_pixels,
        min_side=settings.min_side,
        decode_bytes=settings.decode_memory,
        formats=settings.formats,
        facts=settings.facts,
    )


def reducing_gap(settings: Settings) -> float:
    """Least ratio of a scaled JPEG's side to the model's; 0: no scaling."""
    return REDUCING_GAPS[settings.decode_scaling]


def scale_of_facts(settings: Settings, transforms: Sequence[Transform]) -> Callable[[Facts], int]:
    """A function that returns the scale of an image's decoding: 1, 2, 4 or 8.

    A JPEG without a scaled form has the scale of others of its size, which decides nothing for it.
    """
    gap = reducing_gap(settings)
    if not gap:
        return lambda _: 1

    @lru_cache(maxsize=4096)  # each lookup in the cache asks, and cameras have few sizes
    def of_size(size: tuple[int, int]) -> int:
        return scale_of(transforms, size, gap)

    return lambda facts: of_size((facts.width, facts.height)) if facts.format == "jpeg" else 1


def judge(settings: Settings) -> str:
    """A key of the limits and decoders that decide an image's rejection."""
    scaling = settings.decode_scaling
    bounds = (settings.max_pixels, settings.min_side, settings.decode_memory, scaling, *settings.formats)
    return " ".join(map(str, (__version__, PIL.__version__, *bounds)))


def allowed_names(settings: Settings) -> list[str] | None:
    """Names of the only labels to score; None means all.

    Raises Misconfigured: the file can't be read, or holds no name.
    """
    return None if settings.labels_file is None else read_names(settings.labels_file)


def profiles(settings: Settings, tagger: Labelled | None) -> Mapping[str, Profile]:
    """The profiles of TAGSTREAM_PROFILES, and the tagger's own.

    Raises Misconfigured: the file, or one of names that it mentions, can't be read or does not fit the tagger.
    """
    if settings.profiles is None:
        return read_profiles(tagger, {})
    name = f"TAGSTREAM_PROFILES={settings.profiles}"
    try:
        wanted = from_json(text_of(settings.profiles))
    except Misconfigured as error:
        raise Misconfigured(f"TAGSTREAM_PROFILES: {error}") from None
    except ValueError as error:
        raise Misconfigured(f"{name} is not JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise Misconfigured(f'{name} must hold an object, such as {{"strict": {{"all": 0.9}}}}')
    allowed = allowed_names(settings)
    rules = {profile: _with_names(each, settings.profiles.parent) for profile, each in wanted.items()}
    return read_profiles(tagger, rules, None if allowed is None else set(allowed))


def _with_names(rules: object, folder: Path) -> object:
    """A profile's rules, with the names in its file `only`."""
    if not isinstance(rules, dict) or not isinstance(rules.get("only"), str):
        return rules
    return rules | {"only": read_names(folder / expanded(Path(rules["only"])))}
