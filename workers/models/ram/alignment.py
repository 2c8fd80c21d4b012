"""Tag2Text's third task: whether a text fits an image. Training, evaluation and search open it, a worker never does.

The alignment encoder is BERT with cross-attention to the image, as in BLIP, and shares what BLIP shares with its
decoder: token embeddings, cross-attention and feed-forward are those of the tag encoder (and so of the tag head), and
only self-attention is its own. It reads a text alone (first token [CLS], no cross-attention), for a vector that is
compared with the image's (ITC), or with the image (first token [ENC]), for whether the two match (ITM). Beside the
image's tokens it may then look at one token for each recognised tag: the label's embedding, projected.

    alignment.safetensors, beside the bundle and outside its digest
    attention.<i>.…   self-attention           image_proj, text_proj   to the space of the vectors
    match             linear layer of 2        temperature             of ITC, a number
    tag_proj          label embedding to image token; missing where it was trained without tags
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.errors import Misconfigured
from workers.models.bundle import ALIGNMENT, Bundle, read_tensors, write_tensors
from workers.models.device import choose_device
from workers.models.ram.config import Tag2TextConfig, from_json
from workers.models.ram.engine import Engine, engine_of
from workers.models.ram.layers import KeyValue, SelfAttention, layers_of
from workers.models.ram.networks import Tag2Text
from workers.models.ram.wordpiece import CLS, ENC, PAD, SEP, WordPiece
from workers.types import Pixels

DIMENSIONS = 256
TEMPERATURE = 0.07
MATCHES = 1
"""The matching head's class of pairs that belong together."""
LENGTH = 35
"""The most tokens of a sentence, its first and last among them."""
MOST_TAGS = 40
"""Most recognised tags with an image, the best ones: as many as Tag2Text's guide has tokens."""
MAX_WORDS = 30
_REMOVED = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))
_BATCH = 32
_MOST_DIMENSIONS = 4096


def cleaned(caption: str) -> str:
    """Lower case, without punctuation, at most 30 words."""
    return " ".join(caption.lower().translate(_REMOVED).split()[:MAX_WORDS])


