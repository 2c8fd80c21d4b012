"""Recipes: all of a pre-training but its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from pydantic import Field, model_validator

from tagstream_train.data.augment import FLIP_ONLY, Augment
from tagstream_train.plan import Exact, Plan
from tagstream_train.pretrain.start import scaled
from workers.models.ram.config import (
    SWIN_BASE_224,
    SWIN_LARGE_224,
    AnyConfig,
    HeadConfig,
    Kind,
    RamConfig,
    RamPlusConfig,
    SwinConfig,
    Tag2TextConfig,
    TextConfig,
    from_json,
    to_json,
)

Recipe: TypeAlias = Literal["tiny", "small", "paper"]
Model: TypeAlias = Literal["ram", "ram-plus", "tag2text"]

KINDS: Mapping[Model, Kind] = {"ram": "ram", "ram-plus": "ram_plus", "tag2text": "tag2text"}
"""Kinds of bundles by their name on the command line."""
UNTAGGED: Mapping[Recipe, float] = {"tiny": 0.2, "small": 0.2, "paper": 0.0}
"""`AlignmentPlan.untagged` by recipe."""
AUGMENTS: Mapping[str, Augment | None] = {"paper": Augment(), "flip": FLIP_ONLY, "none": None}


class Stage(Exact):
    """A part of a run, with images of one size."""

    image_size: int = Field(ge=32, le=1024)
    augment: Literal["paper", "flip", "none"] = "paper"
    """How images are changed at random: crops, flips and two operations of RandAugment; flips alone; not at all."""
    plan: Plan


class AlignmentPlan(Exact):
    """The objectives itc and itm of Tag2Text."""

    itc: float = Field(default=1.0, ge=0)
    """Weight of image-text contrast."""
    itm: float = Field(default=1.0, ge=0)
    """Weight of image-text matching."""
    tags: Literal["guided", "none"] = "guided"
    """Whether matching may look at the image's tags."""
    untagged: float = Field(default=0.0, ge=0, lt=1)
    """Share of images whose tags guided matching doesn't see in training; 0 in the papers."""
    queue: int | None = Field(default=None, ge=1)
    """Kept pairs for contrast, a multiple of a batch in all processes; None: 57,600, or half of fewer images."""


class Run(Exact):
    """A pre-training."""

    model: Model
    start: str | None = None
    """A Swin checkpoint (.pth) for the image encoder, or a bundle's folder; None: random weights."""
    vocabulary: str | None = None
    """vocab.txt for captions; None: the bundle's, or one made of the set's captions."""
    label_embeddings: str | None = None
    """Text embeddings of the labels, in their order, for RAM and RAM++; None: the bundle's, or random directions."""
    image_features: str | None = None
    """CLIP's features of the images, for distillation; None: without."""
    text_features: str | None = None
    """CLIP's features of the captions, for alignment; None: without."""
    prompt: bool = True
    """Whether captions begin with "a picture of", as in the worker; the official programs leave it out."""
    absent: Literal["unknown", "negative"] = "negative"
    """Meaning of a label without a statement for an image."""
    depth: float = Field(default=0.1, ge=0, lt=1)
    """Stochastic depth of the encoder."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the tag head and on the text side."""
    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of the images that measure and set thresholds, and don't teach."""
    least_positives: int = Field(default=5, ge=1)
    """The least such images of a label with a threshold of its own."""
    alignment: AlignmentPlan | None = None
    """None: without itc and itm."""
    retrieval: bool = False
    """Whether itc and itm are the only losses, and the bundle `start` keeps its labels and thresholds."""
    sizes: dict[str, Any]
    """As a bundle's architecture has them, without the number of labels; `image_size` is the first stage's."""
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _sized(self) -> Run:
        self.config(1)
        if self.retrieval and (self.alignment is None or self.start is None):
            raise ValueError("retrieval needs alignment, and a bundle to start from")
        return self

    def config(self, labels: int) -> AnyConfig:
        """The sizes of the first stage's model.

        Raises:
            Misconfigured: they are incomplete, or of another model.
        """
        encoder = {**self.sizes.get("encoder", {}), "image_size": self.stages[0].image_size}
        return from_json(KINDS[self.model], {**self.sizes, "encoder": encoder, "labels": labels})

    def sized_as(self, kind: str, architecture: Mapping[str, Any]) -> Run:
        """The run with a start model's sizes.

        Raises:
            Misconfigured: an invalid architecture, or its windows don't fit the first stage.
        """
        given = from_json(kind, architecture)
        encoder = to_json(replace(given, encoder=scaled(given.encoder, self.stages[0].image_size)))["encoder"]
        sizes = {**(to_json(given) if kind == KINDS[self.model] else self.sizes), "encoder": encoder}
        if isinstance(given, RamConfig) and given.text is None and self.model == "ram":
            sizes["text"] = self.sizes["text"]
        sizes.pop("labels", None)
        del sizes["encoder"]["image_size"]
        return self.model_copy(update={"sizes": sizes})

    def seeded(self, seed: int) -> Run:
        """The same with another seed."""
        stages = (s.model_copy(update={"plan": s.plan.model_copy(update={"seed": seed})}) for s in self.stages)
        return self.model_copy(update={"stages": tuple(stages)})


