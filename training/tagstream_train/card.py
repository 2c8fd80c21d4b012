"""The card of a trained bundle: data, plan and metrics.

It lies in the bundle's model.json under provenance.training, and changes nothing about the model's digest.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

from workers import __version__
from workers.errors import Misconfigured
from workers.models.bundle import Bundle


class Card(BaseModel):
    """Says where a bundle comes from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    command: str
    """What was done: "train fit", …"""
    data: dict[str, JsonValue]
    """The training set: its name, how many images each part has, what an absent tag was taken for, …"""
    plan: dict[str, JsonValue]
    """`tagstream_train.plan.Plan`, and what else the run was told."""
    steps: int
    images: int
    """Images seen in training, each counted as often as it was seen."""
    metrics: dict[str, float | None] = {}
    """What was measured, by name; None: it could not be."""
    thresholds: dict[str, JsonValue] = {}
    """The rule that they were chosen by, and the labels for which none could be."""
    parents: dict[str, str] = {}
    """Digests of the bundles that it was made of, by name."""
    version: str = __version__
    """The version of tagstream."""


def card_of(bundle: Bundle) -> Card | None:
    """The bundle's card; None if it was not trained here.

    Raises:
        Misconfigured: the card is not one that this version reads.
    """
    document = bundle.manifest.provenance.training
    if document is None:
        return None
    try:
        return Card.model_validate(document)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise Misconfigured(f"{bundle.folder}: the card of its training can't be read: {reason}.") from None
