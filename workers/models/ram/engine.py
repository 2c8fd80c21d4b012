"""A bundle's model on its device, shared by tagger and captioner."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.added import AddedLabels, columns_of, parted
from workers.models.bundle import Bundle
from workers.models.cpu_layers import leave_file, pack
from workers.models.device import Device, Precision, normaliser
from workers.models.ram.config import from_json
from workers.models.ram.networks import LabelScorer, filled_model
from workers.models.ram.text import TextBranch
from workers.models.tagger import PIECE, SeenRows
from workers.types import Pixels


class Engine:
    """From images to image tokens, and from these to logits. Belongs to the device thread.

    A captioner asks for the images that the tagger of the same bundle has just seen, so while there is one, the
    tagger's last tokens are kept for it.
    """

    def __init__(self, model: LabelScorer, bundle: Bundle, device: Device, precision: Precision) -> None:
        self.model = model
        self.device = device
        self.has_captioner = False
        normalise = normaliser(bundle.manifest.mean, bundle.manifest.std, device, device.dtype(precision))
        made = device.functions()
        self._tokens = made(lambda images: model.encode(normalise(images)))
        self._logits = made(model.score)
        self._kept = SeenRows[Tensor]()

    def encode(self, images: Sequence[Pixels]) -> Tensor:
        """Image tokens (images, 1 + tokens, width); at least one image, inside `Device.run`."""
        tokens = self.tokens(self.device.stream(images, PIECE))
        if self.has_captioner:
            self._kept.keep(images, tokens)
        return tokens

    def encode_again(self, images: Sequence[Pixels]) -> Tensor:
        """Image tokens (images, 1 + tokens, width); reuses (once) those of the last `encode`."""
        rows = [self._kept.row(image) for image in images]
        self._kept.drop(images)
        new = [image for image, row in zip(images, rows, strict=True) if row is None]
        rest = iter(self.tokens(self.device.stream(new, PIECE)) if new else ())
        return torch.stack([next(rest) if row is None else row for row in rows])

    def score(self, embeds: Tensor, subset: Tensor | None = None) -> Tensor:
        """Logits (images, n) of n subset ids, or (images, labels).

        As `LabelScorer.score`, inside `Device.run`. All labels are scored by the device's execution of functions.
        """
        return self._logits(embeds) if subset is None else self.model.score(embeds, subset)

    def tokens(self, pieces: Iterable[Tensor]) -> Tensor:
        """Image tokens (images, 1 + tokens, width), inside `Device.run`.

        Args:
            pieces: (n, 3, side, side) uint8 each, from `Device.stream`; each is requested when it is needed.
        """
        found = [self._tokens(piece) for piece in pieces]
        return found[0] if len(found) == 1 else torch.cat(found)


_engines: WeakValueDictionary[tuple[str, Device, Precision], Engine] = WeakValueDictionary()


def engine_of(bundle: Bundle, device: Device, precision: Precision) -> Engine:
    """The engine of this bundle; the existing one while it is still in use.

    Raises Misconfigured: the weights do not fit the bundle's architecture, or the device lacks the precision.
    """
    key = (bundle.digest, device, precision)
    engine = _engines.get(key)
    if engine is None:
        engine = _engines[key] = Engine(_ready(bundle, device, precision), bundle, device, precision)
    return engine


def _ready(bundle: Bundle, device: Device, precision: Precision) -> LabelScorer:
    config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
    if bundle.transform.size != config.encoder.image_size:
        raise Misconfigured(
            f"{bundle.folder}: the transform makes images of {bundle.transform.size} pixels, and the encoder takes "
            f"{config.encoder.image_size}."
        )
    weights = bundle.weights()
    columns = columns_of(bundle)
    own, added = parted(weights, columns)
    try:
        model = filled_model(config, own)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()[:500]
        raise Misconfigured(f"{bundle.folder}: the weights do not fit the architecture: {detail}") from None
    if added is not None:
        model.added = AddedLabels(columns, added)
    if precision == "int8":
        # int8 layers keep no float weights, which freezing needs; what it makes of them stays in fp32
        model.float().freeze()
        model = device.place(model, precision)
    else:
        model = device.place(model, precision)
        with torch.inference_mode():
            model.freeze()
            if device.fuses(precision):
                _pack(model, precision)
    if device.chunks(precision):
        model.encoder.run_in_chunks()
    if precision == "int8" or device.fuses(precision):
        leave_file(model, bundle, weights)
    return model


def _pack(model: LabelScorer, precision: Precision) -> None:
    """Fused linear layers where they are faster: in fp32 those of the encoder and the text decoder, in bf16 all but the
    folded ones."""
    text = getattr(model, "text", None)
    pack(model.encoder, rows=2304)
    if isinstance(text, TextBranch):
        pack(text.decoder, rows=4)
        text.decoder.pack_output(rows=4)
    if precision == "bf16":
        pack(model.head, rows=4096, keep=("query", "out"))
        if isinstance(text, TextBranch):
            pack(text.tag_encoder, rows=40)
