"""Renditions that come, change and go beside their originals: what is shown was in the store together."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import settings

from schemas.enriched_image import EnrichedImage, read_output
from tests.support.harness import BUCKET
from tests.support.histories import Copy, History, histories
from tests.unit.pipeline.test_renditions import MORE, jpeg
from tests.unit.pipeline.test_versions import START, Life, ends_right, shown_last
from workers.errors import Unavailable
from workers.rendition import Rendition
from workers.types import StoredObject

WEB = f"{BUCKET}-web"
BESIDE = Rendition.of("{bucket}-web/{key}.jpg", [BUCKET, WEB, f"{WEB}-web"])
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
REFUSED = Unavailable("s3", "HTTP 403 AccessDenied", fault="forbidden")


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Beside(Life):
    """Objects and their renditions. `together`: key, ETag and hash of what an outcome may be of."""

    bodies: ClassVar[Sequence[bytes]] = [jpeg(colour, (16, 12)) + MORE for colour in COLOURS.values()]

    def __init__(self, seed: int, count: int) -> None:
        super().__init__(histories(seed, count, START, copies=True), rendition=BESIDE)
        store = self.manual.store
        store.make_bucket(WEB)
        self._get, store.get = store.get, self._read  # type: ignore[method-assign]
        self.colours = {sha256(body): name for body, name in zip(self.bodies, COLOURS, strict=True)}
        self.together: set[tuple[str, str, str]] = set()
        self._due: dict[str, list[Callable[[], None]]] = {}

    def _read(self, bucket: str, key: str, **how: Any) -> StoredObject:
        if bucket == WEB:
            self._happen(key)
        return self._get(bucket, key, **how)

    def _happen(self, name: str) -> None:
        for each in self._due.pop(name, ()):
            each()

    def _turned(self) -> None:
        for name in [*self._due]:
            self._happen(name)

    def _change(self, history: History, number: int | Copy) -> None:
        at = number.at if isinstance(number, Copy) else history.changes[number].at
        if any(copy.while_read and copy.at == at for copy in history.copies):
            self._due.setdefault(f"{history.key}.jpg", []).append(partial(self._change_now, history, number))
        else:
            self._change_now(history, number)

    def _change_now(self, history: History, number: int | Copy) -> None:
        if isinstance(number, Copy):
            self._copy(f"{history.key}.jpg", number)
        else:
            super()._change(history, number)
        self._note(history.key)

    def _copy(self, name: str, copy: Copy) -> None:
        store = self.manual.store
        if copy.kind == "gone":
            store.remove(WEB, name)
        elif copy.kind == "refused":
            store.fail(WEB, name, REFUSED)
        else:
            store._faults.pop((WEB, name), None)
            colour, size = [*COLOURS][copy.colour], (8, 8) if copy.kind == "other" else (8, 6)
            body = jpeg(COLOURS[colour], size, note=f"{name} {copy.serial}")[: 60 if copy.kind == "broken" else None]
            store.put(WEB, name, body)
            if copy.kind == "made":
                self.colours[sha256(body)] = colour

    def _note(self, key: str) -> None:
        """What an outcome may be of from now on."""
        name, store = f"{key}.jpg", self.manual.store
        now, beside = (store._buckets[bucket].get(each, [None])[-1] for bucket, each in ((BUCKET, key), (WEB, name)))
        for each in (now, None if (WEB, name) in store._faults else beside):
            if now is not None and each is not None and each.last_modified >= now.last_modified:
                self.together.add((key, now.etag, sha256(each.body)))

    def is_right(self, history: History, image: EnrichedImage) -> bool:
        """Whether the outcome is of what was there, in all its fields."""
        source, own = image.source, [sha256(body) for body in self.bodies]
        size = len(self.bodies[own.index(source.sha256)]) if source.sha256 in own else image.image.bytes
        return (
            (history.key, source.etag, source.sha256) in self.together
            and [tag.name for tag in image.tags] == [self.colours[source.sha256]]
            and (source.read is None) == (image.image.of is None) == (source.sha256 in own)
            and (image.image.width, image.image.height, image.image.bytes) == (16, 12, size)
        )


def tried(seed: int, count: int) -> tuple[Counter[str], list[History]]:
    """Numbers of histories, and of images by what was read; and the wrong histories."""
    life = Beside(seed, count)
    life.run()
    random, outcomes, counts, wrong = Random(seed), life.outcomes(), Counter[str](), list[History]()
    for history in life.lived:
        images = [each for each in map(read_output, outcomes[history.key]) if isinstance(each, EnrichedImage)]
        counts.update("original" if each.source.read is None else "rendition" for each in images)
        counts[history.undecidable or "decided"] += 1
        right = all(life.is_right(history, each) for each in images)
        last = shown_last(history, outcomes[history.key], random)
        if not right or not (history.undecidable or ends_right(life, history, last)):
            wrong.append(history)
    return counts, wrong


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(settings().max_examples // 6))
def test_an_outcome_is_of_an_original_or_rendition_that_was_there_for_its_version(seed: int) -> None:
    counts, wrong = tried(seed, 400)
    assert wrong == []
    assert counts["decided"] > 400 * 4 / 5
    assert min(counts["rendition"], counts["original"]) > 100, "either is read"
