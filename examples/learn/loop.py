"""The papers' whole loop on drawn images, with its spread over seeds.

Each round trains the same model from the same random weights for the same number of steps; only the tags and captions
differ. So a round's gain measures their improvement:

    parsed        the tags parsed from captions of the web
    generated     plus the tags that the first model adds
    cleaned       without the tags that the first model finds in no part of the image
    fine-tuned    the third model, trained further on a few images with their truth

The tagger is RAM++. A Tag2Text that starts with the last one's image encoder then learns to caption, from captions of
the web, and is measured with the last tagger's tags as a guide and without.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import torch
from pydantic import Field, ValidationError

from examples.learn.scene import LABELS
from examples.learn.sets import TEST, TRAIN, TRUTH, UNSEEN, draw
from tagstream_train.data.images import Carrier, Images
from tagstream_train.data.samples import HEADER, DataSet, Sample, write_dataset
from tagstream_train.engine.clean import Cleaner, Rules, write_cleaned
from tagstream_train.engine.generate import agreeing, generate
from tagstream_train.engine.regions import Grid, TaggerLooker
from tagstream_train.evaluate import Opened, caption, score_tags
from tagstream_train.parse.run import Choices, parse
from tagstream_train.plan import Exact, Plan
from tagstream_train.pretrain.recipes import Run, Stage, sizes_of
from tagstream_train.pretrain.run import pretrain, write_bundle
from tagstream_train.record import Tell
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.load import load_captioner, load_tagger
from workers.models.ram.config import HeadConfig, RamPlusConfig, SwinConfig, Tag2TextConfig, TextConfig
from workers.ports import Tagger

FILE = "learned.json"
_LARGEST_BYTES = 1 << 20


class Round(Exact):
    """A round's training set and results, all in 0..1."""

    name: str
    bundle: str
    """The model's folder."""
    right: float
    """Part of the tags it learned from that are true."""
    found: float
    """Part of the true tags that it learned from."""
    test: float
    """Mean average precision on other images."""
    unseen: float
    """The same on images with a shape in a colour that it never saw together."""


class Learned(Exact):
    """One seed's rounds, and CIDEr-D of captions with and without guide.

    `images` and `steps` give the run's size.
    """

    seed: int
    images: int
    steps: int
    rounds: Annotated[tuple[Round, ...], Field(fail_fast=True)]
    guided: float
    unguided: float

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Learned | None:
        """Read the folder's result, or None without one.

        Raises:
            Misconfigured: the file is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                return cls.model_validate_json(file.read(_LARGEST_BYTES))
        except ValidationError:
            raise Misconfigured(f"{path} is damaged: remove {folder}, and the seed is run again.") from None


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over seeds.

    Args:
        above: number of seeds with a number above 0.
    """

    mean: float
    deviation: float
    above: int


def spread(numbers: Sequence[float]) -> Spread:
    """Mean and deviation of at least one number."""
    return Spread(fmean(numbers), stdev(numbers) if len(numbers) > 1 else 0.0, sum(number > 0 for number in numbers))


def gains(seeds: Sequence[Learned], measure: str) -> list[Spread]:
    """Each round's gain in a measure over the last, by seed."""
    values = [[float(getattr(each, measure)) for each in learned.rounds] for learned in seeds]
    pairs = [[later - earlier for earlier, later in pairwise(row)] for row in values]
    return [spread(column) for column in zip(*pairs, strict=True)]


def means(seeds: Sequence[Learned], measure: str) -> list[Spread]:
    """Each round's measure over all seeds."""
    return [spread(column) for column in zip(*([getattr(r, measure) for r in s.rounds] for s in seeds), strict=True)]


_VAL = 0.1
"""Part of a set that measures and sets thresholds."""
_OPTIONS = "learn.json"
"""The options of a folder's run."""
_AGREES = 0.5
"""Share of the generated tags that agrees with the captions, which name only some contents."""