def sentence_tokens(wordpiece: WordPiece, texts: Sequence[str], *, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Ids [CLS] … [SEP] and mask; each (texts, n) int64, padded to the longest."""
    rows = [[CLS, *wordpiece.encode(cleaned(text))[: length - 2], SEP] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


class AlignmentPart(nn.Module):
    """The alignment's parameters."""

    def __init__(self, config: Tag2TextConfig, *, dimensions: int = DIMENSIONS, tags: bool = True) -> None:
        super().__init__()
        text, width = config.text, config.encoder.width_out
        self.attention = layers_of(SelfAttention(text.width, text.heads) for _ in range(text.layers))
        self.image_proj = nn.Linear(width, dimensions)
        self.text_proj = nn.Linear(text.width, dimensions)
        self.match = nn.Linear(text.width, 2)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.tag_proj = nn.Linear(config.head.width, width) if tags else None


class Aligned(nn.Module):
    """A Tag2Text network with its alignment part."""

    def __init__(self, network: Tag2Text, part: AlignmentPart) -> None:
        super().__init__()
        self.network = network
        self.part = part

    def image_units(self, tokens: Tensor) -> Tensor:
        """Image tokens → vectors (images, dimensions) of length 1."""
        return F.normalize(self.part.image_proj(tokens[:, 0]), dim=-1)

    def text_units(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors (texts, dimensions) of length 1; ids and mask are (texts, n), from `sentence_tokens`."""
        return F.normalize(self.part.text_proj(self._read(ids, mask, None, None)), dim=-1)

    def memory(self, tokens: Tensor, tags: Tensor | None) -> tuple[Tensor, Tensor]:
        """What texts are read with, and where it is something.

        That is (images, n, width), and (images, n) bool.

        Args:
            tokens: (images, 1 + tokens, width).
            tags: (images, most) label ids, -1 behind the last; None: tokens alone.
        """
        there = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        if tags is None or self.part.tag_proj is None:
            return tokens, there
        tags = tags[:, : int((tags >= 0).sum(dim=1).max())]
        more = self.part.tag_proj(self.network.label_embed[tags.clamp(min=0)])
        return torch.cat((tokens, more), dim=1), torch.cat((there, tags >= 0), dim=1)

    def match(self, ids: Tensor, mask: Tensor, memory: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
        """Logits (texts, 2) of whether each text fits its image; `MATCHES` is the column for "yes".

        Args:
            ids, mask: (texts, n) of `sentence_tokens`.
            memory: (images, n, width) and (images, n) bool, from `memory`.
            rows: (texts,) int64, the image of each text.
        """
        states = self._read(ids.index_fill(1, ids.new_zeros(1), ENC), mask, memory, rows)
        logits: Tensor = self.part.match(states)
        return logits

    def _read(self, ids: Tensor, mask: Tensor, memory: tuple[Tensor, Tensor] | None, rows: Tensor | None) -> Tensor:
        """The first token's state (texts, width)."""
        encoder = self.network.text.tag_encoder
        x: Tensor = encoder.embeddings(ids)
        visible = mask.bool()[:, None, None, :]
        for attention, cross in zip(self.part.attention, (*self.network.head.layers, *encoder.cross), strict=True):
            x = attention(x, visible)
            if memory is None or rows is None:
                x = cross.feed_forward(x)
                continue
            seen = cross.remember(memory[0], encoder.heads)  # once for all texts of an image
            x = cross(x, KeyValue(seen.key[rows], seen.value[rows]), memory[1][rows][:, None, None, :])
        return x[:, 0]


class ImageParts(NamedTuple):
    """What some images are compared by, on the host.

    Args:
        units: (images, dimensions) float32 of length 1.
        tokens: (images, 1 + tokens, width) of any precision.
        tags: (images, most) int64 ids of the recognised labels (`recognised`), -1 behind the last.
    """

    units: Tensor
    tokens: Tensor
    tags: Tensor


def recognised(scores: Tensor, thresholds: Tensor | float) -> Tensor:
    """Label ids (images, most), best first, -1 behind the last.

    Args:
        scores: (images, labels), 0..1.
        thresholds: (labels,), or one of all.
    """
    over = torch.where(scores > thresholds, scores, -1)
    best = over.topk(min(MOST_TAGS, scores.shape[1]), dim=1)
    return torch.where(best.values >= 0, best.indices, -1)


class Alignment:
    """Compares sentences with images. One thread at a time.

    Attributes:
        space: of its vectors; those of another file's alignment can't be compared with them.
        digest: sha256 of the file; what it gives depends on the bundle's digest too.
    """

    def __init__(self, aligned: Aligned, bundle: Bundle, engine: Engine) -> None:
        device = engine.device
        self.digest = bundle.manifest.provenance.beside[ALIGNMENT].sha256
        self.space = f"alignment-{self.digest[:16]}"
        self.dimensions = aligned.part.text_proj.out_features
        self._aligned = aligned
        self._engine = engine
        self._device = device
        self._wordpiece = WordPiece.read(bundle.vocabulary)
        self._thresholds = torch.tensor(bundle.thresholds, device=device.where)

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Vectors (texts, dimensions) float32 of length 1, on the host."""
        rows = [torch.empty(0, self.dimensions)]
        for start in range(0, len(texts), _BATCH):
            with self._device.run():
                rows.append(self._aligned.text_units(*self._tokens(texts[start : start + _BATCH])).cpu())
        return torch.cat(rows)

    def images(self, images: Sequence[Pixels]) -> ImageParts:
        """The `ImageParts` of images; each is (size, size, 3), as the bundle's transform makes it."""
        with self._device.run():
            network, tokens = self._aligned.network, self._engine.encode(images)
            scores = network.score(network.embed(tokens))[:, : network.labels].sigmoid()
            tags = recognised(scores, self._thresholds)
            return ImageParts(self._aligned.image_units(tokens).cpu(), tokens.cpu(), tags.cpu())

    def match(self, parts: ImageParts, texts: Sequence[str], pairs: Tensor, *, tags: bool = True) -> Tensor:
        """How well images and texts match, (pairs,) float32: the logit of "yes".

        Args:
            pairs: (pairs, 2) int64 of image and text, any number of each.
            tags: whether the encoder is shown the recognised tags; one that was trained without never is.
        """
        found = torch.empty(len(pairs))
        order = pairs[:, 0].argsort(stable=True)  # pairs of an image share what its layers make of it
        for rows in torch.split(order, _BATCH):
            images, of_image = torch.unique(pairs[rows, 0], return_inverse=True)
            with self._device.run():
                tokens, labels = (part[images].to(self._device.where) for part in (parts.tokens, parts.tags))
                memory = self._aligned.memory(tokens.float(), labels if tags else None)
                ids, mask = self._tokens([texts[text] for text in pairs[rows, 1].tolist()])
                logits = self._aligned.match(ids, mask, memory, of_image.to(self._device.where))
                found[rows] = logits[:, MATCHES].float().cpu()
        return found

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask = sentence_tokens(self._wordpiece, texts)
        return ids.to(self._device.where), mask.to(self._device.where)


def load_alignment(bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> Alignment:
    """Open a bundle with its alignment part, in fp32; all bytes of the part are checked.

    Raises Misconfigured: a bundle without one, a changed file, or one that does not fit the network.
    """
    part = read_part(bundle)
    place = choose_device(device, threads=threads)
    engine = engine_of(bundle, place, "fp32")
    assert isinstance(engine.model, Tag2Text)
    return Alignment(Aligned(engine.model, place.place(part, "fp32")), bundle, engine)


def has_alignment(bundle: Bundle) -> bool:
    """Whether a bundle was written with an alignment part."""
    return ALIGNMENT in bundle.manifest.provenance.beside


def read_part(bundle: Bundle) -> AlignmentPart:
    """The alignment part of a bundle, all its bytes checked. Raises Misconfigured: as `load_alignment`."""
    config = from_json(bundle.manifest.kind, bundle.manifest.architecture) if has_alignment(bundle) else None
    if not isinstance(config, Tag2TextConfig):
        raise Misconfigured(
            f"{bundle.folder} ({bundle.manifest.kind}) has no alignment part: it can't compare sentences with images. "
            "Train a Tag2Text with the objectives itc and itm (`tagstream train pretrain`)."
        )
    path = bundle.beside(ALIGNMENT)
    tensors = read_tensors(path)
    dimensions = max(1, min(_MOST_DIMENSIONS, tensors.get("text_proj.bias", torch.empty(1)).numel()))
    with torch.device("meta"):
        part = AlignmentPart(config, dimensions=dimensions, tags="tag_proj.weight" in tensors)
    try:
        part.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except (RuntimeError, IndexError) as error:
        wrong = str(error).splitlines()[-1].strip()[:300]
        raise Misconfigured(f"{path} does not fit its bundle: {wrong} Copy the bundle again.") from None
    return part.requires_grad_(False).eval()


def beside_of(part: AlignmentPart) -> Mapping[str, Callable[[Path], object]]:
    """`Bundle.write`'s argument `beside`, for this part."""
    tensors = {name: tensor.detach().cpu() for name, tensor in part.state_dict().items()}
    return {ALIGNMENT: lambda path: write_tensors(path, tensors)}
