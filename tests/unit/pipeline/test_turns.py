"""Images that lack the result of an added role wait in a queue of their own, and are decoded for what they lack."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagstream_testing.memory import MemoryObjectStore, MemoryResultCache
from tests.support.harness import BUCKET, ColourTagger, png
from tests.support.images import encoded
from tests.support.inline_intake import InlineIntake
from tests.support.kinds import BrightnessKind, BrightnessModel
from tests.support.manual_pipeline import ManualPipeline
from tests.support.tasks import FACTS, complete
from workers import metrics
from workers.errors import Broken
from workers.intake import Limits
from workers.pipeline.kind_role import KindRole
from workers.pipeline.known_results import KnownResults
from workers.pipeline.roles import make_roles
from workers.types import DecodedImage, Facts, Fetched, ImageAbout, LabelScores, Pixels, Transform

ADDED = BrightnessKind.name
BOTH, ALONE, TAGS = ["tags", ADDED], [ADDED], ["tags"]
EVERY_S = 300.0


class Seeing(ColourTagger):
    """Tells its batches: of each image the level of its first pixel; 200 is the self-test image."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def forward(self, images: Sequence[Any]) -> Sequence[Any]:
        self.seen.append([int(image[0, 0, 0]) for image in images])
        return super().forward(images)


class Shades(BrightnessModel):
    """Tells its batches as `Seeing` does."""

    max_batch = 8

    def __init__(self, side: int = 16, works: Callable[[int], None] = lambda images: None) -> None:
        super().__init__()
        self.transform = Transform(side)
        self.seen: list[list[int]] = []
        self.about: list[ImageAbout] = []
        self.wrong = False
        self._works = works

    def self_test_image(self) -> Pixels:
        return np.full((self.transform.size, self.transform.size, 3), 200, np.uint8)

    def forward(self, images: Sequence[Pixels], about: Sequence[ImageAbout]) -> Sequence[Any]:
        self._works(len(images))
        self.seen.append([int(image[0, 0, 0]) for image in images])
        self.about += about
        return super().forward(images, about)

    def check_self_test(self, answer: Any) -> None:
        if self.wrong:
            raise Broken("bright is off.")


@pytest.fixture
def tagger() -> Seeing:
    return Seeing()


def pipeline(tagger: ColourTagger, model: Shades, **more: Any) -> ManualPipeline:
    return ManualPipeline(tagger=tagger, added=[KindRole(BrightnessKind(), model)], **more)


def come(manual: ManualPipeline, *levels: int, want: Sequence[str]) -> None:
    """Events of grey images of these levels."""
    for level in levels:
        manual.store.put(BUCKET, f"{level}", png((level, level, level)))
        manual.events(f"{level}", options={"want": want})


def run(manual: ManualPipeline, *levels: int, want: Sequence[str]) -> None:
    come(manual, *levels, want=want)
    manual.turn()


def test_images_that_want_only_tags_share_no_batch_with_an_added_role_and_both_have_turns(tagger: Seeing) -> None:
    model = Shades()
    manual = pipeline(tagger, model)
    come(manual, 100, want=BOTH)
    come(manual, *range(10, 22), want=TAGS)
    run(manual, 101, 102, 103, want=BOTH)
    assert tagger.seen == [[*range(10, 18)], [100], [18, 19, 20, 21], [101, 102], [103]]
    assert model.seen == [[100], [101, 102], [103]]
    assert len(manual.done) == 16


def test_an_image_whose_added_result_is_known_goes_with_those_that_want_only_tags(tagger: Seeing) -> None:
    model = Shades()
    manual = pipeline(tagger, model)
    run(manual, 1, want=ALONE)
    manual.commit_all()
    come(manual, 1, want=BOTH)
    run(manual, 2, want=TAGS)
    assert (tagger.seen, model.seen) == ([[1, 2]], [[1]])


def test_a_batch_of_an_added_role_grows_while_it_is_quick_and_ends_others_wait_where_it_is_slow(tagger: Seeing) -> None:
    """Guard: eight dense pages in one batch would count as a hung device."""
    manual: ManualPipeline
    image_s = 0.02
    model = Shades(works=lambda images: manual.clock.advance(images * image_s))
    manual = pipeline(tagger, model)
    run(manual, *range(50, 65), want=ALONE)
    assert list(map(len, model.seen)) == [1, 2, 4, 8]
    image_s = 0.1
    run(manual, *range(20, 32), want=ALONE)
    assert list(map(len, model.seen[4:])) == [8, 2, 2]
    image_s = 5.0
    run(manual, *range(40, 44), want=ALONE)
    assert list(map(len, model.seen[7:])) == [2, 1, 1]


def test_an_added_role_that_runs_out_of_memory_works_in_smaller_pieces_and_the_tagger_in_full_batches(
    tagger: Seeing,
) -> None:
    room = 8

    tried: list[int] = []

    def works(images: int) -> None:
        tried.append(images)
        if images > room:
            raise MemoryError

    model = Shades(works=works)
    manual = pipeline(tagger, model)
    run(manual, *range(50, 65), want=BOTH)
    room = 3
    run(manual, *range(20, 36), want=BOTH)
    assert list(map(len, tagger.seen[4:])) == [8, 8]
    assert tried[4:] == [8, 4, 2, 2, 4, 2, 2, *([2] * 4)]
    safe = {labels["role"]: size for size, labels in manual.pipeline.annotate.gauges[metrics.SAFE_BATCH]()}
    assert safe == {"tags": 8, ADDED: 2}
    assert len(manual.done) == 31


