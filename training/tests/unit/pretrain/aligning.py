"""A small pair of networks that learns itc and itm, and its batch; `main` is one rank of several."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tagstream_train.pretrain import alignment
from tagstream_train.pretrain.alignment import Contrast, new_part
from tagstream_train.pretrain.start import fresh
from tests.unit.models.small import SMALL
from workers.models.ram.alignment import Aligned
from workers.models.ram.config import Tag2TextConfig
from workers.models.ram.networks import Tag2Text

PAIRS = 4
TAGS = [[3, 1], [], [7], [2, 5, 9]]


def contrast(*, tags: bool = True, queue: int = 8, **options: Any) -> Contrast:
    """In float64, and in evaluation mode: nothing is dropped."""
    config = SMALL["tag2text"]
    assert isinstance(config, Tag2TextConfig)
    network = fresh(config, seed=1)
    assert isinstance(network, Tag2Text)
    part = new_part(network, None, seed=2, tags=tags)
    return Contrast(Aligned(network, part), queue=queue, ramp=4, seed=3, **options).double().eval()


def pairs(count: int = PAIRS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(count, 3, 64, 64, generator=generator, dtype=torch.float64)
    ids = torch.randint(1000, 30000, (count, 6), generator=generator)
    ids[:, 0] = 101
    mask = (torch.arange(6) < 6 - torch.arange(count)[:, None] % 3).long()
    return images, ids, mask


def most_alike(logits: Tensor, same: Tensor, smooth: float) -> Tensor:
    """In the place of `hard_negatives`: without chance."""
    return logits.masked_fill(same, -torch.inf).argmax(dim=1)


def step(made: Contrast, rows: slice = slice(None), keys: Tensor | None = None) -> dict[str, Tensor]:
    images, ids, mask = (part[rows] for part in pairs())
    tokens = made.aligned.network.encode(images)
    tags = pad_sequence([torch.tensor(each, dtype=torch.int64) for each in TAGS[rows]], True, -1)
    keys = (made.pairs + torch.arange(PAIRS))[rows] if keys is None else keys
    return made.losses(images, tokens, ids, mask, tags, keys)


def main(folder: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    alignment.hard_negatives = most_alike
    made = contrast()
    each = PAIRS // world
    losses = step(made, slice(rank * each, (rank + 1) * each))
    (losses["itc"] + losses["itm"]).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    queues = {name: getattr(made, name) for name in ("image_queue", "text_queue", "key_queue", "pairs")}
    torch.save({"losses": losses, "gradients": gradients, "queues": queues}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
