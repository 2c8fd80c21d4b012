"""The start-up banner: in one paragraph what this worker is, once its models are warm."""

from __future__ import annotations

from collections.abc import Mapping

from workers import __version__
from workers.pipeline.roles import ModelsByUse
from workers.ports import Model
from workers.settings import Settings


def banner(settings: Settings, models: ModelsByUse, device: str) -> str:
    """One log line: version, models, device, topics, group and delivery.

    A model has its precision and batch.

    Args:
        device: the device's name.
    """
    by_use: Mapping[str, Model | None] = {"tagger": models.get("tagger"), "captioner": models.get("captioner")}
    used = ", ".join(f"{use} {_model(model) if model else getattr(settings, use)}" for use, model in by_use.items())
    if settings.sample < 1:
        used += f", a sample of {settings.sample:.2%} of the objects"
    skipped = settings.skipped_topic or "nowhere, counted only"
    return (
        f"tagstream {__version__}: {used}, on {device}; reads {', '.join(settings.input_topics)} as group "
        f"{settings.group}; writes {settings.output_topic}, dead letters to {settings.dead_letter_topic}, "
        f"skips to {skipped}; delivery {settings.delivery}"
    )


def _model(model: Model) -> str:
    random = ", RANDOM WEIGHTS" if model.random_weights else ""
    return f"{model.name} {model.digest[:12]} ({model.precision}, batches of up to {model.max_batch}{random})"
