"""Pre-training: Tag2Text, RAM or RAM++ from captions and tags."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from schemas.printable import counted
from tagstream_train import memory
from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batches, multi_hot
from tagstream_train.data.samples import LABELS, SAMPLES, DataSet, Sample, split
from tagstream_train.export import Card, export
from tagstream_train.features import Features, image_key, text_key
from tagstream_train.loop import Progress, Trained, rank, train, world
from tagstream_train.metrics import Threshold, best_f1, choose, table
from tagstream_train.plan import toml_of
from tagstream_train.pretrain.alignment import RAMP_EPOCHS, SMOOTH, Contrast, check_pairs, new_part, queue_of
from tagstream_train.pretrain.captions import caption_tokens, vocabulary_of
from tagstream_train.pretrain.noise import add_dropout, add_noise
from tagstream_train.pretrain.objectives import Pretraining, Teachers
from tagstream_train.pretrain.recipes import AUGMENTS, Run, Stage
from tagstream_train.pretrain.start import at_size, check_grids, fresh, load_bundle, load_encoder, scaled
from tagstream_train.record import Hook
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.files import sha256_of, text_of
from workers.models.manifest import Provenance
from workers.models.ram.alignment import Aligned, AlignmentPart
from workers.models.ram.config import AnyConfig, RamConfig, RamPlusConfig, Tag2TextConfig
from workers.models.ram.decoding import CaptionDecoding
from workers.models.ram.importer import DEFAULT_THRESHOLD, MEAN, STD, manifest_of
from workers.models.ram.networks import LabelScorer, Tag2Text
from workers.models.ram.relabel import label_matrix, with_embedding
from workers.models.ram.wordpiece import WordPiece
from workers.ports import ObjectStore

AT_MOST = 20_000
"""The most images to score; of more, every second, third, … one."""
_BATCH = 32

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rated:
    """Scores, targets, and 0 for unknown targets."""

    scores: Floats
    targets: Floats
    weights: Floats

    def choose(self, least_positives: int) -> list[Threshold]:
        """Each label's best-F1 threshold; rare labels keep the default."""
        return choose(
            self.scores,
            self.targets,
            best_f1,
            weights=self.weights,
            least_positives=least_positives,
            otherwise=DEFAULT_THRESHOLD,
        )

    def metrics(self, thresholds: Sequence[Threshold]) -> dict[str, float | None]:
        """mAP, macro precision and recall at these thresholds, or None."""
        values = np.array([each.value for each in thresholds])
        mean = table(self.scores, self.targets, values, self.weights).mean()
        found = {"mAP": mean.map, "precision": mean.precision, "recall": mean.recall}
        return {name: None if math.isnan(value) else value for name, value in found.items()}


def rate_samples(
    model: LabelScorer,
    config: AnyConfig,
    samples: Sequence[Sample],
    images: Images,
    *,
    absent: Literal["unknown", "negative"],
    workers: int = 2,
) -> Rated:
    """Score images as a worker does, on the model's device.

    Raises:
        Misconfigured: not one image can be used.
    """
    chosen = samples[:: math.ceil(len(samples) / AT_MOST)]
    batches = Batches(
        chosen, side=config.encoder.image_size, mean=MEAN, std=STD, batch=_BATCH, images=images, workers=workers
    )
    device = next(model.parameters()).device
    rows: list[tuple[Floats, ...]] = []
    with torch.no_grad():
        for batch in batches:
            scores = model.score(model.embed(model.encode(batch.images.to(device)))).sigmoid().cpu()
            targets, weights = multi_hot(batch.samples, model.labels, absent=absent)
            rows.append((scores.numpy(), targets.numpy(), weights.numpy()))
    if not rows:
        raise Misconfigured(f"None of {len(chosen):,} images can be read, so that no threshold can be chosen.")
    return Rated(*(np.concatenate(column) for column in zip(*rows, strict=True)))


RUN = "run.toml"
VALIDATED = 1000
"""Images that are measured after each epoch."""
LENGTHS = 10_000
"""Captions that give the decoder's least length."""

Report = Callable[[int, Progress], None]
"""Gets the stage, from 1, and its progress."""


@dataclass(frozen=True)
class Pretrained:
    """A trained model, ready to be written as a bundle."""

    run: Run
    dataset: DataSet
    model: LabelScorer
    config: AnyConfig
    vocabulary: bytes | None
    steps: int
    images: int
    """Images seen in training, with repetition."""
    losses: Mapping[str, float]
    """The losses of the last step by name; empty if the run had ended before."""
    seen: Sequence[Sample]
    """The training images."""
    held: Sequence[Sample]
    """The held-back images."""
    parents: Mapping[str, str]
    """Its sources: sha256 or digest by name."""
    part: AlignmentPart | None = None
    """Of a run with itc and itm."""


