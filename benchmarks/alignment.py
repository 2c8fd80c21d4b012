"""Tag2Text's third task on the drawn set.

    python -m benchmarks alignment [--seeds 3] [--steps 400] [--joint-steps 100] [--out FOLDER]

Each seed trains a RAM++ on tags. On its image encoder, which stays as it is, a Tag2Text learns tags; from there three
learn tags, itc and itm: matching is guided by recognised tags, by those of four images in five, or by none. They rank
200 images and a caption of each, which training never saw; no two images have the same tags. Then two whole Tag2Text
begin with that encoder and learn tags and captions, one of them with itc and itm too: what alignment does to the other
tasks. A folder keeps the numbers, and a second run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from examples.learn.sets import TEST, TRUTH, draw
from tagstream_train import losses
from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batches, multi_hot
from tagstream_train.data.samples import DataSet, Sample
from tagstream_train.evaluate import Opened, caption, score_tags
from tagstream_train.metrics import best_f1, choose
from tagstream_train.plan import Plan
from tagstream_train.pretrain.alignment import LENGTH, RAMP_EPOCHS, Contrast, new_part
from tagstream_train.pretrain.captions import vocabulary_of
from tagstream_train.pretrain.recipes import KINDS, UNTAGGED, AlignmentPlan, Run, Stage, sizes_of
from tagstream_train.pretrain.run import pretrain, word_pieces, write_bundle
from tagstream_train.pretrain.start import fresh, load_bundle
from workers.models.bundle import Bundle
from workers.models.load import load_captioner, load_tagger
from workers.models.ram.alignment import MATCHES, Aligned, recognised, sentence_tokens
from workers.models.ram.config import (
    AnyConfig,
    HeadConfig,
    RamPlusConfig,
    SwinConfig,
    Tag2TextConfig,
    TextConfig,
)
from workers.models.ram.importer import MEAN, STD
from workers.models.ram.networks import Tag2Text
from workers.models.ram.wordpiece import WordPiece

IMAGES, TESTS, SIDE, RANKED, CAPTIONED, NEAREST = 1600, 400, 64, 200, 60, 16
FIRST_STEPS, HEAD_STEPS, BATCH, QUEUE, LR = 800, 300, 32, 512, 2e-3
ENCODER = SwinConfig(image_size=SIDE, width=32, depths=(1, 2, 1), heads=(1, 2, 4), window=4)
HEAD = HeadConfig(width=96, heads=4, layers=2, hidden=192)
TEXT = TextConfig(96, 4, 2, 192, positions=64)

Numbers = Mapping[str, float]


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks alignment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--joint-steps", type=int, default=100)
    parser.add_argument("--out", type=Path, help="where models and numbers stay")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seeds = range(options.seeds) if options.seed is None else [options.seed]
    with tempfile.TemporaryDirectory() as scratch:
        found = [
            _seed((options.out or Path(scratch)) / f"seed-{n}", n, options.steps, options.joint_steps) for n in seeds
        ]
    arms = list(found[0])
    shown = Table("", *arms)
    for name in dict.fromkeys(name for each in found for arm in arms for name in each[arm]):
        shown.add_row(name, *(_cell([each[arm][name] for each in found if name in each[arm]]) for arm in arms))
    Console(width=150).print(shown)
    return 0


def _cell(numbers: Sequence[float]) -> str:
    if not numbers:
        return "-"
    return f"{fmean(numbers):.3f}" + (f" ± {stdev(numbers):.3f}" if len(numbers) > 1 else "")


def _seed(folder: Path, seed: int, steps: int, joint_steps: int) -> dict[str, Numbers]:
    """Each arm's numbers by name."""
    drawn = folder / "drawn"
    if not drawn.exists():
        draw(drawn, images=IMAGES, tests=TESTS, seed=seed, side=SIDE, report=lambda done, total: None)
    first = _trained(_run_of(RamPlusConfig(ENCODER, 1, HEAD, 128, 1), FIRST_STEPS, 32, seed), drawn, folder / "first")
    joint = AlignmentPlan(untagged=UNTAGGED["tiny"])
    arms: dict[str, Callable[[], Numbers]] = {
        "guided": lambda: _aligned(first, drawn, seed, steps, tags=True),
        "guided, some left out": lambda: _aligned(first, drawn, seed, steps, tags=True, untagged=UNTAGGED["tiny"]),
        "none": lambda: _aligned(first, drawn, seed, steps, tags=False),
        "all three tasks": lambda: _joint(first, drawn, folder / "three", seed, joint_steps, joint),
        "tags, captions": lambda: _joint(first, drawn, folder / "two", seed, joint_steps, None),
    }
    return {arm: _kept(folder / f"{arm}.json", measure) for arm, measure in arms.items()}