def test_a_self_test_among_images_that_want_only_tags_leaves_the_added_role_for_a_turn_of_its_own(
    tagger: Seeing,
) -> None:
    model = Shades()
    manual = pipeline(tagger, model, self_test_s=EVERY_S)
    manual.clock.advance(EVERY_S)
    run(manual, 1, want=TAGS)
    assert (tagger.seen, model.seen) == ([[1, 200], [200]], [[200]])
    manual.clock.advance(EVERY_S)
    run(manual, 2, 3, want=BOTH)
    assert model.seen[1:] == [[2, 200], [3]]


def test_a_right_answer_of_the_tagger_proves_nothing_of_an_added_role(tagger: Seeing) -> None:
    model = Shades()
    manual = pipeline(tagger, model, self_test_s=EVERY_S)
    run(manual, 1, want=ALONE)
    manual.clock.advance(EVERY_S)
    model.wrong = True
    come(manual, 2, want=TAGS)
    with pytest.raises(Broken, match="bright is off"):
        manual.turn()
    heir = pipeline(tagger, healthy := Shades(), cache=manual.cache)
    run(heir, 1, want=ALONE)
    assert healthy.seen == [[1]], "its wrong result is still in the cache"


class Asked(InlineIntake):
    """Remembers for what it decodes."""

    def __init__(self, store: MemoryObjectStore, transforms: Sequence[Transform]) -> None:
        super().__init__(store, transforms, Limits(facts="on"))
        self.asked: list[set[Transform]] = []
        self.reserved: list[int] = []
        self.used: Callable[[], int] = lambda: 0

    def decode(
        self, fetched: Fetched, facts: Facts, transforms: Sequence[Transform] | None = None
    ) -> Future[DecodedImage]:
        self.asked.append(set(transforms or ()))
        self.reserved.append(self.used())
        return super().decode(fetched, facts, transforms)


def test_an_image_is_decoded_for_the_results_that_it_lacks_and_takes_no_more_memory(tagger: Seeing) -> None:
    model = Shades(960)
    transforms = tagger.transform, model.transform
    manual = pipeline(tagger, model, make_intake=lambda store: Asked(store, transforms), facts="on")
    manual.intake.used = lambda: manual.pipeline.decode.budget.used
    for level, want in ((1, TAGS), (2, BOTH), (3, ALONE), (1, TAGS), (1, ALONE)):
        run(manual, level, want=want)
        manual.commit_all()
    small, large = transforms
    # Facts are cached under the tagger's scale, so they are read at that.
    assert manual.intake.asked == [{small}, {small, large}, {small, large}, {large}]
    first, second, _, fourth = manual.intake.reserved
    assert first < 4 * 960**2 < fourth < second


def test_the_keys_of_tags_are_those_of_a_worker_without_the_added_role() -> None:
    """A result of a finer scale may stand under the key of a coarser one, and never the other way round."""

    def scale_of(transforms: tuple[Transform, ...]) -> Any:
        return lambda facts: facts.width // max(transform.size for transform in transforms)

    tagger, cache = ColourTagger(), MemoryResultCache()
    roles = make_roles({"tagger": tagger})
    with_added = make_roles({"tagger": tagger}, added=[KindRole(BrightnessKind(), Shades(16))])
    without, known = (KnownResults(cache, each, scale_of=scale_of) for each in (roles, with_added))
    facts = replace(FACTS, width=32)
    scores = tagger.postprocess(tagger.forward([tagger.self_test_image()])[0])
    assert isinstance(scores, LabelScores)
    brightness = KindRole(BrightnessKind(), BrightnessModel()).finish((7.0, ImageAbout("png", 1, 1)))
    old, new = (each.values(complete(facts=facts, results={"tags": scores})) for each in (without, known))
    assert old == new
    [key] = old
    assert key.endswith(":scale=1/4")
    [key] = known.values(complete(facts=facts, results={ADDED: brightness}, want=(ADDED,)))
    assert key.endswith(":scale=1/2")


@pytest.mark.parametrize(("facts", "orientation"), [("on", 6), ("off", None)])
def test_an_added_model_hears_of_the_stored_file(tagger: Seeing, facts: Any, orientation: int | None) -> None:
    model = Shades()
    manual = pipeline(tagger, model, facts=facts, self_test_s=EVERY_S)
    exif = Image.Exif()
    exif[0x0112] = 6
    manual.store.put(BUCKET, "a", encoded(Image.new("RGB", (40, 30)), "jpeg", exif=exif))
    manual.events("a", options={"want": ALONE})
    manual.clock.advance(EVERY_S)
    manual.turn()
    assert model.about == [ImageAbout("jpeg", 40, 30, orientation), ImageAbout("png", 16, 16, 1)]
