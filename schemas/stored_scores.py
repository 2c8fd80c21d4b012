"""Two binary headers from which an outcome can be made again.

`tagstream-scores` has the tagger's scores above its floor, so that other thresholds need no image;
`tagstream-embedding` has the image's embedding, where the event does not show it. Numbers are little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from typing import Final, NamedTuple, Self

SCORES_HEADER: Final = "tagstream-scores"
EMBEDDING_HEADER: Final = "tagstream-embedding"
STORED_HEADERS: Final = (SCORES_HEADER, EMBEDDING_HEADER)
SCORES_BYTES_MAX: Final = 2_000
"""Most bytes of the scores; the best are kept."""
DIMENSIONS_MAX: Final = 65_536

LAYOUT: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    SCORES_HEADER: (
        ("1", "format version, 1"),
        ("32", "the tagger's digest (`models.tagger.digest`), a sha256"),
        ("8", "digest of the labels that were scored, where a profile's `only` had fewer scored; else zeros"),
        ("4", "floor, float32: every label that scored this or more is here"),
        ("1", "length of the next field"),
        ("0 to 32", "precision (`models.tagger.precision`), ASCII"),
        ("8 each", "label id, uint32, and its score, float32; best score first"),
    ),
    EMBEDDING_HEADER: (
        ("1", "format version, 1"),
        ("32", "digest of the model that gave it, a sha256"),
        ("1", "length of the next field"),
        ("1 to 64", "space (as `embedding.space`), ASCII"),
        ("2 each", "the numbers, float16; a vector of length 1 before rounding"),
    ),
}
"""Bytes and meaning of each field of a header's value, in order."""

_FORMAT: Final = 1
_SCORES = struct.Struct("<B32s8sfB")
SCORES_AT: Final = _SCORES.size
"""Where the name of the precision begins; the byte before tells its length, and the scores follow it."""
_EMBEDDING = struct.Struct("<B32sB")
_PAIR_BYTES: Final = 8
_ALL_LABELS: Final = bytes(8)
_PRECISION_MAX, _SPACE_MAX = 32, 64
_ROUNDING: Final = 0.01
"""How far from 1 the length of a rounded embedding may be."""


@dataclass(frozen=True, slots=True)
class StoredScores:
    """A tagger's scores of one image, as its outcome carries them.

    Args:
        tagger: digest of the tagger, 64 hex digits.
        labels: digest of the labels that were scored, 16 hex digits; None: all that the tagger scores.
        floor: every scored label that reached it is in `scores`. A float32.
        scores: (label id, score from 0 to 1 as float32), best first.
    """

    tagger: str
    labels: str | None
    precision: str
    floor: float
    scores: tuple[tuple[int, float], ...]

    def encode(self, limit: int = SCORES_BYTES_MAX) -> bytes:
        """The header's value; of scores that exceed `limit` bytes the best, and the floor that holds for these.

        Raises:
            ValueError: a digest is not hexadecimal, or a number or name is outside its range.
        """
        try:
            pairs = struct.pack("<" + "If" * len(self.scores), *chain.from_iterable(self.scores))
        except struct.error as error:
            raise ValueError(f"{SCORES_HEADER}: {error}") from None
        return encode_pairs(self.tagger, self.labels, self.precision, self.floor, pairs, limit)

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Read a header's value.

        Raises:
            ValueError: it is nothing that `encode` writes.
        """
        packed = PackedScores.decode(value)
        flat = struct.unpack("<" + "If" * (len(packed.pairs) // _PAIR_BYTES), packed.pairs)
        ids, scores = flat[::2], flat[1::2]
        try:
            _require(all(packed.floor <= score <= 1 for score in scores), "a score is not a number from the floor to 1")
            _require(all(better >= worse for better, worse in pairwise(scores)), "the scores do not fall")
            _require(len(set(ids)) == len(ids), "a label comes twice")
        except ValueError as error:
            raise ValueError(f"unreadable header {SCORES_HEADER}: {error}") from None
        pairs = tuple(zip(ids, scores, strict=True))
        return cls(packed.tagger, packed.labels, packed.precision, packed.floor, pairs)


class PackedScores(NamedTuple):
    """`StoredScores` with the scores in their written form: uint32 and float32 each, unchecked."""

    tagger: str
    labels: str | None
    precision: str
    floor: float
    pairs: bytes

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Read a header's value.

        Raises:
            ValueError: what stands before the scores is nothing that we write.
        """
        try:
            known = _bounded(value, _SCORES.size, SCORES_BYTES_MAX)
            pairs_at = _SCORES.size + known[_SCORES.size - 1]
            head = _read_head(known[:pairs_at])
            _require(not (len(known) - pairs_at) % _PAIR_BYTES, "it ends within a score")
        except (ValueError, struct.error) as error:
            raise ValueError(f"unreadable header {SCORES_HEADER}: {error}") from None
        return cls(*head, known[pairs_at:])


