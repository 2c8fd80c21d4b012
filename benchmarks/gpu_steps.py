"""The steps of `benchmarks.gpu`. Each gives its parts by name; a part measures when it is called, and returns figures.

Weights are those of `tests/parity`, drawn by a recipe, for which the original programs' answers are held: a model of
them is compared with these in each precision, execution and size of a batch. Without CUDA a processor stands in: its
graphs call the model again, and its memory runs out where the step says so.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import arithmetic
from benchmarks.gpu import Figures, Parts, Scale
from benchmarks.line import BUCKET, numbered, photo, running_worker, stored
from benchmarks.simulated import SimulatedTagger
from tests.parity.dual import Dual
from tests.parity.subjects import Subject, checkpoint, guide_ids, pixels
from workers.backends.scoped_cache import NoCache
from workers.errors import Broken, Misconfigured
from workers.intake import Limits, ProcessIntake
from workers.models.bundle import Bundle, Golden
from workers.models.device import EXECUTIONS, Device, Execution, Precision, choose_device
from workers.models.dual.towers import ImageTower, TextTower, filled
from workers.models.execution import keep_in
from workers.models.load import COMPILED
from workers.models.manifest import Provenance
from workers.models.precision import check_golden
from workers.models.ram.adapters import RamTagger, build_tagger
from workers.models.ram.config import Kind, RamConfig
from workers.models.ram.decoding import CaptionDecoding, decode
from workers.models.ram.engine import engine_of
from workers.models.ram.importer import DEFAULT_THRESHOLD, made_up_vocabulary, manifest_of
from workers.models.ram.keys import translate
from workers.models.ram.networks import Tag2Text
from workers.models.ram.wordpiece import PROMPT_IDS, SEP
from workers.models.tagger import PIECE
from workers.models.tune import shown_labels
from workers.pipeline.annotator import Annotator
from workers.pipeline.commit.ledger import Ledger
from workers.pipeline.known_results import KnownResults
from workers.pipeline.roles import make_roles
from workers.pipeline.self_test import DeviceSelfTest, known_good
from workers.ports import SystemClock, Tagger
from workers.processors import processors
from workers.service.parent import Parent
from workers.service.process import STOPPING
from workers.tied import tie_to
from workers.types import Pixels

STORE_S = 0.005
"""A read of the store, which is a fake."""
PHOTOS = 64
"""Drawn; a worker's images are these with a number each."""
TOWERS = {"full": ("siglip2_b16_224", "clip_b16"), "small384": ("siglip_small", "clip_small")}


# ---- models ---------------------------------------------------------------------------------------------------------


def has_cuda() -> bool:
    """Whether torch finds a CUDA device."""
    return torch.cuda.is_available()


@cache
def device_of(scale: Scale) -> Device:
    return choose_device(scale.device, threads=scale.threads, share=scale.share)


def executing(scale: Scale, execution: Execution) -> Device:
    device = device_of(scale)
    return device.executing(execution) if device.kind == "cuda" else replace(device, execution=execution)


def bundle_of(scale: Scale, kind: Kind) -> Bundle:
    """A bundle of the recipe's weights whose golden answers are the original program's; made once."""
    folder = scale.folder / f"held-{kind}-{scale.size}"
    with suppress(Misconfigured):
        return Bundle.open(folder)
    held = Subject(kind, scale.size)
    config = replace(held.config, text=None) if isinstance(held.config, RamConfig) else held.config
    weights = checkpoint(kind, config, held.facts["bias_shift"], full=scale.size == "full")
    vocabulary = "".join(f"{token}\n" for token in made_up_vocabulary()).encode() if config.facts.captions else None
    return Bundle.write(
        folder,
        manifest_of(config, Provenance(source="tests/parity", random=True), DEFAULT_THRESHOLD),
        weights=translate(weights, config),
        labels=[f"label {number}" for number in range(config.labels)],
        vocabulary=vocabulary,
        golden=lambda _: Golden(np.stack([pixels(0), pixels(1)]), held.arrays["logits"]),
        replace_existing=True,
    )


