"""The rules that the Kafka backend and its fake share."""

from contextlib import nullcontext

import pytest

from workers.backends.kafka.types import FencingDetector, out_of_range, refusal
from workers.errors import Broken
from workers.types import NO_MEMBERSHIP, Assignment, Membership, Partition

PARTITION = Partition("images", 3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_member_may_commit_for_its_current_assignments_and_for_no_other() -> None:
    one, other = Assignment(PARTITION, "me"), Assignment(Partition("images", 4), "me")
    assert refusal(Membership(7, "me"), [other, one]) is None
    one.end()
    assert refusal(Membership(7, "me"), [other, one]) == "images:3 is no longer ours"


@pytest.mark.parametrize("membership", [NO_MEMBERSHIP, Membership(-1, "me"), Membership(7, "")])
def test_no_commit_is_made_without_a_membership(membership: Membership) -> None:
    assert refusal(membership, [Assignment(PARTITION, membership.member_id)]) == "we are not a member of the group"


def test_an_assignment_of_another_member_id_is_refused_although_it_is_current() -> None:
    assert "assigned to 'before'" in str(refusal(Membership(7, "now"), [Assignment(PARTITION, "before")]))


def test_the_gap_of_deleted_records_is_named() -> None:
    text = out_of_range(PARTITION, 5, 9, 20)
    assert "offsets 5 to 8 were deleted before they were read" in text
    assert "--reset-offsets" in text


@pytest.mark.parametrize(
    ("before", "later_s", "stolen"), [("fenced", 9.9, True), ("fenced", 10.0, False), ("timeout", 0.0, False)]
)
def test_only_a_second_fencing_soon_after_taking_the_id_back_means_that_another_process_has_it(
    before: str, later_s: float, stolen: bool
) -> None:
    """Later than a transaction's timeout it may be our own doing again."""
    clock = Clock()
    detector = FencingDetector("worker-0", 10.0, clock)
    detector.note(before)
    detector.initialised()
    clock.now += later_s
    said = pytest.raises(Broken, match=r"'worker-0'.*TAGSTREAM_TRANSACTIONAL_ID") if stolen else nullcontext()
    with said:
        detector.note("fenced")
