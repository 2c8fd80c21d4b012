"""Fine-tuning of compact's whole network by timm's recipe, to compare a head with.

AdamW, a warm-up and a cosine, RandAugment, random crops, flips and erasing, binary cross-entropy with label smoothing,
a moving average of the weights: what timm's `train.py` does with `--opt adamw --sched cosine --aa rand-m7-mstd0.5-inc1
--reprob 0.25 --smoothing 0.1 --bce-loss --model-ema`, by its functions. Images are decoded once and kept small.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from workers.models.bundle import Bundle
from workers.models.compact import compact_bundle

Floats = NDArray[np.float32]

BATCH, RATE, WARMUP = 16, 5e-4, 2
_SIDE = 320


def small(image: Image.Image) -> Image.Image:
    """An image with a shorter side of at most `_SIDE`: crops are of 224."""
    scale = _SIDE / min(image.size)
    return image if scale >= 1 else image.resize([round(scale * side) for side in image.size], Image.Resampling.BICUBIC)


def fine_tuned(images: Sequence[Image.Image], targets: Floats, others: Sequence[Image.Image], epochs: int) -> Floats:
    """Scores of other images (others, labels) by the network after so many epochs."""
    data, loss, optim, scheduler, utils = (
        import_module(f"timm.{name}") for name in ("data", "loss", "optim", "scheduler", "utils")
    )
    torch.manual_seed(0)
    bundle = compact_bundle()
    size, given = bundle.manifest.transform.size, {"mean": bundle.manifest.mean, "std": bundle.manifest.std}
    network = _network(bundle, targets.shape[1])
    average = utils.ModelEmaV3(network, decay=0.9998, use_warmup=True)
    change = data.create_transform(
        size, is_training=True, auto_augment="rand-m7-mstd0.5-inc1", re_prob=0.25, interpolation="bicubic", **given
    )
    plain = data.create_transform(size, interpolation="bicubic", **given)
    optimizer = optim.create_optimizer_v2(network, opt="adamw", lr=RATE, weight_decay=0.05)
    schedule, _ = scheduler.create_scheduler_v2(
        optimizer, "cosine", num_epochs=epochs, warmup_epochs=WARMUP, warmup_prefix=False
    )
    criterion = loss.BinaryCrossEntropy(smoothing=0.1, smooth_dense=True)
    wanted = torch.from_numpy(targets)
    for epoch in range(epochs):
        schedule.step(epoch)
        network.train()
        order = torch.randperm(len(images))
        for rows in (order[start : start + BATCH] for start in range(0, len(images), BATCH)):
            optimizer.zero_grad()
            criterion(network(torch.stack([change(images[row]) for row in rows])), wanted[rows]).backward()
            optimizer.step()
            average.update(network)
    with torch.no_grad():
        pieces = [
            average.module.eval()(torch.stack([plain(image) for image in others[start : start + BATCH]])).sigmoid()
            for start in range(0, len(others), BATCH)
        ]
    scores: Floats = torch.cat(pieces).numpy()
    return scores


def _network(bundle: Bundle, labels: int) -> nn.Module:
    """Compact's network in timm, with a new classifier."""
    import timm

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=labels)
    weights: dict[str, Tensor] = {
        name: tensor for name, tensor in bundle.weights().items() if not name.startswith("classifier.")
    }
    missing = network.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys, missing
    assert all("classifier" in name or "num_batches" in name for name in missing.missing_keys), missing
    return network
