"""RAM, RAM++ and Tag2Text in plain torch, reading the weights of the published checkpoints."""

from __future__ import annotations

from workers.models.ram.adapters import build_captioner, build_tagger

__all__ = ["build_captioner", "build_tagger"]
