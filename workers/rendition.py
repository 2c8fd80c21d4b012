"""Names of renditions: smaller copies of images that are read in their place (TAGSTREAM_RENDITION)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from workers.types import Original

_NAMES = ("bucket", "key", "stem", "extension")
_FIELD = re.compile(r"\{(\w*)\}")
_PROBES = ("name", "name.x")
"""Names whose rendition's rendition shows whether an image can be its own."""
_STEM = ".*[^/]"
_PLAIN = r"(?:(?:.*/)?(?:\.?[^./]+|[^/]*\.)|.*/)"
"""A key without an extension."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """The place of each object's rendition, by a template.

    Args:
        bucket, key: the template's parts.
        buckets: the bucket of the renditions of each bucket with originals.
    """

    bucket: str = ""
    key: str = ""
    buckets: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, buckets: Sequence[str]) -> Rendition:
        """Read a template; the empty one makes nothing.

        Args:
            buckets: those that events may name.

        Raises:
            ValueError: what is wrong with it, as the end of a sentence.
        """
        if not text:
            return NO_RENDITIONS
        bucket, _, key = text.partition("/")
        unknown = [f"{{{name}}}" for name in _FIELD.findall(text) if name not in _NAMES]
        if unknown or re.search("[{}]", _FIELD.sub("", text)):
            what = f"does not know {unknown[0]}" if unknown else "has a brace without its fellow"
            raise ValueError(f"{what}: use {{bucket}}, {{key}}, {{stem}} and {{extension}}")
        named = _FIELD.findall(key)
        if [name for name in _FIELD.findall(bucket) if name != "bucket"] or not bucket:
            raise ValueError("must begin with a bucket, such as {bucket}-web/{key}.jpg")
        if named.count("key") + named.count("stem") != 1 or named.count("extension") > 1:
            raise ValueError("must have either {key} or {stem} behind the bucket, once, and {extension} at most once")
        places = {each: bucket.replace("{bucket}", each) for each in buckets}
        copies = {place for each, place in places.items() if place != each}
        found = cls(bucket, key, {each: place for each, place in places.items() if each not in copies})
        for origin, place in found.buckets.items():
            if place not in buckets:
                raise ValueError(f"puts renditions of {origin} into {place}, which must be in TAGSTREAM_BUCKETS too")
            keys = [found._key(origin, probe) for probe in _PROBES]
            if place == origin and any(found._key(origin, each) == each for each in keys):
                raise ValueError("gives an image's own name: an image would be its own rendition")
        return found

    def place(self, bucket: str, key: str) -> tuple[str, str] | None:
        """Bucket and key of the object's rendition; None: it has none, or is one."""
        if bucket not in self.buckets or self.makes(bucket, key):
            return None
        return self.buckets[bucket], self._key(bucket, key)

    def prefix(self, bucket: str, key: str) -> str:
        """The prefix of the renditions of all keys with this prefix; empty: unknown."""
        before = re.split(r"\{(?:key|stem)\}", self.key)[0]
        if bucket not in self.buckets or "{extension}" in before:
            return ""
        return f"{self.buckets[bucket]}/{before.replace('{bucket}', bucket)}{key}"

    def makes(self, bucket: str, key: str) -> bool:
        """Whether the object is the rendition of another."""
        origins = [origin for origin, place in self.buckets.items() if place == bucket]
        return any(_pattern(self.key, origin).fullmatch(key) for origin in origins)

    def gives(self, bucket: str, key: str, original: Original | None) -> bool:
        """Whether the object's rendition is still the one that was read."""
        return original is None or self.place(bucket, key) == (original.read_bucket, original.read_key)

    def _key(self, bucket: str, key: str) -> str:
        stem, extension = _parts(key)
        values = {"bucket": bucket, "key": key, "stem": stem, "extension": extension}
        return _FIELD.sub(lambda found: values[found[1]], self.key)


NO_RENDITIONS = Rendition()


def _parts(key: str) -> tuple[str, str]:
    """A key without its last extension, and this."""
    folder, slash, name = key.rpartition("/")
    stem, _, extension = name.rpartition(".")
    return (folder + slash + stem, extension) if stem and extension else (key, "")


@lru_cache(256)
def _pattern(template: str, bucket: str) -> re.Pattern[str]:
    """The keys that this template makes of a bucket's keys."""
    if "{extension}" not in template:
        return re.compile(_filled(template, bucket, ".+", ".+", ""), re.DOTALL)
    ended = _filled(template, bucket, _STEM + "\\.\0", _STEM, "\0").replace("\0", "(?P<extension>[^./]+)", 1)
    plain = _filled(template, bucket, _PLAIN, _PLAIN, "")
    return re.compile("|".join([ended.replace("\0", "(?P=extension)"), plain]), re.DOTALL)


def _filled(template: str, bucket: str, key: str, stem: str, extension: str) -> str:
    """The template as a pattern, with a pattern for each name."""
    values = {"bucket": re.escape(bucket), "key": key, "stem": stem, "extension": extension}
    pieces = _FIELD.split(template)
    return "".join([values[piece] if number % 2 else re.escape(piece) for number, piece in enumerate(pieces)])