@dataclass(frozen=True)
class Size:
    """Sizes of the drawn sets and of training.

    Args:
        images: to learn from.
        tests: for each of the two tests.
        side: of an image, pixels.
        steps: of each round.
        fine_steps: of the fine-tuning.
        true_images: images with their truth, for the fine-tuning.
        caption_steps: of the captioner.
        captioned: test images that captions are measured on.
        width: of the encoder's first stage; the head is three times as wide.
        depths: of the encoder's stages.
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
    depths: tuple[int, ...] = (1, 2, 1)
    batch: int = 32
    crops: tuple[float, ...] = (1.0, 0.5)


FULL = Size(
    images=1600, tests=300, side=64, steps=300, fine_steps=100, true_images=200, caption_steps=300, captioned=100
)
"""Meant for a few minutes of one core."""
FAST = Size(
    images=60,
    tests=40,
    side=32,
    steps=15,
    fine_steps=60,
    true_images=60,
    caption_steps=5,
    captioned=3,
    width=16,
    depths=(2, 2),
    batch=16,
    crops=(1.0,),
)
"""Half a minute: too little to see the gains of generation and cleaning."""


def learn(folder: Path, size: Size, *, seed: int = 0, tell: Tell = lambda doing, done, total: None) -> Learned:
    """Run the whole loop; everything it makes stays in the folder.

    A second call resumes a stopped run, or returns a finished run's result. It computes with one thread: two threads on
    a busy machine wait for each other most of the time.

    Raises:
        Misconfigured: the folder has something else in it.
    """
    _claim(folder, size, seed)
    learned = Learned.read(folder)
    if learned is None:
        with _one_thread():
            learned = _Loop(folder, size, seed, tell).run()
        learned.write(folder)
    return learned


def learn_seeds(
    folder: Path, size: Size, seeds: Sequence[int], *, tell: Tell = lambda doing, done, total: None
) -> list[Learned]:
    """Run the loop for each seed, in `folder/seed-0` and so on."""
    return [learn(folder / f"seed-{seed}", size, seed=seed, tell=_named(tell, f"seed {seed}")) for seed in seeds]


def _claim(folder: Path, size: Size, seed: int) -> None:
    """Mark the folder as this run's.

    Raises:
        Misconfigured: it is another run's, or there is something else in it.
    """
    options = json.dumps({"seed": seed, **asdict(size)}, indent=1) + "\n"
    path = folder / _OPTIONS
    if path.is_file() and path.read_text(encoding="utf-8") == options:
        return
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder} exists already and belongs to another run; choose another folder, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(options, encoding="utf-8")


def _named(tell: Tell, name: str) -> Tell:
    return lambda doing, done, total: tell(f"{name}, {doing}", done, total)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Loop:
    def __init__(self, folder: Path, size: Size, seed: int, tell: Tell) -> None:
        self._folder, self._size, self._seed, self._tell = folder, size, seed, tell

    def run(self) -> Learned:
        size, run = self._size, tagging(self._size).seeded(self._seed)
        parsed = self._set("parsed", lambda out: self._parse(self._drawn[TRAIN], out))
        first = self._train("parsed", run, parsed)
        generated = self._set("generated", lambda out: self._generate(first, parsed, out))
        second = self._train("generated", run, generated)
        cleaned = self._set("cleaned", lambda out: self._clean(first, generated, out))
        third = self._train("cleaned", run, cleaned)
        few = self._set("few", lambda out: _first_of(self._drawn[TRUTH], size.true_images, out))
        last = self._train("fine-tuned", going_on(run, third, size.fine_steps), few)
        writer = self._train("captions", captioning(run, last, size), cleaned)
        made = [(first, parsed), (second, generated), (third, cleaned), (last, few)]
        rounds = tuple(self._judged(bundle, dataset) for bundle, dataset in made)
        guide = _tagger(last)
        guide.thresholds = agreeing(guide, cleaned, Images(cleaned.folder), _AGREES)
        guided, unguided = self._captions(writer, guide), self._captions(writer, None)
        return Learned(
            seed=self._seed, images=size.images, steps=size.steps, rounds=rounds, guided=guided, unguided=unguided
        )

    @cached_property
    def _drawn(self) -> Mapping[str, DataSet]:
        folder = self._folder / "drawn"
        parts = (TRAIN, TRUTH, TEST, UNSEEN)
        if all((folder / part / HEADER).is_file() for part in parts):
            return {part: DataSet(folder / part) for part in parts}
        shutil.rmtree(folder, ignore_errors=True)  # half drawn
        return draw(
            folder,
            images=self._size.images,
            tests=self._size.tests,
            seed=self._seed,
            side=self._size.side,
            report=lambda done, total: self._tell("images drawn", done, total),
        )

    def _set(self, name: str, make: Callable[[Path], DataSet]) -> DataSet:
        """Open the folder's set of this name, or make it."""
        out = self._folder / name
        return DataSet(out) if (out / HEADER).is_file() else make(out)

    def _parse(self, web: DataSet, out: Path) -> DataSet:
        return parse(web, out, Choices(labels=LABELS), lambda done: self._tell("captions", done, None)).dataset

    def _train(self, name: str, run: Run, dataset: DataSet) -> Bundle:
        out = self._folder / "bundles" / name
        if out.exists():
            return Bundle.open(out)
        made = pretrain(
            dataset,
            run,
            self._folder / "work" / name,
            workers=1,
            report=lambda stage, progress: self._tell(f"steps on {name}", progress.step, progress.steps),
        )
        return write_bundle(made, out, Images(dataset.folder), workers=1)

    def _generate(self, model: Bundle, parsed: DataSet, out: Path) -> DataSet:
        tagger = _tagger(model)
        tagger.thresholds = agreeing(tagger, parsed, Images(parsed.folder), _AGREES)
        return generate(
            tagger,
            None,
            parsed,
            out,
            Images(parsed.folder),
            report=lambda done: self._tell("images tagged", done, len(parsed)),
        ).dataset

    def _clean(self, model: Bundle, generated: DataSet, out: Path) -> DataSet:
        looker, images = TaggerLooker(_tagger(model)), Images(generated.folder)
        cleaner = Cleaner(generated, [looker], Grid(self._size.crops), Rules(seed=self._seed))
        cleaned = cleaner.clean(
            lambda sample: images.load(sample.image),
            out / "evidence",
            lambda done: self._tell("images looked at", done, len(generated)),
        )
        return write_cleaned(cleaned, generated, out, [looker])

    def _judged(self, bundle: Bundle, dataset: DataSet) -> Round:
        right, found = against(self._drawn[TRUTH], dataset)
        test, unseen = (self._map(bundle, self._drawn[part]) for part in (TEST, UNSEEN))
        return Round(
            name=bundle.folder.name, bundle=str(bundle.folder), right=right, found=found, test=test, unseen=unseen
        )

    def _map(self, bundle: Bundle, dataset: DataSet) -> float:
        return score_tags(_tagger(bundle), _opened(dataset)).table().mean().map

    def _captions(self, writer: Bundle, guide: Tagger | None) -> float:
        data = _opened(self._drawn[TEST], self._size.captioned)
        captioner = load_captioner(writer.folder, device="cpu", precision="fp32")
        return caption(captioner, guide, data).cider


