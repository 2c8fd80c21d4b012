"""Which labels count: what TAGSTREAM_LABELS_FILE and TAGSTREAM_PROFILES say, compared with a tagger or its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic_core import from_json

from workers.errors import Misconfigured
from workers.models.files import text_of
from workers.models.labels import read_names
from workers.pipeline.profiles import Labelled, Profile, read_profiles
from workers.settings import Settings, expanded


def allowed_names(settings: Settings) -> list[str] | None:
    """Names of the only labels to score; None means all.

    Raises:
        Misconfigured: the file can't be read, or holds no name.
    """
    return None if settings.labels_file is None else read_names(settings.labels_file)


def profiles(settings: Settings, tagger: Labelled | None) -> Mapping[str, Profile]:
    """The profiles of TAGSTREAM_PROFILES, and the tagger's own.

    Raises:
        Misconfigured: the file, or one of names that it mentions, can't be read or does not fit the tagger.
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
    """A profile's rules, the file that `only` may name read; its path is relative to the file of profiles."""
    if not isinstance(rules, dict) or not isinstance(rules.get("only"), str):
        return rules
    return rules | {"only": read_names(folder / expanded(Path(rules["only"])))}
