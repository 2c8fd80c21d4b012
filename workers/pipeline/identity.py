"""How outcomes, dead letters and metrics name a model."""

from __future__ import annotations

from schemas.enriched_image import ModelRef
from workers.ports import ModelIdentity


def reference(model: ModelIdentity) -> str:
    """A model's name and the start of its digest: `ram 3f2a9c0d1e4b`."""
    return f"{model.name} {model.digest[:12]}"


def model_ref(model: ModelIdentity) -> ModelRef:
    """A model as outcomes name it."""
    return ModelRef(
        name=model.name, digest=model.digest, precision=model.precision, random_weights=model.random_weights
    )
