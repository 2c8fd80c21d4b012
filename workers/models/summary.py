"""The summary of an import: what became of the checkpoint's tensors, in a few lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from workers.models.bundle import WEIGHTS, Bundle
from workers.models.ram.config import SwinConfig, from_json
from workers.models.ram.importer import read_checkpoint
from workers.models.ram.keys import plan
from workers.models.ram.sizes import trained_at

REPEATED = "the same tensor under a second name"


@dataclass(frozen=True, slots=True)
class Share:
    """How many tensors of a checkpoint, and their bytes."""

    tensors: int = 0
    bytes: int = 0

    def with_one(self, tensor: Tensor) -> Share:
        return Share(self.tensors + 1, self.bytes + tensor.nbytes)


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a checkpoint's tensors in one import.

    Args:
        encoder: its sizes in the bundle.
        trained_at: side of the images that the checkpoint was trained with.
        kept: tensors that the bundle holds.
        dropped: reason → tensors that inference does not need.
        others: bytes of the file that belong to no tensor of the model, an optimizer's most of them.
        written: bytes of the bundle's weights.
    """

    encoder: SwinConfig
    trained_at: int
    kept: Share
    dropped: Mapping[str, Share]
    others: int
    written: int

    def lines(self) -> Iterator[str]:
        """For a person."""
        side, trained = self.encoder.image_size, self.trained_at
        blocks = "-".join(map(str, self.encoder.depths))
        yield f"Swin, {self.encoder.width} wide, {blocks} blocks, {side} x {side} pixels"
        if side != trained:
            yield (
                f"trained with {trained} x {trained} pixels: position biases were resampled, and answers will differ "
                "from those at its own size"
            )
        yield f"kept {self.kept.tensors} tensors ({_size(self.kept.bytes)}), written as {_size(self.written)}"
        for reason, share in self.dropped.items():
            yield f"left out {share.tensors} tensors ({_size(share.bytes)}): {reason}"
        if self.others > self.kept.bytes // 100:
            yield f"left out {_size(self.others)}: an optimizer's state and whatever else is not the model"


def summarise(checkpoint: Path, bundle: Bundle) -> Summary:
    """Compare a checkpoint with the bundle that was made of it; reads no weights."""
    tensors = read_checkpoint(checkpoint)
    config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
    found = plan(tensors.keys(), config)
    kept = Share()
    dropped: dict[str, Share] = {}
    for name, tensor in tensors.items():
        if name in found.loaded:
            kept = kept.with_one(tensor)
            continue
        reason = REPEATED if name in found.tied else found.dropped[name]
        dropped[reason] = dropped.get(reason, Share()).with_one(tensor)
    seen = kept.bytes + sum(share.bytes for reason, share in dropped.items() if reason != REPEATED)
    others = max(0, checkpoint.stat().st_size - seen)
    written = bundle.manifest.files[WEIGHTS].bytes
    return Summary(config.encoder, trained_at(tensors), kept, dropped, others, written)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