def _kept(path: Path, measure: Callable[[], Numbers]) -> Numbers:
    if not path.is_file():
        path.write_text(json.dumps(measure()))
    found: Numbers = json.loads(path.read_text())
    print(f"{path}: {found}", flush=True)  # noqa: T201
    return found


# ---- alignment on a fixed image encoder


def _aligned(first: Bundle, drawn: Path, seed: int, steps: int, *, tags: bool, untagged: float = 0.0) -> Numbers:
    """R@1 both ways, by itc alone and re-ranked."""
    data, test = DataSet(drawn / TRUTH), DataSet(drawn / TEST)
    network = fresh(Tag2TextConfig(ENCODER, len(data.labels), HEAD, TEXT), seed=seed)
    assert isinstance(network, Tag2Text)
    load_bundle(network, first, data.labels)
    samples = list(data)
    chosen = list({sample.tags: sample for sample in reversed(list(test))}.values())[:RANKED]
    seen, unseen = _tokens(network, samples, data), _tokens(network, chosen, test)
    pieces = word_pieces(vocabulary_of(chain(data.labels, (text for sample in data for text in sample.captions))))
    network.encoder = nn.Identity()  # type: ignore[assignment]  # tokens take the place of images
    targets, weights = multi_hot(samples, network.labels, absent="negative")
    torch.manual_seed(seed)
    _learn_tags(network.train(), targets, seen, seed)
    aligned = Aligned(network, new_part(network, None, seed=seed, tags=tags))
    start = time.process_time()
    _learn(aligned, pieces, samples, seen, seed, steps, untagged)
    seconds = time.process_time() - start
    aligned.eval()
    with torch.no_grad():
        rated = (network.score(seen).sigmoid().numpy(), targets.numpy(), best_f1)
        values = [each.value for each in choose(*rated, weights=weights.numpy())]
        found = recognised(network.score(unseen).sigmoid(), torch.tensor(values)) if tags else None
        blind = _ranked(aligned, pieces, chosen, unseen, None) if tags else {}
        shown_none = {f"{name}, shown none": value for name, value in blind.items() if name.startswith("re")}
        return {**_ranked(aligned, pieces, chosen, unseen, found), **shown_none, "s": seconds}


