"""The model of a bundle of the kind `pp-ocr`."""

from __future__ import annotations

from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.device import Device, Precision
from workers.ports import ResultModel


def build_model(bundle: Bundle, device: Device, precision: Precision) -> ResultModel:
    """Build the model, which is not warm yet.

    Raises:
        Misconfigured: the bundle does not fit, or the device lacks the precision.
    """
    raise Misconfigured(f"{bundle.folder} can't be built yet on {device.name} in {precision}.")
