"""Trained weights become a bundle with a card."""

from __future__ import annotations

from pathlib import Path

import pytest

from tagstream_train.export import Card, card_of, export
from tests.unit.models.small import small_bundle
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.load import load_tagger

CARD = Card(
    command="train fit",
    data={"name": "pets", "absent": "unknown"},
    plan={"epochs": 3},
    steps=30,
    images=960,
    metrics={"map": 0.75, "old_map": None},
    parents={"ram": "0" * 64},
)


def _exported(parent: Bundle, out: Path) -> Bundle:
    return export(out, parent.manifest, weights=parent.weights(), labels=parent.labels, card=CARD)


def test_a_bundle_keeps_its_card(tmp_path: Path) -> None:
    made = _exported(small_bundle("ram", tmp_path / "parent"), tmp_path / "made")
    assert card_of(Bundle.open(made.folder)) == CARD
    made.verify()


def test_a_card_changes_nothing_about_the_digest(tmp_path: Path) -> None:
    parent = small_bundle("ram_plus", tmp_path / "parent")
    assert card_of(parent) is None
    assert _exported(parent, tmp_path / "made").digest == parent.digest


def test_a_worker_gives_the_golden_answers(tmp_path: Path) -> None:
    made = _exported(small_bundle("ram", tmp_path / "parent"), tmp_path / "made")
    load_tagger(made.folder, device="cpu", precision="fp32").warm_up()


def test_a_card_that_can_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    made = _exported(small_bundle("ram", tmp_path / "parent"), tmp_path / "made")
    provenance = made.manifest.provenance.model_copy(update={"training": {"steps": "many"}})
    damaged = Bundle(made.folder, made.manifest.model_copy(update={"provenance": provenance}))
    with pytest.raises(Misconfigured, match="the card of its training"):
        card_of(damaged)