def _learn_tags(network: Tag2Text, targets: Tensor, tokens: Tensor, seed: int) -> None:
    head = [*network.head.parameters(), network.label_embed, network.class_weight, network.class_bias]
    optimizer = torch.optim.AdamW(head, lr=LR, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    for step in range(HEAD_STEPS):
        optimizer.param_groups[0]["lr"] = LR * _rate(step, HEAD_STEPS)
        rows = torch.randint(len(tokens), (BATCH,), generator=generator)
        losses.asymmetric(network.score(network.embed(tokens[rows])), targets[rows]).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _rate(step: int, steps: int) -> float:
    return min(1, 10 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _learn(
    aligned: Aligned,
    pieces: WordPiece,
    samples: Sequence[Sample],
    tokens: Tensor,
    seed: int,
    steps: int,
    untagged: float,
) -> None:
    torch.manual_seed(seed)
    ramp = RAMP_EPOCHS * len(samples) / BATCH
    contrast = Contrast(aligned, queue=QUEUE, ramp=ramp, seed=seed).train()
    parameters = list(aligned.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.05)
    targets, _ = multi_hot(samples, aligned.network.labels, absent="negative")
    random, order = Random(seed), list[int]()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * _rate(step, steps)
        order = order if len(order) >= BATCH else random.sample(range(len(samples)), len(samples))
        rows, order = order[:BATCH], order[BATCH:]
        texts = [random.choice(samples[row].captions) for row in rows]
        ids, mask = sentence_tokens(pieces, texts, length=LENGTH)
        logits = aligned.network.score(tokens[rows])
        scores = logits.detach().sigmoid()
        lowest = scores.flatten().topk(1 + int(targets[rows].sum())).values[-1]
        tags = recognised(scores, lowest)
        if untagged:
            tags = tags.masked_fill(torch.rand(len(tags), 1) < untagged, -1)
        found = contrast.losses(tokens[rows], tokens[rows], ids, mask, tags, torch.tensor(rows))
        tagging = losses.asymmetric(logits, targets[rows])
        (losses.balanced(tagging, found["itc"]) + found["itm"]).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _tokens(network: Tag2Text, samples: Sequence[Sample], data: DataSet) -> Tensor:
    images = Images(data.folder)
    batches = Batches(samples, side=SIDE, mean=MEAN, std=STD, batch=100, images=images, workers=0)
    network.eval()
    with torch.no_grad():
        return torch.cat([network.encode(batch.images) for batch in batches])


def _ranked(
    aligned: Aligned, pieces: WordPiece, chosen: Sequence[Sample], tokens: Tensor, tags: Tensor | None
) -> dict[str, float]:
    ids, mask = sentence_tokens(pieces, [sample.captions[0] for sample in chosen])
    near = aligned.image_units(tokens) @ aligned.text_units(ids, mask).T
    best_texts, best_images = (each.topk(NEAREST, dim=1).indices for each in (near, near.T))
    wanted = torch.zeros_like(near, dtype=torch.bool).scatter_(1, best_texts, True)
    wanted |= torch.zeros_like(wanted).scatter_(1, best_images, True).T
    memory, parts = aligned.memory(tokens, tags), []
    for pairs in torch.split(wanted.nonzero(), 256):
        parts.append(aligned.match(ids[pairs[:, 1]], mask[pairs[:, 1]], memory, pairs[:, 0])[:, MATCHES])
    again = torch.full_like(near, -torch.inf)
    again[wanted] = torch.cat(parts) + near[wanted]
    return {
        "itc, image to text": _first(near),
        "itc, text to image": _first(near.T),
        "re-ranked, image to text": _first(again),
        "re-ranked, text to image": _first(again.T),
    }


def _first(scores: Tensor) -> float:
    """Part of the rows whose best column is their own."""
    return round(float((scores.argmax(dim=1) == torch.arange(len(scores))).double().mean()), 4)


# ---- whole models


def _joint(first: Bundle, drawn: Path, folder: Path, seed: int, steps: int, plan: AlignmentPlan | None) -> Numbers:
    """What alignment does to tags and captions."""
    run = _run_of(Tag2TextConfig(ENCODER, 1, HEAD, TEXT), steps, 16, seed)
    bundle = _trained(run.model_copy(update={"start": str(first.folder), "alignment": plan}), drawn, folder)
    test = DataSet(drawn / TEST)
    opened = Opened("test", list(test), test.labels, Images(test.folder))
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    writer = load_captioner(bundle.folder, device="cpu", precision="fp32")
    captioned = Opened("test", opened.samples[:CAPTIONED], test.labels, opened.images)
    return {
        "mAP": score_tags(tagger, opened).table().mean().map,
        "CIDEr-D": caption(writer, tagger, captioned).cider,
        "s": float((folder / "seconds").read_text()),
    }


def _run_of(config: AnyConfig, steps: int, batch: int, seed: int) -> Run:
    lr = 0.032 / batch
    plan = Plan(steps=steps, batch=batch, lr=lr, warmup_steps=steps // 10, checkpoint_every=200, threads=1, seed=seed)
    stage = Stage(image_size=SIDE, augment="none", plan=plan)
    model = next(name for name, kind in KINDS.items() if kind == config.facts.kind)
    return Run(model=model, sizes=sizes_of(config), stages=(stage,), depth=0.0, dropout=0.0)


def _trained(run: Run, drawn: Path, folder: Path) -> Bundle:
    if not (folder / "bundle").exists():
        dataset, start = DataSet(drawn / TRUTH), time.process_time()
        made = pretrain(dataset, run, folder / "work", workers=0)
        (folder / "seconds").write_text(f"{time.process_time() - start:.0f}")
        write_bundle(made, folder / "bundle", Images(dataset.folder), workers=0)
    return Bundle.open(folder / "bundle")