def pretrain(
    dataset: DataSet,
    run: Run,
    folder: Path,
    *,
    store: ObjectStore | None = None,
    workers: int = 2,
    hooks: Sequence[Hook] = (),
    report: Report = lambda stage, progress: None,
) -> Pretrained:
    """Train all stages of the run; resumes from the checkpoints.

    The folder gets run.toml and a folder for each stage (see `loop.train`). Under torchrun every process calls this.

    Raises:
        Misconfigured: the run fits neither the data nor the memory, or a file of it can't be read.
        Unavailable: the object store does not answer.
    """
    seen, held = _divided(dataset, run)
    teachers, bundle = _teachers(run, seen), _bundle(run)
    model, config, vocabulary, parents = _started(dataset, run, bundle)
    part = _part(model, run, bundle, seen)
    _remember(run, folder)
    pieces = None if vocabulary is None else word_pieces(vocabulary)
    images = Images(dataset.folder, store=store)
    identity = {"run": hashlib.sha256(toml_of(run).encode()).hexdigest(), **parents}
    done: list[Trained] = []
    for number, stage in enumerate(run.stages, 1):
        model, config = at_size(model, config, stage.image_size)
        add_noise(model, depth=run.depth, dropout=run.dropout)
        batches = _batches(seen, stage, images, workers)
        objective = partial(
            Pretraining,
            model,
            dataset.labels,
            wordpiece=pieces,
            teachers=teachers,
            prompt=run.prompt,
            absent=run.absent,
            weights={} if run.alignment is None else {"itc": run.alignment.itc, "itm": run.alignment.itm},
            untagged=0.0 if run.alignment is None else run.alignment.untagged,
            retrieval=None if bundle is None or not run.retrieval else torch.tensor(bundle.thresholds),
        )
        # a second objective: the estimate takes steps, which would fill itc's queues
        _check_memory(objective(contrast=_contrast(model, part, run, stage, len(batches))), run, seen, stage, images)
        trained = train(
            objective(contrast=_contrast(model, part, run, stage, len(batches))),
            batches,
            stage.plan,
            folder / f"stage-{number}",
            report=partial(report, number),
            validate=_validation(model, config, held[:VALIDATED], images, run) if held else None,
            identity=identity,
            hooks=hooks,
            apart=part,
        )
        done.append(trained)
    losses = next((each.losses for each in reversed(done) if each.losses), {})
    steps, shown = sum(each.steps for each in done), sum(each.images for each in done)
    return Pretrained(run, dataset, model, config, vocabulary, steps, shown, losses, seen, held, parents, part)


def _part(model: LabelScorer, run: Run, bundle: Bundle | None, seen: Sequence[Sample]) -> AlignmentPart | None:
    """The alignment part of a run with itc and itm."""
    if run.alignment is None:
        return None
    check_pairs(seen, min(stage.plan.batch for stage in run.stages))
    part = new_part(model, bundle, seed=run.stages[0].plan.seed, tags=run.alignment.tags == "guided")
    add_dropout(part, run.dropout)
    return part


def _contrast(model: LabelScorer, part: AlignmentPart | None, run: Run, stage: Stage, batches: int) -> Contrast | None:
    """A stage's itc and itm, with fresh queues and copies."""
    if part is None or run.alignment is None or not isinstance(model, Tag2Text):
        return None
    together = stage.plan.batch * world()
    queue = queue_of(run.alignment.queue, batches * together, together)
    smooth = 0.0 if run.retrieval else SMOOTH
    return Contrast(
        Aligned(model, part),
        queue=queue,
        ramp=RAMP_EPOCHS * batches,
        seed=stage.plan.seed,
        smooth=smooth,
        accumulation=stage.plan.accumulation,
    )


def _check_memory(objective: Pretraining, run: Run, seen: Sequence[Sample], stage: Stage, images: Images) -> None:
    alone = stage.model_copy(update={"plan": stage.plan.model_copy(update={"batch": 1})})
    one = next(iter(_batches(seen, alone, images, workers=0)))
    if run.alignment is not None:  # itm needs a wrong pair
        others = tuple(one.samples[0].model_copy(update={"sha256": f"{number}" * 64}) for number in range(3))
        one = replace(one, samples=others)
    estimated = memory.estimate(objective, one, stage.plan, least=1 if run.alignment is None else 2)
    if not estimated.fits:
        raise Misconfigured(
            f"The stage of {stage.image_size} pixels takes {estimated}. Set its batch to "
            f"{estimated.largest_batch or 1} with more accumulation, or take smaller sizes."
        )


