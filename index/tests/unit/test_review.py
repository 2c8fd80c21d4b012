"""The file of a review: its bounds, the precision it shows, the corrections that it makes."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.correction import read_correction
from tagstream_index.review import Drawn, Review, judge, lines
from workers.assembly.choices import Choice, weighted
from workers.errors import Misconfigured


def picture(key: str, verdict: Choice | None = None, *, chance: float = 0.5, shows: bool = True) -> Drawn:
    facts: dict[str, Any] = {"sha256": "a" * 64, "model": "c" * 64, "score": 0.5, "chance": chance, "shows": shows}
    return Drawn(bucket="photos", key=key, verdict=verdict, **facts)


def review(*drawn: Drawn) -> Review:
    return Review.of("dog", 100, drawn)


@pytest.mark.parametrize(("near", "far"), [(0.5, 0.98), (0.8, 0.95), (0.95, 0.5), (1.0, 1.0)])
def test_the_interval_holds_the_precision_of_the_population_and_the_share_has_no_bias(near: float, far: float) -> None:
    rng, truth, shares, held = random.Random(1), near / 4 + far * 3 / 4, [], 0
    for _ in range(600):
        drawn = [(0.03, rng.random() < near) for _ in range(25)] + [(0.01, rng.random() < far) for _ in range(25)]
        share, low, high = weighted(drawn)
        shares.append(share)
        held += low <= truth <= high
    assert held >= 0.93 * 600
    assert abs(sum(shares) / 600 - truth) < 0.012, "each verdict counts by the inverse of its chance"


def test_wilsons_interval_is_that_of_equal_chances_and_unequal_ones_make_it_wider() -> None:
    share, low, high = weighted([(0.1, n < 45) for n in range(50)])
    assert (round(share, 4), round(low, 4), round(high, 4)) == (0.9, 0.7864, 0.9565)
    _, lower, _ = weighted([(0.1 if n % 2 else 0.01, n < 45) for n in range(50)])
    assert lower < low


@pytest.mark.parametrize("chances", [(5e-324, 1.0), (1e-300, 1e-300), (1.0, 1.0)])
def test_no_chance_makes_the_numbers_overflow(chances: Sequence[float]) -> None:
    share, low, high = weighted([(chance, True) for chance in chances])
    assert 0 <= low <= share <= high <= 1


def test_only_verdicts_count_and_those_just_below_are_told_apart() -> None:
    told = review(
        picture("a", "accepted"), picture("b", "rejected"), picture("c"), picture("d", "accepted", shows=False)
    )
    precision, below = told.share(), told.share(shows=False)
    assert precision is not None
    assert below is not None
    assert (precision.share, precision.judged, precision.drawn) == (0.5, 2, 3)
    assert (below.share, below.judged) == (1.0, 1)
    assert review(picture("a")).share() is None
    assert len(list(lines(told))) == 2
    assert "no verdict" in "".join(lines(review(picture("a"))))


def test_rejected_pictures_become_corrections_and_accepted_ones_on_request() -> None:
    told = review(picture("a", "accepted"), picture("b", "rejected"), picture("c"))
    (only,) = (read_correction(record.value or b"") for record in told.corrections(accepted=False))
    assert (only.key, only.removed, only.added, only.sha256, only.model) == ("b", ("dog",), (), "a" * 64, "c" * 64)
    both = [read_correction(record.value or b"") for record in told.corrections(accepted=True)]
    assert [(each.key, each.added, each.removed) for each in both] == [("a", ("dog",), ()), ("b", (), ("dog",))]


def test_a_file_is_read_as_it_was_written_and_verdicts_by_hand_are_seen(tmp_path: Path) -> None:
    path, told = tmp_path / "review.jsonl", review(picture("a\u2028b"), picture("b"))
    told.write(path)
    assert [*Review.read(path).drawn] == [*told.drawn]
    path.write_bytes(path.read_bytes().replace(b'"verdict":null', b'"verdict":"rejected"', 1) + b"\n")
    assert [each.verdict for each in Review.read(path).drawn] == ["rejected", None]
    assert judge(path, told.head.made_at, {1: "accepted", 7: "accepted"})
    assert [each.verdict for each in Review.read(path).drawn] == ["rejected", "accepted"]
    assert not judge(path, "2020-01-01T00:00:00Z", {0: "accepted"}), "another draw by now"
    assert Review.read(path).drawn[0].verdict == "rejected"


def damaged(number: int, **fields: Any) -> list[bytes]:
    """A good file with other fields in a line."""
    told = review(picture("a"), picture("b"))
    written = [orjson.loads(each.model_dump_json()) for each in (told.head, *told.drawn)]
    written[number - 1] |= fields
    return [orjson.dumps(each) for each in written]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ([], 1),
        ([b"\xff\xfe"], 1),
        ([b'{"schema":"tagstream-changes/1"}'], 1),
        (damaged(1, label="\x1b[2J"), 1),
        (damaged(1, label="x" * 101), 1),
        (damaged(1, lines=10**9), 1),
        (damaged(1, lines=1), 3),
        (damaged(2, chance=0), 2),
        (damaged(2, chance=-0.5), 2),
        ([line.replace(b'"chance":0.5', b'"chance":NaN') for line in damaged(2)], 2),
        ([line.replace(b'"chance":0.5', b'"chance":1e999') for line in damaged(2)], 2),
        (damaged(2, score=2), 2),
        (damaged(3, verdict="yes"), 3),
        (damaged(3, bucket="a/b"), 3),
        (damaged(3, key="\0"), 3),
        (damaged(3, key="k" * 20_000), 3),
        (damaged(3, sha256="A" * 64), 3),
        (damaged(3, key="a"), 3),
        ([*damaged(2)[:2], b"[" * 10_000], 3),
    ],
)
def test_a_damaged_file_is_one_error_that_names_the_line(tmp_path: Path, written: list[bytes], number: int) -> None:
    (path := tmp_path / "review.jsonl").write_bytes(b"\n".join(written))
    with pytest.raises(Misconfigured, match=f"line {number}") as refused:
        Review.read(path)
    assert len(str(refused.value)) < 400
    assert str(refused.value).isprintable()


def test_a_file_that_lacks_pictures_or_is_no_file_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "review.jsonl").write_bytes(b"\n".join(damaged(2)[:2]))
    with pytest.raises(Misconfigured, match="2 pictures were drawn, and it has 1"):
        Review.read(path)
    with pytest.raises(Misconfigured, match="can't be read"):
        Review.read(tmp_path)
