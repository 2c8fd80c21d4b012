"""RAM, RAM++ and Tag2Text behind the ports `Tagger` and `Captioner`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from schemas.text import first_fault
from workers.errors import Broken, Misconfigured
from workers.models.added import pooled
from workers.models.bundle import Bundle, Golden
from workers.models.device import Device, Precision, choose_device
from workers.models.precision import DRIFT, check_batches, check_golden, settle_batch
from workers.models.ram.config import CLIP_SPACE, PUBLISHED, Tag2TextConfig
from workers.models.ram.decoding import CaptionDecoding, Tokens, decode
from workers.models.ram.engine import Engine, engine_of
from workers.models.ram.networks import Tag2Text
from workers.models.ram.wordpiece import PROMPT_IDS, SEP, WordPiece
from workers.models.tagger import SeenRows, TorchTagger, golden_answers, sample_image
from workers.models.tune import shown_labels
from workers.types import Caption, LabelScores, Pixels, Subset, Transform

Ids = NDArray[np.int32]


SEPARATOR = " | "


class SubsetLogits(NamedTuple):
    """One image's answer for some labels: (n,) ids, ascending, and (n,) logits."""

    ids: Ids
    logits: NDArray[np.float32]


class RamTagger(TorchTagger):
    """Scores labels with a RAM, RAM++ or Tag2Text bundle; with a `subset`, only these labels, and cheaper.

    A `SubsetTagger`: within its labels each image may want others.
    """

    def __init__(
        self, bundle: Bundle, device: Device, precision: Precision, engine: Engine, subset: Sequence[int] | None
    ) -> None:
        model = engine.model
        super().__init__(bundle, device, precision, lambda x: model.score(model.embed(model.encode(x))), subset=subset)
        self._engine = engine

    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """Logits of the scored labels, (n,) float32 for each image."""
        if not images:
            return []
        with self._engine.device.run():
            return list(self._score(self._encode(images), self._ids).cpu().numpy())

    def features(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """Pooled tokens of each image, (2 * width,) float32 (`added.pooled`)."""
        if not images:
            return []
        with self._engine.device.run():
            return list(pooled(self._encode(images)).float().cpu().numpy())

    def forward_subsets(
        self, images: Sequence[Pixels], subsets: Sequence[Subset | None]
    ) -> Sequence[NDArray[np.float32] | SubsetLogits]:
        """Logits of each image's labels: (labels,) for all, `SubsetLogits` for a subset.

        All images are encoded together. The head runs once for each set of labels.
        """
        if not images:
            return []
        places: dict[Subset | None, list[int]] = {}
        for place, subset in enumerate(subsets):
            places.setdefault(subset, []).append(place)
        ids = {each: self._ids if each is None else np.array(each.ids, np.int32) for each in places}
        with self._engine.device.run():
            embeds = self._encode(images)
            # all passes are under way before the first answer is waited for
            scored = {each: self._score(embeds[some], ids[each]) for each, some in places.items()}
            rows = {each: iter(logits.cpu().numpy()) for each, logits in scored.items()}
        answers = ((each, next(rows[each])) for each in subsets)
        return [row if each is None else SubsetLogits(ids[each], row) for each, row in answers]

    def postprocess(self, raw: NDArray[np.float32] | SubsetLogits) -> LabelScores:
        """Scores above the floor, of (labels,) logits or of a subset's. Raises ValueError: a logit is not finite."""
        return (
            self._above_floor(raw.ids, self._scores(raw.logits))
            if isinstance(raw, SubsetLogits)
            else super().postprocess(raw)
        )

    def _encode(self, images: Sequence[Pixels]) -> Tensor:
        return self._engine.model.embed(self._engine.encode(images))

    def _score(self, embeds: Tensor, ids: Ids) -> Tensor:
        """Logits of these labels; all labels are taken without an index."""
        all_of_them = len(ids) == len(self.labels)
        return self._engine.score(embeds, None if all_of_them else torch.from_numpy(ids).to(embeds.device, torch.int64))


class RamEmbedder(RamTagger):
    """A RAM or RAM++ tagger that gives embeddings too: their image projection was trained towards CLIP ViT-B/16.

    What `forward` projected last is kept on the device, so that the embeddings of these images cost nothing more.
    """

    embedding_space = CLIP_SPACE

    def __init__(
        self, bundle: Bundle, device: Device, precision: Precision, engine: Engine, subset: Sequence[int] | None
    ) -> None:
        super().__init__(bundle, device, precision, engine, subset)
        assert not isinstance(engine.model.config, Tag2TextConfig)
        self.embedding_dimensions = engine.model.config.embedding
        self._seen = SeenRows[Tensor]()

    def embed(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """Vectors of (embedding_dimensions,) float32, not normalised.

        An image of the last `forward` is not encoded again.
        """
        if not images:
            return []
        with self._engine.device.run():
            return list(torch.stack(self._seen.rows(images, self._encode)).float().cpu().numpy())

    def _encode(self, images: Sequence[Pixels]) -> Tensor:
        embeds = super()._encode(images)
        self._seen.keep(images, embeds[:, 0].clone())  # a view would keep all tokens
        return embeds


class Tag2TextCaptioner:
    """Writes captions with a Tag2Text bundle. The bundle's option `decoding` has `CaptionDecoding`'s fields."""

    def __init__(self, bundle: Bundle, device: Device, precision: Precision, engine: Engine) -> None:
        model = engine.model
        if not isinstance(model, Tag2Text):
            raise Misconfigured(f"{bundle.folder} is a bundle of the kind {bundle.manifest.kind!r}: it can't caption.")
        self.name = bundle.name
        self.digest = bundle.digest
        self.precision: str = precision
        self.transform: Transform = bundle.manifest.transform
        self.random_weights: bool = bundle.manifest.provenance.random
        self.max_batch = 0
        """Set by the caller that knows it, or found by `warm_up`."""
        self.decoding = _decoding(bundle)
        positions = model.config.text.positions
        if not len(PROMPT_IDS) < self.decoding.max_length <= positions:
            raise Misconfigured(
                f"{bundle.folder}: the option `decoding` has a max_length of {self.decoding.max_length}, and captions "
                f"have from {len(PROMPT_IDS) + 1} to {positions} tokens."
            )
        self.options_digest = hashlib.sha256(json.dumps(asdict(self.decoding), sort_keys=True).encode()).hexdigest()
        self._precision: Precision = precision
        self._golden = bundle.golden
        self._right: Caption | None = None
        """Its caption of its self-test image under no guide, once it is warm."""
        self._wordpiece = WordPiece.read(bundle.vocabulary)
        self._engine = engine
        self.model = model
        engine.has_captioner = True

    def guide(self, names: Sequence[str]) -> str:
        return SEPARATOR.join(names)

    def forward(self, images: Sequence[Pixels], guides: Sequence[str]) -> Sequence[Tokens]:
        """Each image's caption: `Tokens` with at most `decoding.max_length` ids and their mean log-probability."""
        if len(images) != len(guides):
            raise ValueError(f"{len(guides)} guides for {len(images)} images")
        if not images:
            return []
        with self._engine.device.run():
            states = self._states(images, guides)
            return decode(self.model.text.decoder, states, PROMPT_IDS, SEP, self.decoding)

    def postprocess(self, raw: Tokens) -> Caption:
        """Raises:
        ValueError: not a number as the score (a broken device).
        """
        if raw.score != raw.score:
            raise ValueError(f"{self.name}: not a number among the probabilities of a caption")
        return Caption(self._wordpiece.caption(raw.ids), raw.score, self.decoding.method)

    def warm_up(self) -> None:
        golden = self._golden
        images, guides = [self.self_test_image()], [self.guide([])]
        if golden is not None and golden.guides:
            images, guides = list(golden.pixels), list(golden.guides)
        found = self.first_logits(images, guides)
        expected = found if golden is None or not golden.guides else golden.outputs[:, -found.shape[1] :]
        check_golden(self.name, self._precision, expected, found)
        [caption] = self.forward([self.self_test_image()], [self.guide([])])
        self._right = self.postprocess(caption)
        if self.max_batch == 0:
            self.max_batch = settle_batch(lambda size: self.forward([self.self_test_image()] * size, [""] * size))
        check_batches(
            self.name,
            self._precision,
            expected,
            lambda rows: self.first_logits([images[row] for row in rows], [guides[row] for row in rows]),
            self._engine.device.batch_sizes(self.max_batch),
        )

    def self_test_image(self) -> Pixels:
        """(size, size, 3) uint8: the first image of the golden answers, else a drawn one."""
        return self._golden.pixels[0] if self._golden is not None else sample_image(self.transform.size)

    def check_self_test(self, answer: Caption) -> None:
        """Another caption is right where it is as likely: among others the last digits differ, and may decide."""
        assert self._right is not None, "warm_up comes first"
        assert self._right.score is not None
        off = abs((answer.score or 0.0) - self._right.score)
        if answer.text != self._right.text and not off <= DRIFT[self._precision]:
            raise Broken(
                f"{self.name} in {self._precision} captions its self-test image differently than at the start: "
                f"{answer.text[:100]!r}, and then {self._right.text[:100]!r}: a device that computes wrongly."
            )

    def first_logits(self, images: Sequence[Pixels], guides: Sequence[str]) -> NDArray[np.float32]:
        """(images, vocabulary), of the first token behind the prompt: the golden answer of a captioner."""
        with self._engine.device.run():
            states = self._states(images, guides)
            prompt = torch.tensor([PROMPT_IDS] * len(images), device=states.device)
            decoder = self.model.text.decoder
            logits: NDArray[np.float32] = (
                decoder.step(prompt, decoder.open(states, len(PROMPT_IDS))).float().cpu().numpy()
            )
            return logits

    def _states(self, images: Sequence[Pixels], guides: Sequence[str]) -> Tensor:
        tokens = self._engine.encode_again(images)
        rows = [self._wordpiece.guide(guide) for guide in guides]
        ids, mask = (torch.tensor(part, device=tokens.device) for part in zip(*rows, strict=True))
        return self.model.guide(ids, mask, tokens)


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> RamTagger:
    """A tagger that has not run yet.

    Raises Misconfigured: the weights do not fit, or the device lacks the precision.
    """
    engine = engine_of(bundle, device, precision)
    made = RamEmbedder if PUBLISHED[bundle.manifest.kind].facts.clip else RamTagger
    return made(bundle, device, precision, engine, subset)


def build_captioner(bundle: Bundle, device: Device, precision: Precision) -> Tag2TextCaptioner:
    """A captioner that has not run yet.

    Raises Misconfigured: no Tag2Text bundle, weights, vocabulary or options that do not fit, or a precision that the
    device lacks.
    """
    return Tag2TextCaptioner(bundle, device, precision, engine_of(bundle, device, precision))


def uses_of(bundle: Bundle) -> tuple[str, ...]:
    """The uses of a bundle's model: all tag, and some caption too."""
    return ("tagger", "captioner") if PUBLISHED[bundle.manifest.kind].facts.captions else ("tagger",)


def golden_of(bundle: Bundle) -> Golden:
    """The golden answers of a new bundle, in fp32: label logits, for a captioner with its first logits behind them."""
    device = choose_device("cpu")
    tagger = build_tagger(bundle, device, "fp32")
    golden = golden_answers(tagger)
    if "captioner" not in uses_of(bundle):
        return golden
    captioner, images = build_captioner(bundle, device, "fp32"), list(golden.pixels)
    shown = (sorted(shown_labels(tagger, row)) for row in golden.outputs)
    guides = tuple(captioner.guide([tagger.labels[label] for label in labels]) for labels in shown)
    captions = tuple(captioner.postprocess(raw).text for raw in captioner.forward(images, guides))
    outputs = np.concatenate((golden.outputs, captioner.first_logits(images, guides)), axis=1)
    return Golden(golden.pixels, outputs, guides, captions)


def _decoding(bundle: Bundle) -> CaptionDecoding:
    try:
        return _DECODING.validate_python(bundle.manifest.options.get("decoding", {}), extra="forbid")
    except ValidationError as error:
        known = ", ".join(field.name for field in fields(CaptionDecoding))
        why = f"{first_fault(error)}; it has {known}"
        raise Misconfigured(f"{bundle.folder}: the option `decoding` can't be read: {why}.") from None


_DECODING = TypeAdapter(CaptionDecoding)
