"""What `tagstream bench` measures, and how."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from workers.assembly.composition import load_models
from workers.assembly.decoders import limits, reducing_gap
from workers.assembly.progress import Tell
from workers.capacity import Decoded, MachineProfile
from workers.errors import LargerThanReserved, Misconfigured, Rejected
from workers.files import read_regular_file
from workers.intake.decoding import Decoding
from workers.models.device import Device, choose_device
from workers.models.load import open_bundle
from workers.models.tune import use_named
from workers.ports import Model
from workers.processors import processors
from workers.settings import Settings

SIZES = (0.3, 2.0, 12.0)
"""Megapixels of the drawn images."""
TIMED = 3
"""Least runs of each; the quickest counts."""
TIMED_S = 4.0
"""Least seconds of a batch's runs: a small model is twice as slow in its first seconds."""


def measured(settings: Settings, photos: Sequence[Path], tell: Tell, note: Callable[[str], None]) -> MachineProfile:
    """Measure what an image costs with these settings' models.

    Args:
        photos: to decode; none: drawn ones.
        note: called for each photo that can't be decoded, and if the machine is busy.

    Raises:
        Misconfigured: none of the photos can be decoded.
        Broken: a model does not give its golden answers.
    """
    if (load := os.getloadavg()[0]) > processors() / 2:
        note(f"this machine is busy with something else (load {load:.1f}): what is measured now says little.")
    tell("loading the models", 0, 1)
    models = cast("dict[str, Model]", load_models(settings))
    for model in models.values():
        model.warm_up()
    tell("loading the models", 1, 1)
    device = choose_device(settings.device)
    batch = min(model.max_batch for model in models.values())
    single_s, cores = _of_a_batch(models, device, 1, tell)
    batch_s, cores = (single_s, cores) if batch == 1 else _of_a_batch(models, device, batch, tell)
    weights = sum(open_bundle(bundle.name_or_folder).size_bytes for bundle in settings.bundles().values())
    decoding = Decoding([model.transform for model in models.values()], limits(settings), reducing_gap(settings))
    return MachineProfile(
        name=", ".join(f"{model.name} {model.precision}" for model in models.values())[:200],
        machine=f"{device.name}, {processors()} processors"[:200],
        device=device.kind,
        single_s=single_s,
        batch=batch,
        batch_s=batch_s,
        device_cores=cores,
        decoded=_decoded(decoding, photos, settings.max_object_bytes, tell, note),
        weights_bytes=weights,
    )


def _of_a_batch(models: Mapping[str, Model], device: Device, images: int, tell: Tell) -> tuple[float, float]:
    """Seconds and busy processors of one batch through all models in turn."""
    doing = f"a batch of {images}"
    runs: list[tuple[float, float]] = []
    until = time.perf_counter() + TIMED_S
    while len(runs) < TIMED or time.perf_counter() < until:
        tell(doing, min(len(runs), TIMED), TIMED)
        started, used = time.perf_counter(), time.process_time()
        for use, model in models.items():
            use_named(use).trial(model, [model.self_test_image()] * images)
        device.synchronise()
        seconds = time.perf_counter() - started
        runs.append((seconds, (time.process_time() - used) / seconds))
    tell(doing, TIMED, TIMED)
    seconds, busy = min(runs)
    return seconds, max(0.01, busy)


def _decoded(
    decoding: Decoding, photos: Sequence[Path], max_bytes: int, tell: Tell, note: Callable[[str], None]
) -> tuple[Decoded, ...]:
    bodies: Sequence[Callable[[], bytes]] = [partial(read_regular_file, path, max_bytes) for path in photos] or [
        partial(drawn, size) for size in SIZES
    ]
    found = []
    for number, body in enumerate(bodies):
        tell("decoding images", number, len(bodies))
        try:
            found.append(_one(decoding, body()))
        except (Rejected, OSError, LargerThanReserved) as error:
            note(f"{photos[number]}: {error.strerror if isinstance(error, OSError) else error}")
    tell("decoding images", len(bodies), len(bodies))
    if not found:
        raise Misconfigured("None of these images can be decoded. Name others, or none to measure drawn images.")
    return tuple(found)


def _one(decoding: Decoding, body: bytes) -> Decoded:
    times = []
    for _ in range(TIMED):
        started = time.process_time()
        header = decoding.inspect(body)
        decoding.decode(body, header.format)
        times.append(time.process_time() - started)
    return Decoded(megapixels=header.width * header.height / 1e6, core_s=max(1e-6, min(times)))


def drawn(megapixels: float) -> bytes:
    """A 4:3 JPEG about as hard to decode as a photograph."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    chance = np.random.default_rng(0)
    shapes = Image.fromarray(chance.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    picture = np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = chance.integers(-6, 7, (height, width, 1), dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()
