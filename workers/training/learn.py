"""The whole loop of the papers on a drawn set: parse, pre-train, generate, clean, train again, fine-tune, evaluate.

Each round trains the same model from the same random weights for the same number of steps; only what it learns from
differs. So what a round gains over the one before is what its tags and captions are better by:

    parsed        the tags parsed from captions of the web
    generated     and the tags that the first model adds
    cleaned       without those that the first model does not find in any part of the image
    fine-tuned    that model, trained on with a few images whose truth is known

The tagger is RAM++. A Tag2Text that starts with the last one's image encoder then learns to caption, from captions of
the web, and is measured with the last tagger's tags as a guide and without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.load import load_captioner, load_tagger
from workers.models.ram.config import (
    AnyConfig,
    HeadConfig,
    RamPlusConfig,
    SwinConfig,
    Tag2TextConfig,
    TextConfig,
    to_json,
)
from workers.ports import Tagger
from workers.training.data.carry import Carrier
from workers.training.data.images import Images
from workers.training.data.opening import Opened
from workers.training.data.samples import DataSet, Sample, write_dataset
from workers.training.data.splits import split
from workers.training.drawn.scene import LABELS
from workers.training.drawn.sets import TEST, TRAIN, TRUTH, UNSEEN, draw
from workers.training.engine.clean import Cleaner, Rules, write_cleaned
from workers.training.engine.generate import generate
from workers.training.engine.look import TaggerLooker
from workers.training.engine.regions import Grid
from workers.training.evaluate import caption, score_tags
from workers.training.parse.run import Choices, parse
from workers.training.plan import Plan
from workers.training.pretrain import pretrain, write_bundle
from workers.training.recipes import Run, Stage
from workers.training.thresholds import OFF, choose, precision_floor

Tell: TypeAlias = Callable[[str, int, int | None], None]
"""Told what is being done, how much of it is done, and how much there is if that is known."""


_VAL = 0.1
"""Part of a set that measures and sets thresholds."""
_AGREES = 0.5


@dataclass(frozen=True)
class Size:
    """How much is drawn and trained.

    Args:
        images: to learn from.
        tests: for each of the two tests.
        side: of an image, pixels.
        steps: of each round.
        fine_steps: of the fine-tuning.
        true_images: whose truth the fine-tuning is given.
        caption_steps: of the captioner.
        captioned: test images that captions are measured on.
        width: of the encoder's first stage; that of the head is four times as much.
        threads: that compute; None: one a core.
        crops: levels of the grid that cleaning looks at.
    """

    images: int
    tests: int
    side: int
    steps: int
    fine_steps: int
    true_images: int
    caption_steps: int
    captioned: int
    width: int = 32
    batch: int = 32
    threads: int | None = None
    crops: tuple[float, ...] = (1.0, 0.5)


FULL = Size(
    images=2000, tests=400, side=64, steps=1200, fine_steps=300, true_images=200, caption_steps=300, captioned=200
)
"""Meant for a quarter of an hour on two idle cores."""
FAST = Size(
    images=100,
    tests=80,
    side=32,
    steps=25,
    fine_steps=200,
    true_images=100,
    caption_steps=5,
    captioned=3,
    width=16,
    batch=16,
    threads=1,
    crops=(1.0,),
)
"""A minute: too little to see what each round gains."""


@dataclass(frozen=True)
class Round:
    """What a round learned from, and how well it does; all in 0..1, but for CIDEr.

    Args:
        bundle: the model's folder.
        right: part of the tags it learned from that are true.
        found: part of the true tags that it learned from.
        test: mean average precision on other images.
        unseen: the same on images with a shape in a colour that it never saw together.
    """

    name: str
    bundle: Path
    right: float
    found: float
    test: float
    unseen: float


@dataclass(frozen=True)
class Learned:
    """The rounds in their order, and CIDEr-D of captions with the last tagger's tags as a guide and without any."""

    rounds: Sequence[Round]
    guided: float
    unguided: float