def _validation(
    model: LabelScorer, config: AnyConfig, held: Sequence[Sample], images: Images, run: Run
) -> Callable[[], Mapping[str, float]]:
    def measure() -> Mapping[str, float]:
        rated = rate_samples(model, config, held, images, absent=run.absent, workers=0)
        return {"val mAP": rated.metrics(rated.choose(run.least_positives))["mAP"] or 0.0}

    return measure


def write_bundle(
    made: Pretrained,
    out: Path,
    images: Images,
    *,
    workers: int = 2,
    keep_captioner: bool = False,
    replace_existing: bool = False,
) -> Bundle:
    """The trained model as a bundle with thresholds.

    Thresholds have the best F1 on the held-back images. Without such images they are chosen on the training images, and
    too high.

    Args:
        keep_captioner: keep RAM's captioning branch for further training; no worker runs it.

    Raises:
        Misconfigured: the folder exists, or no image is readable.
    """
    config, weights = made.config, made.model.state_dict()
    if isinstance(config, RamConfig) and not keep_captioner:
        config = replace(config, text=None)
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("text.")}
    gpu = torch.cuda.is_available() and made.run.stages[-1].plan.device == "auto"
    model = made.model.to("cuda" if gpu else "cpu")
    rated = rate_samples(model, config, made.held or made.seen, images, absent=made.run.absent, workers=workers)
    chosen = rated.choose(made.run.least_positives)
    source = f"pre-trained on {made.dataset.header.name}"
    manifest = manifest_of(config, Provenance(source=source), tuple(each.value for each in chosen))
    return export(
        out,
        manifest.model_copy(update={"profiles": {}, "options": _options(made)}),
        weights=weights,
        labels=made.dataset.labels,
        card=_card(made, rated, chosen),
        vocabulary=None if isinstance(config, RamPlusConfig) or config.text is None else made.vocabulary,
        part=made.part,
        replace_existing=replace_existing,
    )


