"""Checkpoints: one file each, to resume a killed run exactly.

It holds the changing state: trained parameters, buffers (statistics of batch norms), the optimizer's moments, the
moving average, and the position in the data. Frozen weights come from the run's start. The file is replaced
atomically, so a readable one always exists.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tagstream_train.plan import Plan
from workers.errors import Misconfigured
from workers.models.files import read_saved

NAME = "checkpoint.pt"
_FORMAT = "tagstream-checkpoint/2"
_REMEDY = "remove it to begin anew"


def save(folder: Path, content: Mapping[str, Any], plan: Plan, identity: Mapping[str, str]) -> None:
    """Replace the folder's checkpoint atomically.

    Args:
        content: tensors, numbers, texts, and lists and dicts of them.
        identity: the run's other dependencies by name, such as model and data.
    """
    document = {"format": _FORMAT, "plan": plan.model_dump(mode="json"), "identity": dict(identity), **content}
    scratch = folder / f".{NAME}"
    with scratch.open("wb") as file:
        torch.save(document, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, folder / NAME)


def load(folder: Path, plan: Plan, identity: Mapping[str, str]) -> dict[str, Any] | None:
    """Content of the folder's checkpoint, or None; its tensors stay in the file.

    Raises:
        Misconfigured: it is of another run, or is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    found = read_saved(path, remedy=_REMEDY)
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise Misconfigured(f"{path} is no checkpoint of this version; {_REMEDY}.")
    _compare(path, found["identity"], dict(identity))
    _compare(path, found["plan"], plan.model_dump(mode="json"))
    return found


def changing(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of a model that training changes, sharing its memory."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    kept = model.state_dict()
    return trained | {name: buffer for name, buffer in model.named_buffers() if name in kept}


def put_back(model: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copy what `changing` gave into a model.

    Raises:
        Misconfigured: the model has other tensors.
    """
    places = changing(model)
    if {name: t.shape for name, t in places.items()} != {name: t.shape for name, t in tensors.items()}:
        raise Misconfigured(f"{folder / NAME} belongs to another model; choose another folder, or remove it.")
    for name, tensor in tensors.items():
        places[name].copy_(tensor)


def _compare(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            raise Misconfigured(
                f"{path} belongs to a run with {name} {then.get(name)!s:.100}; this run has {now.get(name)!s:.100}: "
                "give the same options to go on with it, or choose another folder."
            )
