"""Drawn sets for training and tests, in one folder.

train    images with captions as the web has them, and no tag
truth    the same images with all tags that are true, the others known to be absent, and true captions
test     other images with the truth
unseen   images with the truth, each with a shape in a colour that is nowhere in `train`
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from examples.learn.paint import paint
from examples.learn.say import describe, web_caption
from examples.learn.scene import LABELS, Scene, compose
from tagstream_train.data.images import link
from tagstream_train.data.samples import DataSet, Origin, Sample, require_empty, write_dataset

TRAIN, TRUTH, TEST, UNSEEN = "train", "truth", "test", "unseen"
_CAPTIONS = 2
"""Captions as the web has them, for each image."""
_REFERENCES = 5
"""True captions for each image that captions are judged by."""


def draw(
    out: Path, *, images: int, seed: int, report: Callable[[int, int], None], side: int = 96, tests: int | None = None
) -> dict[str, DataSet]:
    """Draw training images, and `tests` images for each test.

    The same arguments give the same sets, and images of a larger set begin with those of a smaller one.

    Args:
        report: gets the number of drawn images, and their total.

    Raises:
        Misconfigured: the folder is not empty.
    """
    require_empty(out)
    tests = tests or max(1, images // 5)
    drawn = _Drawn(out, seed, side, images + 2 * tests, report)
    learn = list(drawn.scenes(TRAIN, images))
    for name, _, _ in learn:
        link(out / TRAIN / name, out / TRUTH / name)
    sets = {
        TRAIN: [drawn.web(number, learn) for number in range(images)],
        TRUTH: [drawn.true(TRUTH, *each) for each in learn],
        **{part: [drawn.true(part, *each) for each in drawn.scenes(part, tests)] for part in (TEST, UNSEEN)},
    }
    step = f"drawn from seed {seed} at {side} pixels"
    return {
        part: write_dataset(
            out / part, samples, () if part == TRAIN else LABELS, name=f"drawn-{seed}-{part}", steps=[step]
        )
        for part, samples in sets.items()
    }


class _Drawn:
    def __init__(self, out: Path, seed: int, side: int, total: int, report: Callable[[int, int], None]) -> None:
        self._out, self._seed, self._side = out, seed, side
        self._total, self._report = total, report
        self._done = 0

    def scenes(self, part: str, count: int) -> Iterator[tuple[str, str, Scene]]:
        """Write a part's images; yield name, sha256 and scene."""
        for number in range(count):
            random = Random(f"{self._seed} {part} {number}")
            scene = compose(random, held_out=part == UNSEEN)
            body = io.BytesIO()
            paint(scene, self._side, random).save(body, "PNG")
            name = f"images/{number:06}.png"
            path = self._out / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body.getvalue())
            self._done += 1
            self._report(self._done, self._total)
            yield name, hashlib.sha256(body.getvalue()).hexdigest(), scene

    def web(self, number: int, learn: list[tuple[str, str, Scene]]) -> Sample:
        name, sha256, scene = learn[number]
        random = Random(f"{self._seed} web {number}")
        other = learn[number - 1][2]
        captions = tuple(web_caption(scene, other, random) for _ in range(_CAPTIONS))
        return Sample(image=name, captions=captions, sha256=sha256)

    def true(self, part: str, name: str, sha256: str, scene: Scene) -> Sample:
        random = Random(f"{self._seed} true {part} {name}")
        captions = tuple(describe(scene, random) for _ in range(_REFERENCES))
        tags = tuple(at for at, label in enumerate(LABELS) if label in scene.tags)
        absent = tuple(at for at in range(len(LABELS)) if at not in tags)
        origins: dict[int, Origin] = dict.fromkeys(tags, "given")
        return Sample(image=name, captions=captions, tags=tags, absent=absent, origins=origins, sha256=sha256)
