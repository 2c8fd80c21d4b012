"""What a worker holds at worst, and what its container allows."""

from __future__ import annotations

import pytest

from workers.cli.memory import DECODER_BYTES, MIB, PROGRAM_BYTES, compared, worst_bytes
from workers.settings import Settings, read


@pytest.fixture
def settings() -> Settings:
    sizes = {"encoded": "100MiB", "polled": "20MiB", "ledger": "30MiB", "decoded": "400MiB", "corrections": "7MiB"}
    budgets = {f"{name}_bytes": size for name, size in sizes.items()}
    return Settings.model_validate({**budgets, "decode_memory": "600MiB"})


def test_an_image_larger_than_the_pool_takes_its_place(settings: Settings) -> None:
    fixed = (100 + 3 * 20 + 30) * MIB + 2 * DECODER_BYTES + 2 * 7 * MIB + PROGRAM_BYTES
    assert worst_bytes(settings, 2, 7 * MIB) == fixed + (200 + 600) * MIB * 5 // 4
    small = settings.model_copy(update={"decode_memory": 50 * MIB})
    assert worst_bytes(small, 2, 7 * MIB) == fixed + 400 * MIB * 5 // 4
    corrected = small.model_copy(update={"corrections_topic": "corrections"})
    assert worst_bytes(corrected, 2, 7 * MIB) == worst_bytes(small, 2, 7 * MIB) + 7 * MIB


def test_what_is_in_hand_at_worst_is_within_the_memory_but_for_what_decoders_may_grow() -> None:
    made = read({"TAGSTREAM_CORRECTIONS_TOPIC": "corrections"})
    decoding = made.decoded_bytes // 2 + made.decode_memory
    assert worst_bytes(made, 0, 0) - PROGRAM_BYTES <= made.memory + decoding // 4


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (None, "up to 3000 MiB; nothing limits it here"),
        (3000 * MIB, "up to 3000 MiB, of 3000 MiB that this container may have"),
        (2999 * MIB, "it will be killed. Raise its limit, or lower TAGSTREAM_MEMORY"),
    ],
)
def test_the_sum_is_compared_with_the_containers_limit(limit: int | None, says: str) -> None:
    assert says in compared(3000 * MIB, limit)