def _options(made: Pretrained) -> dict[str, JsonValue]:
    """Decoding options: captions may be as short as the taught ones."""
    if not isinstance(made.config, Tag2TextConfig) or made.vocabulary is None:
        return {}
    captions = list(islice((caption for sample in made.seen for caption in sample.captions), LENGTHS))
    if not captions:
        return {}
    _, mask = caption_tokens(word_pieces(made.vocabulary), captions)
    shortest = int(mask.sum(dim=1).sort().values[len(mask) // 10]) - 1  # before the end token
    return {"decoding": {"min_length": min(CaptionDecoding().min_length, shortest)}}


def _card(made: Pretrained, rated: Rated, chosen: Sequence[Threshold]) -> Card:
    given = sum(not each.why for each in chosen)
    return Card(
        command="train pretrain",
        data={
            "name": made.dataset.header.name,
            "trained_on": len(made.seen),
            "held_back": len(made.held),
            "absent": made.run.absent,
            "captions": sum(len(sample.captions) for sample in made.seen),
        },
        plan=made.run.model_dump(mode="json", exclude_none=True),
        steps=made.steps,
        images=made.images,
        metrics=rated.metrics(chosen) if made.held else {},
        thresholds={
            "rule": "best F1",
            "chosen_on": "images held back" if made.held else "the training images",
            "chosen": given,
            "otherwise": DEFAULT_THRESHOLD,
        },
        parents=dict(made.parents),
    )


def _digest_of_set(dataset: DataSet) -> str:
    """sha256 over a set's labels and samples."""
    digest = hashlib.sha256()
    for name in (LABELS, SAMPLES):
        digest.update(bytes.fromhex(sha256_of(dataset.folder / name)))
    return digest.hexdigest()


def _divided(dataset: DataSet, run: Run) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Training samples and held-back samples."""
    if run.retrieval:
        return split(dataset, {"train": 1.0})["train"], []
    if not dataset.labels:
        raise Misconfigured(f"{dataset.folder} has no labels; `tagstream train parse` finds them in captions.")
    parts = split(dataset, {"train": 1 - run.val, "val": run.val})
    return parts["train"], parts["val"]


def _teachers(run: Run, samples: Sequence[Sample]) -> Teachers:
    """Open the files of features, and check that they cover the samples."""
    width = 1 if run.model == "tag2text" else _embedding(run)
    if run.image_features and run.model == "tag2text":
        raise Misconfigured("Tag2Text takes no image features; RAM and RAM++ do, for distillation.")
    if run.text_features and run.model != "ram-plus":
        raise Misconfigured("Text features are for alignment, which only RAM++ has.")
    images = Features(Path(run.image_features), width) if run.image_features else None
    texts = Features(Path(run.text_features), width) if run.text_features else None
    _check_coverage(samples, images, texts)
    return Teachers(images, texts)


def _check_coverage(samples: Sequence[Sample], images: Features | None, texts: Features | None) -> None:
    for sample in samples:
        if images is not None and image_key(images, sample) not in images:
            raise Misconfigured(f"{images.path} has no features of {sample.image}, by this name or by its sha256.")
        for caption in sample.captions if texts is not None else ():
            if texts is not None and text_key(texts, caption) not in texts:
                raise Misconfigured(f"{texts.path} has no features of the caption {caption[:200]!r} ({sample.image}).")


def _embedding(run: Run) -> int:
    config = run.config(1)
    assert not isinstance(config, Tag2TextConfig)
    return config.embedding


def _started(
    dataset: DataSet, run: Run, bundle: Bundle | None
) -> tuple[LabelScorer, AnyConfig, bytes | None, dict[str, str]]:
    """First model, sizes, vocabulary, and the digests of their sources."""
    labels = bundle.labels if bundle is not None and run.retrieval else dataset.labels
    config = run.config(len(labels))
    check_grids(config.encoder)
    for stage in run.stages:
        scaled(config.encoder, stage.image_size)
    matrix = _label_matrix(run)
    if matrix is not None:
        config = with_embedding(config, matrix, len(labels), Path(run.label_embeddings or ""))
    model = fresh(config, seed=run.stages[0].plan.seed)
    parents = {"set": _digest_of_set(dataset)}
    if bundle is not None:
        missing = load_bundle(model, bundle, labels)
        _check_labels(run, matrix, bundle, missing)
        parents[bundle.name] = bundle.digest
    elif run.start is not None:
        load_encoder(model, Path(run.start))
        parents[Path(run.start).name] = sha256_of(Path(run.start))
    if matrix is not None:
        with torch.no_grad():
            model.state_dict()["label_embed"].copy_(matrix)
    return model, config, _vocabulary(dataset, run, config, bundle), parents


def _bundle(run: Run) -> Bundle | None:
    return Bundle.open(Path(run.start)) if run.start is not None and Path(run.start).is_dir() else None


def _label_matrix(run: Run) -> Tensor | None:
    if run.label_embeddings is None:
        return None
    if run.model == "tag2text":
        raise Misconfigured("Tag2Text learns its labels' embeddings: leave --label-embeddings out.")
    return label_matrix(Path(run.label_embeddings))


def _check_labels(run: Run, matrix: Tensor | None, bundle: Bundle, missing: Sequence[str]) -> None:
    """Refuse new labels of RAM and RAM++ without an embedding."""
    new = [name.removeprefix("label ") for name in missing if name.startswith("label")]
    if new and matrix is None and run.model != "tag2text":
        raise Misconfigured(
            f"{bundle.folder} has no embedding of {counted(len(new), 'label')} of the set, e.g. {new[0]!r}: "
            "give the embeddings of all of them with --label-embeddings."
        )


def _vocabulary(dataset: DataSet, run: Run, config: AnyConfig, bundle: Bundle | None) -> bytes | None:
    if isinstance(config, RamPlusConfig) or config.text is None:
        return None
    if run.vocabulary is not None:
        WordPiece.read(Path(run.vocabulary))
        return text_of(Path(run.vocabulary)).encode()
    if bundle is not None and bundle.vocabulary.is_file():
        return bundle.vocabulary.read_bytes()
    return vocabulary_of(chain(dataset.labels, (caption for sample in dataset for caption in sample.captions)))


def _batches(samples: Sequence[Sample], stage: Stage, images: Images, workers: int) -> Batches:
    return Batches(
        samples,
        side=stage.image_size,
        mean=MEAN,
        std=STD,
        batch=stage.plan.batch,
        images=images,
        seed=stage.plan.seed,
        augment=AUGMENTS[stage.augment],
        workers=workers,
        rank=rank(),
        world=world(),
        epochs=None,
        shuffle=True,
    )


def _remember(run: Run, folder: Path) -> None:
    """Write the run's file, unless the folder is another run's."""
    if rank() != 0:
        return
    path, text = folder / RUN, toml_of(run)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise Misconfigured(f"{folder} holds another run ({path} differs): remove it, or choose another --work.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def word_pieces(vocabulary: bytes) -> WordPiece:
    """The tokenizer of a vocab.txt."""
    return WordPiece(vocabulary.decode().removesuffix("\n").split("\n"))