def learn(folder: Path, size: Size, *, seed: int = 0, tell: Tell = lambda doing, done, total: None) -> Learned:
    """Run the whole loop; everything it makes stays in the folder.

    Raises:
        Misconfigured: the folder has something in it.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder} is there already; choose another folder, or remove it.")
    return _Loop(folder, size, seed, tell).run()


class _Loop:
    def __init__(self, folder: Path, size: Size, seed: int, tell: Tell) -> None:
        self._folder, self._size, self._seed, self._tell = folder, size, seed, tell

    def run(self) -> Learned:
        size, run = self._size, tagging(self._size).seeded(self._seed)
        parsed = self._parse(self._drawn[TRAIN])
        first = self._train("parsed", run, parsed)
        generated = self._generate(first, parsed)
        second = self._train("generated", run, generated)
        cleaned = self._clean(first, generated)
        third = self._train("cleaned", run, cleaned)
        few = _first_of(self._drawn[TRUTH], size.true_images, self._folder / "few")
        last = self._train("fine-tuned", going_on(run, third, size.fine_steps), few)
        writer = self._train("captions", captioning(run, last, size), cleaned)
        made = [(first, parsed), (second, generated), (third, cleaned), (last, few)]
        rounds = [self._judged(bundle, dataset) for bundle, dataset in made]
        return Learned(rounds, self._captions(writer, last), self._captions(writer, None))

    @cached_property
    def _drawn(self) -> Mapping[str, DataSet]:
        return draw(
            self._folder / "drawn",
            images=self._size.images,
            tests=self._size.tests,
            seed=self._seed,
            side=self._size.side,
            report=lambda done, total: self._tell("images drawn", done, total),
        )

    def _parse(self, web: DataSet) -> DataSet:
        choices = Choices(labels=LABELS)
        return parse(
            web, self._folder / "parsed", None, choices, lambda done: self._tell("captions", done, None)
        ).dataset

    def _train(self, name: str, run: Run, dataset: DataSet) -> Bundle:
        made = pretrain(
            dataset,
            run,
            self._folder / "work" / name,
            workers=1,
            report=lambda stage, progress: self._tell(f"steps on {name}", progress.step, progress.steps),
        )
        return write_bundle(made, self._folder / "bundles" / name, Images(dataset.folder), workers=1)

    def _generate(self, model: Bundle, parsed: DataSet) -> DataSet:
        tagger = _tagger(model)
        held = split(parsed, {"train": 1 - _VAL, "val": _VAL})["val"]
        tagger.thresholds = _sure(tagger, replace(_opened(parsed), samples=held))
        return generate(
            tagger,
            None,
            parsed,
            self._folder / "generated",
            Images(parsed.folder),
            report=lambda done: self._tell("images tagged", done, len(parsed)),
        ).dataset

    def _clean(self, model: Bundle, generated: DataSet) -> DataSet:
        looker, images, out = TaggerLooker(_tagger(model)), Images(generated.folder), self._folder / "cleaned"
        cleaner = Cleaner(generated, [looker], Grid(self._size.crops), Rules(seed=self._seed))
        cleaned = cleaner.clean(
            lambda sample: images.load(sample.image),
            out / "evidence",
            lambda progress: self._tell("images looked at", progress.done, progress.total),
        )
        return write_cleaned(cleaned, generated, out, [looker])

    def _judged(self, bundle: Bundle, dataset: DataSet) -> Round:
        right, found = against(self._drawn[TRUTH], dataset)
        test, unseen = (self._map(bundle, self._drawn[part]) for part in (TEST, UNSEEN))
        return Round(bundle.folder.name, bundle.folder, right, found, test, unseen)

    def _map(self, bundle: Bundle, dataset: DataSet) -> float:
        return score_tags(_tagger(bundle), _opened(dataset)).table().mean().map

    def _captions(self, writer: Bundle, guide: Bundle | None) -> float:
        data = _opened(self._drawn[TEST], self._size.captioned)
        captioner = load_captioner(writer.folder, device="cpu", precision="fp32")
        return caption(captioner, None if guide is None else _tagger(guide), data).cider


def _sure(tagger: Tagger, data: Opened) -> list[float]:
    """Thresholds above which half of the tags agree with the captions', which name but a part of what is there.

    The best F1 of a label that a model has not learned is had by giving it to every image.
    """
    tagged = score_tags(tagger, data)
    chosen = choose(tagged.scores, tagged.targets, precision_floor(_AGREES))
    ids = {label: at for at, label in enumerate(tagged.labels)}
    return [chosen[ids[label]].value if label in ids else OFF for label in tagger.labels]


def tagging(size: Size) -> Run:
    """RAM++ of this size, from random weights."""
    encoder = SwinConfig(image_size=size.side, width=size.width, depths=(2, 2), heads=(2, 4), window=4)
    head = HeadConfig(width=4 * size.width, heads=4, layers=2, hidden=8 * size.width)
    plan = Plan(
        steps=size.steps,
        batch=size.batch,
        lr=1e-3,
        warmup_steps=size.steps // 10,
        checkpoint_every=size.steps,
        threads=size.threads,
    )
    # neither flips nor crops: captions say what is on the left, and how many there are
    stage = Stage(image_size=size.side, augment="none", plan=plan)
    sizes = _sizes(RamPlusConfig(encoder, labels=1, head=head, descriptions=1))
    return Run(model="ram-plus", sizes=sizes, stages=(stage,), depth=0.0, dropout=0.0, val=_VAL)


def captioning(run: Run, tagger: Bundle, size: Size) -> Run:
    """Tag2Text around the image encoder of a tagger that `run` trained."""
    encoder = SwinConfig(image_size=size.side, width=size.width, depths=(2, 2), heads=(2, 4), window=4)
    head = HeadConfig(width=4 * size.width, heads=4, layers=2, hidden=8 * size.width)
    text = TextConfig(width=head.width, heads=4, layers=2, hidden=head.hidden, positions=64)
    sizes = _sizes(Tag2TextConfig(encoder, labels=1, head=head, text=text))
    changed = run.model_copy(update={"model": "tag2text", "sizes": sizes})
    return going_on(changed, tagger, size.caption_steps)


def going_on(run: Run, start: Bundle, steps: int) -> Run:
    """The run from a bundle's weights; for so many steps."""
    stage = run.stages[0]
    changes = {"steps": steps, "warmup_steps": steps // 10, "checkpoint_every": steps}
    stages = (stage.model_copy(update={"plan": stage.plan.model_copy(update=changes)}),)
    return run.model_copy(update={"start": str(start.folder), "stages": stages})


def _sizes(config: AnyConfig) -> dict[str, Any]:
    """As a run has them: without what the set and the stages say."""
    sizes = to_json(config)
    del sizes["labels"], sizes["encoder"]["image_size"]
    return sizes


def against(truth: DataSet, dataset: DataSet) -> tuple[float, float]:
    """The part of a set's tags that are true, and the part of the true tags of its images that it has."""
    known = {sample.image: {truth.labels[at] for at in sample.tags} for sample in truth}
    tags = [({dataset.labels[at] for at in sample.tags}, known[sample.image]) for sample in dataset]
    right = sum(len(said & true) for said, true in tags)
    return right / max(1, sum(len(said) for said, _ in tags)), right / sum(len(true) for _, true in tags)


def _first_of(dataset: DataSet, count: int, out: Path) -> DataSet:
    """The first samples of a set, their captions' tags being all of theirs."""
    carrier = Carrier(dataset.folder, out)

    def samples() -> Iterator[Sample]:
        for sample in islice(dataset, count):
            carrier.carry(sample)
            yield sample.model_copy(update={"caption_tags": (sample.tags,) * len(sample.captions)})

    return write_dataset(
        out, samples(), dataset.labels, name=f"{dataset.header.name}-{count}", steps=dataset.header.steps
    )


def _opened(dataset: DataSet, count: int | None = None) -> Opened:
    return Opened(dataset.header.name, list(islice(dataset, count)), dataset.labels, Images(dataset.folder))


def _tagger(bundle: Bundle) -> Tagger:
    return load_tagger(bundle.folder, device="cpu", precision="fp32")
