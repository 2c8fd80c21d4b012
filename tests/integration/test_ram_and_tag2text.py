"""A worker process with RAM and Tag2Text bundles, or a dual encoder, answers as the models called directly do."""

from pathlib import Path

import pytest
from PIL import Image

from schemas.enriched_image import EnrichedImage
from tests.fixtures import Stack, Unique
from tests.support.images import encoded
from tests.support.worker_process import Site, worker
from tests.unit.models.small import SMALL, small_bundle, small_checkpoint
from workers.models.load import load_captioner, load_tagger
from workers.models.ram.importer import Lists, import_checkpoint
from workers.models.tagger import sample_image
from workers.ports import Captioner
from workers.types import Pixels

pytestmark = pytest.mark.timeout(240)

THRESHOLD = 0.6
IMAGES: dict[str, Pixels] = {f"{seed}.png": sample_image(64, seed) for seed in range(3)}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ram`, imported from a checkpoint with Chinese names, and `tag2text`, of random weights."""
    folder = tmp_path_factory.mktemp("bundles")
    small_checkpoint("ram", folder / "ram.pth")
    labels = range(SMALL["ram"].labels)
    tags, thresholds, chinese = folder / "tags.txt", folder / "thresholds.txt", folder / "chinese.txt"
    tags.write_text("".join(f"tag {number}\n" for number in labels))
    thresholds.write_text(f"{THRESHOLD}\n" * len(labels))
    chinese.write_text("".join(f"标签{number}\n" for number in labels))
    lists = Lists(tags, thresholds, {"zh": chinese})
    import_checkpoint(folder / "ram.pth", folder / "ram", lists, dtype="fp32", config=SMALL["ram"])
    small_bundle("tag2text", folder / "tag2text")
    return folder


class Directly:
    def __init__(self, bundles: Path) -> None:
        self.tagger = load_tagger(bundles / "ram", device="cpu", precision="fp32")
        captioner = load_captioner(bundles / "tag2text", device="cpu", precision="fp32")
        assert isinstance(captioner, Captioner)
        self.captioner = captioner

    def tags(self, key: str) -> dict[str, float]:
        scores = self.tagger.postprocess(self.tagger.forward([IMAGES[key]])[0])
        found = zip(scores.label_ids.tolist(), scores.scores.tolist(), strict=True)
        shown = sorted(((score, number) for number, score in found if score > THRESHOLD), reverse=True)
        return {self.tagger.labels[number]: score for score, number in shown}

    def guide(self, key: str) -> tuple[str, ...]:
        """Its tags in label order, as the captioner was trained on."""
        tags = self.tags(key)
        return tuple(name for name in self.tagger.labels if name in tags)

    def caption(self, key: str, guided_by: tuple[str, ...]) -> str:
        (raw,) = self.captioner.forward([IMAGES[key]], [self.captioner.guide(guided_by)])
        return self.captioner.postprocess(raw).text


@pytest.fixture(scope="module")
def directly(bundles: Path) -> Directly:
    return Directly(bundles)


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    site = Site(stack, unique("ram"))
    for key, pixels in IMAGES.items():
        site.upload(key, encoded(Image.fromarray(pixels), "png"))
    return site


def enriched(site: Site, folder: Path, events: list[bytes], **settings: str) -> dict[str, EnrichedImage]:
    site.send([(event, ()) for event in events])
    with worker(site, "w", folder, **settings) as process:
        process.finish()
    assert site.outcomes() == site.inputs()
    assert site.letters() == []
    return {output.event.id: output for output in site.enriched_images() if output.event.id}


def test_rams_tags_or_the_events_own_guide_tag2texts_captions_on_one_decode(
    site: Site, bundles: Path, directly: Directly, tmp_path: Path
) -> None:
    own = ("tag 3", "a red kite")
    events = [site.own(key) for key in IMAGES]
    events += [
        site.own("0.png", id="guided", options={"guide_tags": list(own)}),
        site.own("1.png", id="tags alone", options={"want": ["tags"]}),
        site.own("2.png", id="caption alone", options={"want": ["caption"]}),
    ]
    found = enriched(
        site, tmp_path, events, TAGSTREAM_TAGGER=str(bundles / "ram"), TAGSTREAM_CAPTIONER=str(bundles / "tag2text")
    )
    for image in found.values():
        expected = directly.tags(image.source.key)
        if image.event.id == "caption alone":
            assert image.tags == ()
        else:
            assert {tag.name: tag.score for tag in image.tags} == pytest.approx(expected, abs=1e-4)
            assert all(tag.translations == {"zh": f"标签{tag.label_id}"} for tag in image.tags)
        if image.event.id == "tags alone":
            assert image.caption is None
        else:
            assert image.caption is not None
            assert image.caption.guided_by == (own if image.event.id == "guided" else directly.guide(image.source.key))
            assert image.caption.text == directly.caption(image.source.key, image.caption.guided_by)
        assert image.models.tagger is not None
        assert image.models.captioner is not None
        assert (image.models.tagger.name, image.models.tagger.random_weights) == ("RAM", False)
        assert (image.models.captioner.name, image.models.captioner.random_weights) == ("Tag2Text", True)
    assert len(found) == 6
    texts = {image.event.id: image.caption.text for image in found.values() if image.caption}
    assert texts["guided"] != texts["id-0.png"], "the guide did not matter: this proves nothing"