def tagging(size: Size) -> Run:
    """RAM++ of this size, from random weights."""
    encoder, head = _encoder_and_head(size)
    plan = Plan(
        steps=size.steps,
        batch=size.batch,
        lr=1e-3,
        warmup_steps=size.steps // 10,
        checkpoint_every=size.steps,
        threads=1,
    )
    # neither flips nor crops: captions name the left thing, and counts
    stage = Stage(image_size=size.side, augment="none", plan=plan)
    sizes = sizes_of(RamPlusConfig(encoder, labels=1, head=head, embedding=4 * size.width, descriptions=1))
    return Run(model="ram-plus", sizes=sizes, stages=(stage,), depth=0.0, dropout=0.0, val=_VAL)


def captioning(run: Run, tagger: Bundle, size: Size) -> Run:
    """Tag2Text around the image encoder of a trained tagger.

    Most of a step is the output over BERT's 30,524 tokens, so that small batches, and more of them, teach more in the
    same time.
    """
    encoder, head = _encoder_and_head(size)
    text = TextConfig(width=head.width, heads=4, layers=2, hidden=head.hidden, positions=64)
    sizes = sizes_of(Tag2TextConfig(encoder, labels=1, head=head, text=text))
    changed = run.model_copy(update={"model": "tag2text", "sizes": sizes})
    return going_on(changed, tagger, size.caption_steps, batch=8, lr=3e-3)


def _encoder_and_head(size: Size) -> tuple[SwinConfig, HeadConfig]:
    heads = tuple(max(1, (size.width << stage) // 32) for stage in range(len(size.depths)))
    encoder = SwinConfig(image_size=size.side, width=size.width, depths=size.depths, heads=heads, window=4)
    return encoder, HeadConfig(width=3 * size.width, heads=4, layers=2, hidden=6 * size.width)


def going_on(run: Run, start: Bundle, steps: int, **plan: float) -> Run:
    """The run from a bundle's weights, with other steps and plan."""
    stage = run.stages[0]
    changes = {"steps": steps, "warmup_steps": steps // 10, "checkpoint_every": steps, **plan}
    stages = (stage.model_copy(update={"plan": stage.plan.model_copy(update=changes)}),)
    return run.model_copy(update={"start": str(start.folder), "stages": stages})


def against(truth: DataSet, dataset: DataSet) -> tuple[float, float]:
    """Precision and recall of a set's tags against the truth."""
    known = {sample.image: {truth.labels[at] for at in sample.tags} for sample in truth}
    tags = [({dataset.labels[at] for at in sample.tags}, known[sample.image]) for sample in dataset]
    right = sum(len(said & true) for said, true in tags)
    return right / max(1, sum(len(said) for said, _ in tags)), right / sum(len(true) for _, true in tags)


def _first_of(dataset: DataSet, count: int, out: Path) -> DataSet:
    """The first samples; their captions name all their tags."""
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
