"""The benchmark of scaled decoding on a few crops, and the part of its agreement that a few crops can tell."""

import pytest

from benchmarks import decode
from tagstream_testing.local.photos import NoPhotographs, photographs
from workers.models.load import load_tagger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_large_crops_have_nearly_the_answers_of_a_decoding_in_full() -> None:
    """`make bench ARGS=decode` decodes a thousand; with few, one tag near its threshold would decide."""
    try:
        photographs(None)
    except NoPhotographs as error:
        pytest.skip(str(error))
    tagger = load_tagger("compact", device="cpu", precision="fp32")
    found = decode.changes(tagger, decode.large_jpegs(range(4)))
    close, fast = found["close"], found["fast"]
    assert (close.scales, fast.scales) == ({2: 4}, {4: 4})
    assert max(close.mean) < 0.2 < max(fast.mean) < 0.8
    assert close.largest <= 4
    assert close.gap < 0.3
    assert close.either - close.both <= 1
    assert close.either > 0


def test_a_crop_follows_from_its_number() -> None:
    one, two = decode.large_jpegs(range(2), (64, 48))
    assert next(decode.large_jpegs([1], (64, 48))) == two != one
