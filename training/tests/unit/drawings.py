"""A handful of drawn images that a tiny model learns in seconds: red or blue, circle or square."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tagstream_train.data.samples import DataSet, Sample, write_dataset
from tagstream_train.pretrain.recipes import Model, Run, Stage, recipe
from tests.support.images import encoded
from workers.types import Pixels

LABELS = ("red", "blue", "circle", "square")
SIDE = 32


def drawings(folder: Path, count: int = 8) -> DataSet:
    """Each colour and shape in turns, each image a little to the side of the last."""
    (folder / "images").mkdir(parents=True)
    samples = []
    for number in range(count):
        colour, shape = number % 2, 2 + number // 2 % 2
        body = _png(colour, shape, number // 4)
        (folder / f"images/{number}.png").write_bytes(body)
        caption = f"a {LABELS[colour]} {LABELS[shape]} on a plain ground"
        samples.append(
            Sample(
                image=f"images/{number}.png",
                captions=(caption,),
                caption_tags=((colour, shape),),
                tags=(colour, shape),
                sha256=hashlib.sha256(body).hexdigest(),
            )
        )
    return write_dataset(folder, samples, LABELS, name="drawings")


def tiny_run(
    model: Model, *, steps: int, stages: Sequence[int] = (SIDE,), plan: Mapping[str, float] = {}, **changes: Any
) -> Run:
    sizes = {
        "encoder": {"width": 16, "depths": [1, 2], "heads": [1, 2], "window": 4},
        "head": {"width": 48, "heads": 4, "layers": 2, "hidden": 96},
        "text": {"width": 48, "heads": 4, "layers": 2, "hidden": 96, "positions": 64},
    }
    run = recipe("tiny", model)
    plan = {"batch": 8, "lr": 2e-3, "warmup_steps": 10, "checkpoint_every": 50, "threads": 1, **plan, "steps": steps}
    return Run.model_validate(
        {
            **run.model_dump(),
            "sizes": {name: run.sizes[name] if name not in sizes else sizes[name] for name in run.sizes},
            "stages": [Stage.model_validate({"image_size": s, "augment": "none", "plan": plan}) for s in stages],
            "val": 0,
            "least_positives": 1,
            "dropout": 0,
            **changes,
        }
    )


def pixels(dataset: DataSet) -> list[Pixels]:
    return [
        np.asarray(Image.open(dataset.folder / sample.image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        for sample in dataset
    ]


def _png(colour: int, shape: int, shift: int) -> bytes:
    image = Image.new("RGB", (64, 64), (230, 230, 230))
    pen = ImageDraw.Draw(image)
    corners = [12 + 4 * shift, 14 + 4 * shift, 44 + 4 * shift, 46 + 4 * shift]
    (pen.rectangle if shape == 3 else pen.ellipse)(corners, fill=(30, 30, 220) if colour else (220, 30, 30))
    return encoded(image, "png")
