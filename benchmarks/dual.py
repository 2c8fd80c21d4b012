"""Towers of dual encoders beside timm, open_clip and transformers on the same seeded weights.

    python -m benchmarks.dual [--rounds 5] [--batch 8] [--threads 1]

What is not installed is left out. All run in turn, round by round, in one process; times are processor seconds, of
which the least count. Each has to give our vectors: the table has the cosines.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tests.parity.dual import Dual, elsewhere
from workers.models.cpu_layers import pack
from workers.models.device import Device, Precision, choose_device
from workers.models.dual.config import DualConfig, TowerConfig
from workers.models.dual.towers import ImageTower, TextTower, filled, shapes
from workers.models.tagger import PIECE

Run = Callable[[], Tensor]
REFERENCES = ("siglip2_b16_224", "clip_b16")
_B, _SO400M, _L = TowerConfig(768, 3072, 12, 12), TowerConfig(1152, 4304, 27, 16), TowerConfig(1024, 4096, 24, 16)
SIZES = {
    "SigLIP 2 B/16-384": DualConfig("siglip", "x", 384, 16, _B, _B, 256_000, 64, 768, 4.7, -16),
    "SigLIP 2 So400m/14-384": DualConfig("siglip", "x", 384, 14, _SO400M, _SO400M, 256_000, 64, 1152, 4.7, -16),
    "CLIP B/32-224": DualConfig("clip", "x", 224, 32, _B, TowerConfig(512, 2048, 12, 8), 49_408, 77, 512, 4.6),
    "CLIP L/14-224": DualConfig("clip", "x", 224, 14, _L, TowerConfig(768, 3072, 12, 12), 49_408, 77, 768, 4.6),
}
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dual")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", action="store_true", help="the other published sizes, by our image towers alone")
    options = parser.parse_args(arguments)
    device, console = choose_device("cpu", threads=options.threads), Console(width=110)
    console.print(f"{device.name}, {options.threads} threads, {options.rounds} rounds", markup=False)
    for name in () if options.sizes else REFERENCES:
        dual = Dual(name)
        for precision in PRECISIONS:
            towers = _images(dual, device, precision)
            for count in dict.fromkeys((1, options.batch)):
                images = dual.images.repeat(count, 1, 1, 1)[:count].to(device.dtype(precision))
                runs = {each: _on(tower, images) for each, tower in towers.items()}
                _print(console, f"{name}, images, {precision}, {count} at a time", _timed(runs, options.rounds, count))
            texts = _texts(dual, device, precision)
            _print(console, f"{name}, sentences, {precision}, 5 at a time", _timed(texts, options.rounds, 5))
    for name, config in SIZES.items() if options.sizes else ():
        for precision in PRECISIONS:
            tower = _ours(device, precision, config, _random(config))
            images = torch.randn(1, 3, config.side, config.side, dtype=device.dtype(precision))
            for count in dict.fromkeys((1, options.batch)):
                ours = {"ours": _on(tower, images.repeat(count, 1, 1, 1))}
                _print(console, f"{name}, {precision}, {count} at a time", _timed(ours, options.rounds, count))
    return 0


def _images(dual: Dual, device: Device, precision: Precision) -> dict[str, Callable[[Tensor], Tensor]]:
    """Image towers of this reference, by who made them."""
    config = dual.encoder.config
    found: dict[str, Callable[[Tensor], Tensor]] = {"ours": _ours(device, precision, config, dual.encoder.image)}
    dtype, other = device.dtype(precision), elsewhere(dual.published)
    with suppress(ImportError):
        timm = import_module("timm")
        if dual.clip:
            tower = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=config.dimensions)
            tower.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(dict(other), tower))
        else:
            tower = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, act_layer="gelu_tanh")
            tower.load_state_dict({name.removeprefix("visual.trunk."): each for name, each in _trunk(other).items()})
        found["timm"] = _ready(tower, dtype)
    with suppress(ImportError):
        found["open_clip"] = _ready(_open_clip(dual, other).visual, dtype)
    with suppress(ImportError):
        encoder = _ready(_transformers(dual), dtype)
        found["transformers"] = lambda images: encoder.get_image_features(pixel_values=images).pooler_output
    return found


def _texts(dual: Dual, device: Device, precision: Precision) -> dict[str, Run]:
    """Text towers of this reference on its five sentences."""
    ids, ends = dual.ids
    ours = device.place(filled(TextTower, dual.encoder.config, dual.encoder.text), precision)
    with torch.inference_mode():
        pack(ours, rows=ids.numel())
    short = ids[:, : int(ends.max()) + 1] if dual.clip else ids
    found: dict[str, Run] = {"ours": lambda: ours(short, ends)}
    dtype = device.dtype(precision)
    with suppress(ImportError):
        clip = _ready(_open_clip(dual, elsewhere(dual.published)), dtype)
        found["open_clip"] = lambda: clip.encode_text(ids)
    with suppress(ImportError):
        encoder = _ready(_transformers(dual), dtype)
        found["transformers"] = lambda: encoder.get_text_features(input_ids=ids).pooler_output
    return found


def _ours(device: Device, precision: Precision, config: DualConfig, weights: Mapping[str, Tensor]) -> ImageTower:
    """As `build_tagger` places it."""
    tower = device.place(filled(ImageTower, config, weights), precision)
    if device.fuses(precision):
        with torch.inference_mode():
            pack(tower, rows=PIECE * config.patches)
    return tower


def _trunk(names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in names.items() if name.startswith("visual.trunk.")}


def _open_clip(dual: Dual, names: Mapping[str, Tensor]) -> Any:
    open_clip = import_module("open_clip")
    config = open_clip.get_model_config("ViT-B-16-quickgelu" if dual.clip else "ViT-B-16-SigLIP2")
    custom = config.pop("custom_text", False)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
    model.load_state_dict(dict(names))
    return model


def _transformers(dual: Dual) -> Any:
    transformers = import_module("transformers")
    kind = "CLIP" if dual.clip else "Siglip"
    special = {"eos_token_id": 49407, "bos_token_id": 49406} if dual.clip else {"vocab_size": 256_000}
    config = getattr(transformers, f"{kind}Config")(text_config=special, vision_config={"patch_size": 16})
    model = getattr(transformers, f"{kind}Model")(config)
    model.load_state_dict(dual.published)
    return model


def _ready(model: nn.Module, dtype: torch.dtype) -> Any:
    return model.eval().requires_grad_(False).to(dtype)


def _random(config: DualConfig) -> dict[str, Tensor]:
    return {name: torch.randn(shape) * 0.02 for name, shape in shapes(ImageTower, config).items()}


def _on(tower: Callable[[Tensor], Tensor], images: Tensor) -> Run:
    return lambda: tower(images)


def _timed(runs: Mapping[str, Run], rounds: int, count: int) -> dict[str, tuple[float, float]]:
    """Of each its least processor seconds an image, and the least cosine to the first one's vectors."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        vectors = {name: F.normalize(run().float(), dim=-1) for name, run in runs.items()}
        for _ in range(rounds):
            for name, run in runs.items():
                started = time.process_time()
                run()
                seconds[name].append((time.process_time() - started) / count)
    first = next(iter(vectors.values()))
    return {name: (min(seconds[name]), float((vectors[name] * first).sum(-1).min())) for name in runs}


def _print(console: Console, title: str, found: Mapping[str, tuple[float, float]]) -> None:
    table = Table(title, "processor s each", "each a core s", "to the fastest", "cosine to ours", box=None)
    best = min(seconds for seconds, _ in found.values())
    for name, (seconds, cosine) in found.items():
        table.add_row(name, f"{seconds:.4f}", f"{1 / seconds:.2f}", f"{seconds / best:.2f}", f"{cosine:.4f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
