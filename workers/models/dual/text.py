"""The text tower of a dual encoder's bundle: sentences to vectors. Commands open it, a worker never does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.bundle import TEXT, TOKENIZER, Bundle, read_tensors
from workers.models.cpu_layers import pack
from workers.models.device import Device, Precision, choose_device
from workers.models.dual.config import KINDS, Kind, from_json
from workers.models.dual.tokens import MAX_TOKENIZER_BYTES, TokenIds
from workers.models.dual.towers import TextTower, filled

BATCH = 32
"""Sentences at a time: more gains nothing."""


class TextEncoder:
    """Makes vectors of sentences. One thread at a time.

    Attributes:
        space: of the vectors; those of images of the same space can be compared with them.
        kind: "siglip" or "clip".
        scale: logarithm of the factor that makes a logit of a cosine, as published.
        bias: of that logit; 0 for CLIP.
    """

    def __init__(self, tower: TextTower, tokens: TokenIds, bundle: Bundle, device: Device) -> None:
        config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
        self.name = bundle.name
        self.space: str = config.space
        self.kind: Kind = config.kind
        self.scale: float = config.scale
        self.bias: float = config.bias
        self.dimensions = config.dimensions
        self._tower = tower
        self._tokens = tokens
        self._device = device

    def encode(
        self, sentences: Sequence[str], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor:
        """Vectors (n, dimensions) float32 of length 1, on the host.

        Raises:
            Misconfigured: the tokenizer is that of another tower.
        """
        rows = [torch.empty(0, self.dimensions)]
        for start in range(0, len(sentences), BATCH):
            ids, ends = self._tokens(sentences[start : start + BATCH])
            if self.kind == "clip":
                ids = ids[:, : int(ends.max()) + 1]  # nothing reads the padding
            with self._device.run():
                rows.append(self._tower(ids.to(self._device.where), ends.to(self._device.where)).cpu())
            progress(min(start + BATCH, len(sentences)), len(sentences))
        return torch.cat(rows)

    def cut(self, sentences: Sequence[str]) -> list[str]:
        """Sentences of which the tower reads the beginning alone."""
        return self._tokens.cut(sentences)

    def require_space(self, space: str, of: str) -> None:
        """Raise Misconfigured: the vectors `of` another are of another space than these sentences'."""
        if space != self.space:
            raise Misconfigured(
                f"{of} has vectors of the space {space!r}, and {self.name} makes those of {self.space!r}: vectors of "
                "two spaces can't be compared. Use the text tower of the same model."
            )


def open_text(bundle: Bundle | Path | str, *, device: str = "cpu", precision: Precision = "fp32") -> TextEncoder:
    """Open the text tower of a bundle; all its bytes are checked.

    Raises:
        Misconfigured: no bundle of a dual encoder, one that came without its text tower, a changed file, or int8.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    if opened.manifest.kind not in KINDS or TEXT not in opened.manifest.provenance.beside:
        raise Misconfigured(
            f"{opened.folder} ({opened.manifest.kind}) has no text tower: only bundles of dual encoders read "
            "sentences. Make one with `tagstream models pull siglip2-b16-224` or clip-b16."
        )
    if precision == "int8":
        raise Misconfigured("A text tower does not run in int8; choose fp32 or bf16.")
    config = from_json(opened.manifest.kind, opened.manifest.architecture)
    tokens = TokenIds(opened.beside(TOKENIZER, MAX_TOKENIZER_BYTES).read_bytes(), config, opened.folder / TOKENIZER)
    tower = filled(TextTower, config, read_tensors(opened.beside(TEXT)), opened.folder / TEXT)
    place = choose_device(device)
    table = tower.tokens  # most of the file; a sentence needs a few rows, so it stays mapped
    del tower.tokens
    tower = place.place(tower, precision)
    tower.tokens = torch.nn.Parameter(table.to(place.where), requires_grad=False)
    if place.fuses(precision):
        with torch.inference_mode():
            pack(tower, rows=BATCH * config.length)
    return TextEncoder(tower, tokens, opened, place)
