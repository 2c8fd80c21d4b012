"""Fine-tuning for retrieval: itc and itm alone, where all captions of an image are right."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tagstream_train import memory
from tagstream_train.adapt import add_dropout, add_noise
from tagstream_train.alignment import Contrast, check_pairs, queue_of
from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batch, Batches
from tagstream_train.data.samples import DataSet, Lines, Sample, hash_of
from tagstream_train.export import Card, export
from tagstream_train.loop import TOTAL, Report, Trained, train
from tagstream_train.plan import Plan
from tagstream_train.pretrain import digest_of_set, is_first_process
from tagstream_train.recipes import AUGMENTS
from tagstream_train.start import trainable
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.alignment import LENGTH, Aligned, AlignmentPart, read_part, recognised, sentence_tokens
from workers.models.ram.config import from_json
from workers.models.ram.networks import Tag2Text
from workers.models.ram.wordpiece import WordPiece
from workers.ports import ObjectStore

RAMP_EPOCHS = 1
DROPOUT = 0.1


class Retrieval:
    """The objective of pairs; matching sees the tags that the network recognises."""

    def __init__(self, contrast: Contrast, bundle: Bundle) -> None:
        self.model: nn.Module = contrast
        self._contrast = contrast
        self._wordpiece = WordPiece.read(bundle.vocabulary)
        self._thresholds = torch.tensor(bundle.thresholds)

    def losses(self, batch: Batch) -> Mapping[str, Tensor]:
        """itc and itm, and `total`, of images with one caption each."""
        network, where = self._contrast.aligned.network, batch.images.device
        tokens = network.encode(batch.images)
        texts = sentence_tokens(self._wordpiece, [sample.captions[0] for sample in batch.samples], length=LENGTH)
        ids, mask = (part.to(where) for part in texts)
        with torch.no_grad():
            tags = recognised(network.score(network.embed(tokens)).sigmoid(), self._thresholds.to(where))
        keys = torch.tensor([int(hash_of(sample)[:15], 16) for sample in batch.samples], device=where)
        parts = self._contrast.losses(batch.images, tokens, ids, mask, tags, keys)
        return {**parts, TOTAL: parts["itc"] + parts["itm"]}


def finetune(
    dataset: DataSet,
    bundle: Bundle,
    plan: Plan,
    out: Path,
    folder: Path,
    *,
    augment: str = "paper",
    store: ObjectStore | None = None,
    workers: int = 2,
    report: Report = lambda _: None,
    replace_existing: bool = False,
) -> tuple[Bundle, Trained] | None:
    """Train a bundle with its alignment part on.

    An epoch has each caption once. Images that their author kept for `val` or `test` are left out. The run resumes
    from the checkpoint in `folder`. Thresholds stay the bundle's. Only a run's first process gets what was written.

    Raises:
        Misconfigured: the bundle has no alignment part, the set no captions, or the memory does not suffice.
        Unavailable: the object store does not answer.
    """
    part, pairs = deepcopy(read_part(bundle)).train().requires_grad_(True), captioned(dataset.lines())
    if not pairs:
        raise Misconfigured(f"{dataset.folder} has no captions to train on.")
    if "added" in bundle.manifest.options:
        raise Misconfigured(f"{bundle.folder} has labels of a head: fine-tune the bundle that it was made from.")
    check_pairs([], plan.batch)
    network = trainable(from_json(bundle.manifest.kind, bundle.manifest.architecture), bundle.weights())
    assert isinstance(network, Tag2Text)
    add_noise(network)
    add_dropout(part, DROPOUT)
    images = Images(dataset.folder, store=store)
    batches = partial(_batches, pairs, bundle, plan, images, augment, workers)
    source = batches(plan.batch)
    queue = queue_of(None, len(pairs), plan.batch * _world())

    def objective() -> Retrieval:
        aligned, ramp = Aligned(network, part), RAMP_EPOCHS * len(source)
        return Retrieval(Contrast(aligned, queue=queue, ramp=ramp, seed=plan.seed, smooth=0.0), bundle)

    # one of its own: estimating takes steps, which queues would remember
    memory.check(memory.estimate(objective(), next(iter(batches(1))), plan))
    identity = {"set": digest_of_set(dataset), "bundle": bundle.digest, "augment": augment}
    trained = train(objective(), source, plan, folder, report=report, identity=identity)
    if not is_first_process():
        return None
    card = Card(
        command="train finetune --task retrieval",
        data={"name": dataset.header.name, "captions": len(pairs), "augment": augment},
        plan=plan.model_dump(mode="json", exclude_none=True),
        steps=trained.steps,
        images=trained.images,
        parents={"set": identity["set"], bundle.name: bundle.digest},
    )
    return _written(bundle, network, part, card, out, replace_existing), trained


def captioned(samples: Sequence[Sample]) -> Lines:
    """A sample for each caption of images to train on."""
    places = [
        (number, caption)
        for number, sample in enumerate(samples)
        if sample.part in (None, "train")
        for caption in range(len(sample.captions))
    ]

    def read(place: int) -> Sample:
        sample = samples[places[place][0]]
        return sample.model_copy(update={"captions": (sample.captions[places[place][1]],), "caption_tags": ()})

    return Lines(read, np.arange(len(places)))


def _batches(
    pairs: Sequence[Sample], bundle: Bundle, plan: Plan, images: Images, augment: str, workers: int, batch: int
) -> Batches:
    return Batches(
        pairs,
        images=images,
        side=bundle.transform.size,
        mean=bundle.manifest.mean,
        std=bundle.manifest.std,
        batch=batch,
        seed=plan.seed,
        augment=AUGMENTS[augment],
        workers=workers,
        rank=int(os.environ.get("RANK", "0")),
        world=_world(),
        epochs=None,
        shuffle=True,
    )


def _written(
    parent: Bundle, network: Tag2Text, part: AlignmentPart, card: Card, out: Path, replace_existing: bool
) -> Bundle:
    given = parent.manifest
    source = f"{given.provenance.source}, fine-tuned for retrieval on {card.data['name']}"
    provenance = given.provenance.model_copy(update={"source": source, "sha256": None})
    return export(
        out,
        given.model_copy(update={"name": out.name, "provenance": provenance}),
        weights=network.state_dict(),
        labels=parent.labels,
        card=card,
        translations=parent.translations,
        parents=parent.parents,
        vocabulary=parent.vocabulary.read_bytes(),
        part=part,
        replace_existing=replace_existing,
    )


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
