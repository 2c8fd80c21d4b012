"""SigLIP and CLIP in a size that a test makes in a moment: published files, tokenizers and bundles of that size."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from workers.models.bundle import Bundle
from workers.models.dual.adapters import BACKGROUND, VECTORS, A, B
from workers.models.dual.config import DualConfig, Kind, TowerConfig
from workers.models.dual.importer import Labels, Origin, import_dual, with_labels
from workers.models.dual.towers import ImageTower, TextTower, shapes

SIZES: Mapping[Kind, DualConfig] = {
    "siglip": DualConfig("siglip", "small-siglip", 64, 16, TowerConfig(64, 240, 2, 1), TowerConfig(64, 240, 2, 1),
                         512, 64, 64, 4.7, -16.0),
    "clip": DualConfig("clip", "small-clip", 64, 16, TowerConfig(128, 256, 2, 2), TowerConfig(64, 256, 2, 1),
                       512, 77, 48, 4.6),
}  # fmt: skip
NAMES = ("forklift", "pallet", "dog on a beach", "snow")


def published(kind: Kind, seed: int = 0) -> dict[str, Tensor]:
    config, made = SIZES[kind], torch.Generator().manual_seed(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=made)
        if "norm" in name and name.endswith("weight"):
            return 1 + 0.1 * values
        return values * (0.05 if name.endswith("bias") else 0.3 if len(shape) < 2 else shape[-1] ** -0.5)

    tensors = {"logit_scale": torch.tensor(config.scale)} | (
        {"logit_bias": torch.tensor([config.bias])} if kind == "siglip" else {}
    )
    for side, make in (("image", ImageTower), ("text", TextTower)):
        ours = {f"{side}.{name}": drawn(name, shape) for name, shape in shapes(make, config).items()}
        tensors |= _as_transformers(ours)
    return tensors


@cache
def tokenizer(kind: Kind) -> bytes:
    """A tokenizer.json like the published one: BPE with merges and a fallback to bytes, or on bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    texts = ["a photo of a dog on a beach", "two forklifts in a dark hall", "snow on a pallet", "pallets and dogs"]
    if kind == "siglip":
        pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        plain = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        plain.normalizer = normalizers.Replace(" ", "▁")
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=pieces, show_progress=False)
        plain.train_from_iterator(texts, trainer)
        document = json.loads(plain.to_str())
        document["added_tokens"] = document["added_tokens"][:4]  # bytes are pieces, and no special tokens
        return json.dumps(document).encode()
    plain = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    plain.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    plain.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(False)])
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [f"{byte}</w>" for byte in sorted(alphabet)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>", show_progress=False,
    )  # fmt: skip
    plain.train_from_iterator([*texts, " ".join(special)], trainer)
    return plain.to_str().encode()


def small_dual(kind: Kind, folder: Path, *, dtype: str = "fp32", seed: int = 0) -> Bundle:
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights, words = folder.parent / f"{folder.name}.safetensors", folder.parent / f"{folder.name}.json"
    save_file(published(kind, seed), weights)
    words.write_bytes(tokenizer(kind))
    origin = Origin(name=f"small {kind}", space=SIZES[kind].space)
    return import_dual(weights, words, folder, origin, dtype=dtype)  # type: ignore[arg-type]


def labelled(bundle: Bundle, folder: Path, names: tuple[str, ...] = NAMES) -> Bundle:
    """The same with seeded label vectors, and with scores that are neither 0 nor 1."""
    made = torch.Generator().manual_seed(len(names))
    dimensions = bundle.manifest.architecture["dimensions"]
    assert isinstance(dimensions, int)
    tensors = {
        VECTORS: F.normalize(torch.randn(len(names), dimensions, generator=made), dim=1),
        A: torch.full((len(names),), 0.02),
        B: torch.zeros(len(names)),
    }
    if bundle.manifest.kind == "clip":
        tensors[BACKGROUND] = F.normalize(torch.randn(3, dimensions, generator=made), dim=1)
    return with_labels(bundle, folder, Labels(names, tensors), source="a test")


_STACK = {"norm": "layer_norm1", "out": "self_attn.out_proj", "mixer.norm": "layer_norm2", "mixer.up": "mlp.fc1",
          "mixer.down": "mlp.fc2"}  # fmt: skip
_REST = {
    "image.patches": "vision_model.embeddings.patch_embedding",
    "image.positions": "vision_model.embeddings.position_embedding.weight",
    "image.class_token": "vision_model.embeddings.class_embedding",
    "image.norm_before": "vision_model.pre_layrnorm",
    "image.norm": "vision_model.post_layernorm",
    "image.head": "visual_projection",
    "image.pool.out": "vision_model.head.attention.out_proj",
    "image.pool.mixer.norm": "vision_model.head.layernorm",
    "image.pool.mixer.up": "vision_model.head.mlp.fc1",
    "image.pool.mixer.down": "vision_model.head.mlp.fc2",
    "text.tokens": "text_model.embeddings.token_embedding.weight",
    "text.positions": "text_model.embeddings.position_embedding.weight",
    "text.norm": "text_model.final_layer_norm",
}


def _as_transformers(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    clip = "image.class_token" in ours or ("text.head.bias" not in ours and "text.tokens" in ours)
    rest = _REST | {"text.head": "text_projection" if clip else "text_model.head"}
    tensors: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        module, _, kind = name.rpartition(".")
        if ".blocks." in name:
            side, _, number, layer = module.split(".", 3)
            stem = f"{'vision' if side == 'image' else 'text'}_model.encoder.layers.{number}"
            if layer == "qkv":
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    tensors[f"{stem}.self_attn.{part}_proj.{kind}"] = piece.clone()
            else:
                tensors[f"{stem}.{_STACK[layer]}.{kind}"] = tensor
        elif name == "image.pool.probe":
            tensors["vision_model.head.probe"] = tensor[None, None]
        elif module in ("image.pool.query", "image.pool.key_value"):
            if module.endswith("query"):
                joined = torch.cat((tensor, ours[f"image.pool.key_value.{kind}"]))
                tensors[f"vision_model.head.attention.in_proj_{kind}"] = joined
        elif name in rest:
            tensors[rest[name]] = tensor
        else:
            tensors[f"{rest[module]}.{kind}"] = tensor
    return tensors
