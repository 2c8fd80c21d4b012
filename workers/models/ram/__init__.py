"""RAM, RAM++ and Tag2Text in plain torch, reading the weights of the published checkpoints."""

from __future__ import annotations

from workers.models.bundle import Bundle
from workers.models.ram.adapters import build_captioner, build_tagger

__all__ = ["build_captioner", "build_tagger", "uses_of"]


def uses_of(bundle: Bundle) -> tuple[str, ...]:
    """Tag2Text tags and captions, the others only tag."""
    return ("tagger", "captioner") if bundle.manifest.kind == "tag2text" else ("tagger",)
