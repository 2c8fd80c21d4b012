"""The binary headers read back as written, within limits, and refuse everything else with one error."""

import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.stored_scores import SCORES_BYTES_MAX, StoredEmbedding, StoredScores

TAGGER = "ab" * 32
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
SUBSET = st.none() | st.binary(min_size=8, max_size=8).filter(any).map(bytes.hex)
PRECISION = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=32)


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@st.composite
def stored(draw: st.DrawFn, most: int = 400) -> StoredScores:
    floor = draw(st.floats(0, 0.5, width=32))
    values = sorted(draw(st.lists(st.floats(floor, 1, width=32), max_size=most)), reverse=True)
    ids = draw(st.lists(st.integers(0, 2**32 - 1), unique=True, min_size=len(values), max_size=len(values)))
    pairs = tuple(zip(ids, values, strict=True))
    return StoredScores(draw(DIGEST), draw(SUBSET), draw(PRECISION), floor, pairs)


@given(stored(most=200))
def test_scores_that_fit_read_back_unchanged(scores: StoredScores) -> None:
    value = scores.encode()
    assert StoredScores.decode(value) == scores
    assert StoredScores.decode(value).encode() == value


@given(stored(), st.integers(100, SCORES_BYTES_MAX))
def test_scores_that_do_not_fit_are_the_ones_above_the_stated_floor(scores: StoredScores, limit: int) -> None:
    value = scores.encode(limit)
    kept = StoredScores.decode(value)
    assert len(value) <= limit
    assert kept.floor >= scores.floor
    assert kept.scores == tuple(pair for pair in scores.scores if pair[1] >= kept.floor)
    if len(kept.scores) < len(scores.scores):
        tied = [score for _, score in scores.scores[len(kept.scores) :]]
        assert len(value) + 8 * len([score for score in tied if score == tied[0]]) > limit


def test_scores_that_all_tie_are_all_left_out() -> None:
    scores = StoredScores(TAGGER, None, "fp32", 0.0, tuple((label, 1.0) for label in range(1000)))
    kept = StoredScores.decode(scores.encode())
    assert kept.scores == ()
    assert kept.floor > 1


def test_the_bytes_are_these() -> None:
    scores = StoredScores(TAGGER, "0123456789abcdef", "fp32", 0.25, ((7, 0.75), (260, 0.5)))
    expected = "01" + TAGGER + "0123456789abcdef" + "0000803e" + "04" + b"fp32".hex()
    expected += "07000000" + "0000403f" + "04010000" + "0000003f"
    assert scores.encode().hex() == expected
    embedding = StoredEmbedding(TAGGER, "clip", struct.pack("<2e", 1, 0))
    assert embedding.encode().hex() == "01" + TAGGER + "04" + b"clip".hex() + "003c0000"


def test_the_sizing_page_knows_their_sizes() -> None:
    assert [len(StoredScores(TAGGER, None, "fp32", 0.25, ((1, 0.5),) * n).encode()) for n in (0, 1)] == [50, 58]
    assert len(StoredEmbedding(TAGGER, "clip-vit-b-16", bytes(2 * 512)).encode()) == 1_071


@given(st.binary(max_size=SCORES_BYTES_MAX + 50))
@example(b"")
@example(b"\x01" + bytes(45) + b"\xff")
@example(StoredScores(TAGGER, None, "fp32", 0, ((1, 0.5),)).encode() * 40)
def test_other_bytes_are_scores_in_one_writing_or_one_error(value: bytes) -> None:
    for kind in (StoredScores, StoredEmbedding):
        try:
            read = kind.decode(value)
        except ValueError as error:
            assert "unreadable header tagstream-" in str(error)  # noqa: PT017
        else:
            assert read.encode() == value


@given(stored(most=20), st.data())
def test_damaged_scores_are_other_scores_or_one_error(scores: StoredScores, data: st.DataObject) -> None:
    value = bytearray(scores.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = StoredScores.decode(bytes(value[: data.draw(st.integers(0, len(value)))]))
    except ValueError as error:
        assert "unreadable header tagstream-scores" in str(error)  # noqa: PT017
    else:
        assert all(math.isfinite(score) and 0 <= score <= 1 for _, score in read.scores)


@pytest.mark.parametrize(
    ("pairs", "floor"),
    [
        (((1, 0.5), (1, 0.25)), 0.0),  # a label twice
        (((1, 0.25), (2, 0.5)), 0.0),  # the best is not first
        (((1, math.nan),), 0.0),
        (((1, 1.5),), 0.0),
        (((1, 0.25),), 0.5),  # below the floor
        ((), math.nan),
        ((), -1.0),
    ],
)
def test_scores_that_no_tagger_gives_are_refused(pairs: tuple[tuple[int, float], ...], floor: float) -> None:
    value = StoredScores(TAGGER, None, "fp32", floor, pairs).encode()
    with pytest.raises(ValueError, match="unreadable header"):
        StoredScores.decode(value)


@pytest.mark.parametrize(
    "scores",
    [
        StoredScores("c", None, "fp32", 0, ()),
        StoredScores("zz" * 32, None, "fp32", 0, ()),
        StoredScores(TAGGER, None, "ü", 0, ()),
        StoredScores(TAGGER, None, "x" * 33, 0, ()),
        StoredScores(TAGGER, None, "fp32", 0, ((-1, 0.5),)),
    ],
)
def test_an_unwritable_value_is_not_written(scores: StoredScores) -> None:
    with pytest.raises(ValueError, match=r"."):
        scores.encode()


@given(st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=600), DIGEST)
def test_an_embedding_of_length_1_reads_back(numbers: list[float], model: str) -> None:
    length = math.hypot(*numbers)
    data = struct.pack(f"<{len(numbers)}e", *(number / length if length else number for number in numbers))
    embedding = StoredEmbedding(model, "clip-vit-b-16", data)
    if length > 0.01:
        assert StoredEmbedding.decode(embedding.encode()) == embedding
        assert embedding.dimensions == len(numbers)


@pytest.mark.parametrize("data", [b"", b"\x00", bytes(4), struct.pack("<e", math.nan), struct.pack("<2e", 1, 1)])
def test_a_vector_of_another_length_than_1_is_refused(data: bytes) -> None:
    value = StoredEmbedding(TAGGER, "clip", data).encode()
    with pytest.raises(ValueError, match="unreadable header tagstream-embedding"):
        StoredEmbedding.decode(value)
    with pytest.raises(ValueError, match="unreadable header tagstream-embedding"):
        StoredEmbedding.decode(None)