def encode_pairs(
    tagger: str, labels: str | None, precision: str, floor: float, pairs: bytes, limit: int = SCORES_BYTES_MAX
) -> bytes:
    """`StoredScores.encode` for scores in their written form: uint32 and float32 each, best first."""
    head = _head(tagger, labels, precision, floor)
    room = max(0, limit - len(head)) // _PAIR_BYTES * _PAIR_BYTES
    if len(pairs) <= room:
        return head + pairs
    floor = _next_float32(_score_at(pairs, room))
    while room and _score_at(pairs, room - _PAIR_BYTES) < floor:
        room -= _PAIR_BYTES
    return _head(tagger, labels, precision, floor) + pairs[:room]


@lru_cache(maxsize=256)
def _head(tagger: str, labels: str | None, precision: str, floor: float) -> bytes:
    """The bytes before the scores: the same for all images of one model and profile, if no image has too many."""
    name = _name_bytes(precision, 0, _PRECISION_MAX)
    scored = _ALL_LABELS if labels is None else bytes.fromhex(labels)
    _require(len(scored) == len(_ALL_LABELS), f"{labels!r} is no digest of labels")
    return _SCORES.pack(_FORMAT, _sha256(tagger), scored, floor, len(name)) + name


@lru_cache(maxsize=256)
def _read_head(head: bytes) -> tuple[str, str | None, str, float]:
    """Reads what `_head` writes: tagger, labels, precision and floor."""
    version, tagger, labels, floor, length = _SCORES.unpack_from(head)
    _require(version == _FORMAT, f"format version {version}, and {_FORMAT} is known")
    precision = _name(head[_SCORES.size :], length, 0, _PRECISION_MAX)
    _require(0 <= floor <= 2, "the floor is not a number from 0 to 1")  # the next float32 after 1 may be one
    return tagger.hex(), None if labels == _ALL_LABELS else labels.hex(), precision, floor


def _score_at(pairs: bytes, offset: int) -> float:
    (score,) = struct.unpack_from("<f", pairs, offset + 4)
    return float(score)


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """The embedding of one image, as its outcome carries it.

    Args:
        model: digest of the model that gave it, 64 hex digits.
        space: points are comparable within one space alone.
        data: float16, little-endian: what `Embedding.data` has in base64.
    """

    model: str
    space: str
    data: bytes

    @property
    def dimensions(self) -> int:
        return len(self.data) // 2

    def encode(self) -> bytes:
        """The header's value.

        Raises:
            ValueError: the digest is not hexadecimal, or the space's name is too long.
        """
        space = _name_bytes(self.space, 1, _SPACE_MAX)
        return _EMBEDDING.pack(_FORMAT, _sha256(self.model), len(space)) + space + self.data

    @classmethod
    def decode(cls, value: bytes | None) -> Self:
        """Read a header's value.

        Raises:
            ValueError: it is nothing that `encode` writes, or the vector is not of length 1.
        """
        try:
            known = _bounded(value, _EMBEDDING.size, _EMBEDDING.size + _SPACE_MAX + 2 * DIMENSIONS_MAX)
            version, model, length = _EMBEDDING.unpack_from(known)
            _require(version == _FORMAT, f"format version {version}, and {_FORMAT} is known")
            data_at = _EMBEDDING.size + length
            space = _name(known[_EMBEDDING.size : data_at], length, 1, _SPACE_MAX)
            count, rest = divmod(len(known) - data_at, 2)
            _require(not rest and 1 <= count <= DIMENSIONS_MAX, "it ends within a number")
            numbers = struct.unpack_from(f"<{count}e", known, data_at)
            _require(abs(math.hypot(*numbers) - 1) <= _ROUNDING, "the vector is not of length 1")
        except (ValueError, struct.error) as error:
            raise ValueError(f"unreadable header {EMBEDDING_HEADER}: {error}") from None
        return cls(model.hex(), space, known[data_at:])


def _bounded(value: bytes | None, least: int, most: int) -> bytes:
    _require(value is not None and least <= len(value) <= most, f"not from {least} to {most:,} bytes long")
    assert value is not None
    return value


def _name_bytes(name: str, least: int, most: int) -> bytes:
    if not (name.isascii() and (name.isprintable() or not name) and least <= len(name) <= most):
        raise ValueError(f"{name!r} is not {least} to {most} printable ASCII characters")
    return name.encode("ascii")


def _name(value: bytes, length: int, least: int, most: int) -> str:
    _require(len(value) == length, "it ends within a name")
    return _name_bytes(value.decode("latin-1"), least, most).decode("ascii")


def _sha256(digest: str) -> bytes:
    value = bytes.fromhex(digest)
    _require(len(value) == 32, f"{digest!r} is no sha256 in hex")
    return value


def _next_float32(value: float) -> float:
    """The smallest float32 above a value that is one."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    (above,) = struct.unpack("<f", struct.pack("<I", bits + 1))
    return float(above)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