def tagger_of(scale: Scale, device: Device, precision: Precision = "bf16", kind: Kind = "ram") -> RamTagger:
    """As a worker has it, warm: it gives the original program's answers in each batch that has a graph."""
    tagger = build_tagger(bundle_of(scale, kind), device, precision)
    tagger.max_batch = scale.batch
    tagger.warm_up()
    return tagger


@cache
def plain_product(scale: Scale) -> float:
    """Operations a second in bf16."""
    return arithmetic.ceiling(device_of(scale), "bf16", scale.matrix)


def rate(scale: Scale, images: int, run: Callable[[], object]) -> float:
    """Images a second of a function that takes so many; its first call is not timed."""
    device, runs = device_of(scale), 0
    run()
    device.synchronise()
    began = time.perf_counter()
    while not runs or time.perf_counter() - began < scale.timed_s:
        run()
        device.synchronise()
        runs += 1
    return images * runs / (time.perf_counter() - began)


# ---- the steps ------------------------------------------------------------------------------------------------------


def tagger(scale: Scale) -> Parts:
    """The worker's tagger beside a plain matrix product, by execution and batch."""

    @cache
    def made(execution: Execution) -> RamTagger:
        if execution == "compiled":
            keep_in(scale.folder / COMPILED)
        return build_tagger(bundle_of(scale, "ram"), executing(scale, execution), "bf16")

    def product() -> Figures:
        name = device_of(scale).name
        return {"device": name, "torch": torch.__version__, "GFLOP/s": plain_product(scale) / 1e9}

    def weights() -> Figures:
        return {"MB": bundle_of(scale, "ram").size_bytes / 1e6}

    def measured(execution: Execution, batch: int) -> Figures:
        model, held, places = made(execution), Subject("ram", scale.size), [number % 2 for number in range(batch)]
        images = [pixels(place) for place in places]
        drift = check_golden("RAM", "bf16", held.arrays["logits"][places], np.stack(model.forward(images)))
        images_s = rate(scale, batch, lambda: model.forward(images))
        operations = arithmetic.encoder(held.config.encoder) + arithmetic.head(held.config, held.config.labels)
        share = images_s * operations / plain_product(scale)
        return {"images/s": images_s, "of a plain product": share, "logits within, of their range": drift}

    yield "plain product, bf16", product
    yield "weights", weights
    on_a_processor: tuple[Execution, ...] = ("eager", "graphs")
    for execution in EXECUTIONS if device_of(scale).kind == "cuda" else on_a_processor:
        for batch in scale.batches:
            yield f"{execution}, batch {batch}", partial(measured, execution, batch)