def recipe(name: Recipe, model: Model) -> Run:
    """A run to begin with.

    tiny: 64 pixels, for drawn or small sets on a CPU. small: a Swin-T, for one GPU. paper: the published sizes and
    schedules, on eight GPUs.
    """
    config, stages = {"tiny": _tiny, "small": _small, "paper": _paper}[name](model)
    return Run(model=model, sizes=sizes_of(config), stages=stages, depth=0.0 if name == "tiny" else 0.1)


def sizes_of(config: AnyConfig) -> dict[str, Any]:
    """Sizes for a run: without labels and image size."""
    sizes = to_json(config)
    del sizes["labels"], sizes["encoder"]["image_size"]
    return sizes


def _tiny(model: Model) -> tuple[AnyConfig, tuple[Stage, ...]]:
    swin = SwinConfig(image_size=64, width=32, depths=(2, 2, 2), heads=(1, 2, 4), window=4)
    head = HeadConfig(width=128, heads=4, layers=2, hidden=256)
    text = TextConfig(width=128, heads=4, layers=3, hidden=256, positions=64)
    plan = Plan(epochs=40, batch=32, lr=1e-3, warmup_steps=100, checkpoint_every=200)
    return _config(model, swin, head, text), (Stage(image_size=64, augment="none", plan=plan),)


def _small(model: Model) -> tuple[AnyConfig, tuple[Stage, ...]]:
    swin = SwinConfig(image_size=224, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7)
    head = HeadConfig(width=384, heads=4, layers=2, hidden=1536)
    text = TextConfig(width=384, heads=6, layers=6, hidden=1536)
    first = Plan(epochs=20, batch=128, lr=2e-4, warmup_steps=1000, precision="bf16", ema=0.999)
    second = Plan(epochs=2, batch=48, lr=5e-6, decay_at="epoch", precision="bf16", ema=0.999)
    return _config(model, swin, head, text), (Stage(image_size=224, plan=first), Stage(image_size=384, plan=second))


def _paper(model: Model) -> tuple[AnyConfig, tuple[Stage, ...]]:
    """The papers' schedule, for eight GPUs."""
    large = model != "tag2text"
    swin = SWIN_LARGE_224 if large else SWIN_BASE_224
    first = Plan(
        epochs=5,
        batch=52 if large else 80,
        lr=1e-4,
        warmup_steps=3000,
        warmup_from=5e-7,
        decay="exponential",
        decay_factor=0.9,
        decay_at="epoch",
        floor=5e-7,
        clip=0.0,
    )
    second = Plan(epochs=2, batch=26 if large else 36, lr=5e-6, decay="cosine", decay_at="epoch", clip=0.0)
    config = _config(model, swin, HeadConfig(), TextConfig())
    if isinstance(config, RamPlusConfig):
        config = replace(config, descriptions=51)
    return config, (Stage(image_size=224, plan=first), Stage(image_size=384, plan=second))


def _config(model: Model, swin: SwinConfig, head: HeadConfig, text: TextConfig) -> AnyConfig:
    if model == "tag2text":
        return Tag2TextConfig(swin, labels=1, head=head, text=text)
    if model == "ram":
        return RamConfig(swin, labels=1, head=head, text=text)
    return RamPlusConfig(swin, labels=1, head=head, descriptions=1)