def parity(scale: Scale) -> Parts:
    """Answers beside those of the original programs."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    kinds: tuple[Kind, ...] = ("ram", "ram_plus", "tag2text")
    for kind in kinds:
        for precision in precisions:
            yield f"{kind}, {precision}", partial(_tags, scale, kind, precision)
    yield "tag2text, captions in fp32", partial(_captions, scale)
    for name in TOWERS[scale.size]:
        for precision in precisions:
            yield f"{name}, {precision}", partial(_vectors, scale, name, precision)


def _tags(scale: Scale, kind: Kind, precision: Precision) -> Figures:
    made = tagger_of(scale, device_of(scale), precision, kind)
    held = Subject(kind, scale.size).arrays["logits"]
    found = np.stack(made.forward([pixels(0), pixels(1)]))
    same = sum(shown_labels(made, one) == shown_labels(made, other) for one, other in zip(held, found, strict=True))
    return {"logits within": float(np.abs(found - held).max()), "same tag sets": f"{same} of {len(held)}"}


def _captions(scale: Scale) -> Figures:
    engine = engine_of(bundle_of(scale, "tag2text"), device_of(scale), "fp32")
    model, held = engine.model, Subject("tag2text", scale.size).facts["captions"]["original"]["beam3_max30"]
    assert isinstance(model, Tag2Text)
    with engine.device.run():
        tokens = engine.encode([pixels(0), pixels(1)])
        ids, mask = torch.tensor([guide_ids(caption["guide"]) for caption in held], device=tokens.device).unbind(1)
        states = model.guide(ids, mask, tokens)
        found = decode(model.text.decoder, states, PROMPT_IDS, SEP, CaptionDecoding())
    same = sum(list(one.ids) == other["ids"] for one, other in zip(found, held, strict=True))
    if same < len(held):
        raise Broken(f"{same} of {len(held)} captions are the original ones")
    return {"same captions": f"{same} of {len(held)}"}


def _vectors(scale: Scale, name: str, precision: Precision) -> Figures:
    held, device = Dual(name), device_of(scale)
    config, dtype = held.encoder.config, device.dtype(precision)
    image = device.functions()(device.place(filled(ImageTower, config, held.encoder.image), precision))
    text = device.place(filled(TextTower, config, held.encoder.text), precision)
    with device.run():
        images = image(held.images.to(device.where, dtype))
        texts = text(*(part.to(device.where) for part in held.ids))
        logits = math.exp(config.scale) * images @ texts.T + config.bias
    drift = check_golden(name, precision, held.wanted["logits_per_image"], logits.cpu().numpy())
    gap = float(np.abs(images.cpu().numpy() - held.wanted["image_embedding"]).max())
    return {"vectors within": gap, "logits within, of their range": drift}


def overlap(scale: Scale) -> Parts:
    """Decoding, transfer and the model, each alone and all in a worker."""
    made = cache(lambda: tagger_of(scale, device_of(scale)))
    found: dict[str, float] = {}

    def decoding() -> float:
        idle = SimulatedTagger(bundle_of(scale, "ram"))
        idle.transform, idle.max_batch = made().transform, scale.batch
        return of_a_worker(scale, idle, processors())

    def transfer() -> float:
        images = [pixels(0)] * scale.batch
        return rate(scale, scale.batch, lambda: list(device_of(scale).stream(images, PIECE)))

    def forward() -> float:
        engine = engine_of(bundle_of(scale, "ram"), device_of(scale), "bf16")
        with engine.device.run():
            pieces = list(engine.device.stream([pixels(0)] * scale.batch, PIECE))
            return rate(scale, scale.batch, lambda: engine.score(engine.model.embed(engine.tokens(pieces))))

    def alone(name: str, measure: Callable[[], float]) -> Figures:
        made()
        found[name] = measure()
        return {"images/s": found[name]}

    def together() -> Figures:
        images_s = of_a_worker(scale, made(), processors())
        in_turn = 1 / sum(1 / each for each in found.values())
        least = min(found.values())
        return {"images/s": images_s, "to the slowest": images_s / least, "to all in turn": images_s / in_turn}

    for measure in (decoding, transfer, forward):
        yield f"{measure.__name__} alone", partial(alone, measure.__name__, measure)
    yield "all in a worker", together


def of_a_worker(scale: Scale, model: Tagger, decoders: int, ready: Callable[[], object] = lambda: None) -> float:
    """Images a second of a worker on fakes of its ports, whose store takes `STORE_S`.

    Args:
        ready: called once the worker waits for events.
    """
    drawn = [photo(seed) for seed in range(min(PHOTOS, scale.images))]
    images = [numbered(drawn[number % len(drawn)], number) for number in range(scale.images)]
    store = stored(images)
    store.delay(BUCKET, None, STORE_S)
    intake = ProcessIntake(store, [model.transform], Limits(), children=decoders)
    with running_worker(model, images, intake, NoCache()) as images_s:
        ready()
        return images_s()


def memory(scale: Scale) -> Parts:
    """A batch for which the device has no memory is halved."""

    def halved() -> Figures:
        device, most = executing(scale, "eager"), min(scale.batch, PIECE)
        tagger = tagger_of(replace(scale, batch=most), device)
        roles = make_roles({"tagger": tagger})
        annotator, attempts = Annotator(roles), [known_good(roles.models) for _ in range(most)]
        (_limit_memory if device.kind == "cuda" else _cramped)(tagger, most)
        annotator.annotate(attempts)
        for attempt in attempts:
            for role in roles.models:
                role.check_self_test(attempt.answers[role.name])
        if annotator.most_images == most:
            raise Broken(f"a batch of {most} fits, so nothing was halved")
        return {"batch": most, "after": annotator.most_images}

    yield "half of a batch fits", halved


def _limit_memory(tagger: RamTagger, most: int) -> None:
    """On CUDA, leave this process memory for half of a batch of `most`, and not for all of it."""
    peaks = []
    for count in (most // 2, most):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        tagger.forward([pixels(0)] * count)
        peaks.append(torch.cuda.max_memory_reserved())
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(sum(peaks) / 2 / torch.cuda.mem_get_info()[1])


def _cramped(tagger: RamTagger, most: int) -> None:
    """As if a processor's memory held half of a batch of `most`."""
    forward = tagger.forward

    def cramped(images: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        if len(images) > most // 2:
            raise MemoryError(f"{len(images)} images")
        return forward(images)

    tagger.forward = cramped  # type: ignore[method-assign]


def self_test(scale: Scale) -> Parts:
    """A device that begins to compute wrong answers is seen."""

    def seen() -> Figures:
        device, ledger = device_of(scale), Ledger()
        tagger = tagger_of(scale, device)
        roles = make_roles({"tagger": tagger})
        results, clock = KnownResults(NoCache(), roles), SystemClock()
        test = DeviceSelfTest(Annotator(roles), roles.models, ledger, results, clock, every_s=1e-9)
        test.annotate(())
        with device.run():
            engine_of(bundle_of(scale, "ram"), device, "bf16").model.encoder.norm.weight.mul_(-1)
        try:
            test.annotate(())
        except Broken as error:
            return {"said": str(error)[:80]}
        raise Broken("damaged weights pass the self-test")

    yield "damaged weights", seen


def children(scale: Scale) -> Parts:
    """Workers on one device, each a process with fakes of its ports; `tagstream run --workers` has the same parent."""
    rates: list[float] = []
    # as `run --workers` does: CUDA's state can't be forked
    context = get_context("spawn") if scale.device != "cpu" and has_cuda() else get_context("fork")

    def measured(count: int) -> Figures:
        pipes: list[Connection[Any, Any]] = []
        runs: list[Any] = []
        part, barrier = replace(scale, share=1 / count), context.Barrier(count)

        def start(_number: int) -> int:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(part, count, barrier, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            return process.pid or 0

        def done() -> bool:
            runs.extend(pipe.recv() for pipe in pipes if pipe.poll())
            return len(runs) == count or any(isinstance(run, Exception) for run in runs)

        Parent(start, range(1, count + 1), probes=None, end_s=10, idle=done).run()
        for run in runs:
            if isinstance(run, Exception):
                raise run
        took = max(ended for _, ended, _ in runs) - min(began for began, _, _ in runs)
        rates.append(count * scale.images / took)
        used = sum(seconds for _, _, seconds in runs) / took
        return {"images/s": rates[-1], "to one": rates[-1] / rates[0], "processors": used}

    for count in scale.children:
        yield f"{count} at once", partial(measured, count)


def _child(scale: Scale, count: int, barrier: Barrier, pipe: Connection[Any, Any]) -> None:
    """Send when a worker begins and ends, and its processor seconds without decoders; wait for the parent's signal."""
    tie_to(os.getppid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, signal.SIGCHLD))  # which the parent blocks
    began: list[float] = []

    def ready() -> None:
        barrier.wait()
        began.extend((time.monotonic(), time.process_time()))

    try:
        of_a_worker(scale, tagger_of(scale, device_of(scale)), max(1, processors() // count), ready)
        pipe.send((began[0], time.monotonic(), time.process_time() - began[1]))
    except Exception as error:  # noqa: BLE001  # it is the row's
        pipe.send(error)
    while True:
        signal.pause()
