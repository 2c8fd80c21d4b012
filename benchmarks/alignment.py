"""Tag2Text's third task on the drawn set: with tags, without, and what it does to the two others.

    python -m benchmarks alignment [--seeds 3] [--steps 200] [--out FOLDER]

Each seed trains a RAM++ on tags, and three Tag2Text that begin with its image encoder on the same images and captions:
on tagging and captioning alone, with itc and itm too, and with these and tags as a guide. Retrieval is of 200 images
with a caption each that training never saw, no two with the same tags. A folder keeps what was measured, and a second
run goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tagstream_train.data.images import Images
from tagstream_train.data.loader import Batches
from tagstream_train.data.samples import DataSet, Sample
from tagstream_train.drawn.sets import TEST, TRUTH, draw
from tagstream_train.evaluate import Opened, caption, score_tags
from tagstream_train.plan import Plan
from tagstream_train.pretrain import pretrain, write_bundle
from tagstream_train.recipes import AlignmentPlan, Run, Stage, sizes_of
from workers.models.bundle import Bundle
from workers.models.load import load_captioner, load_tagger
from workers.models.ram.alignment import has_alignment, load_alignment
from workers.models.ram.config import (
    AnyConfig,
    HeadConfig,
    RamPlusConfig,
    SwinConfig,
    Tag2TextConfig,
    TextConfig,
)
from workers.models.ram.importer import MEAN, STD

IMAGES, TESTS, SIDE, RANKED, CAPTIONED, NEAREST = 1600, 400, 64, 200, 60, 32
FIRST_STEPS = 800
ENCODER = SwinConfig(image_size=SIDE, width=32, depths=(1, 2, 1), heads=(1, 2, 4), window=4)
HEAD = HeadConfig(width=96, heads=4, layers=2, hidden=192)
ARMS: Mapping[str, AlignmentPlan | None] = {
    "tagging and captions": None,
    "and alignment, no tags": AlignmentPlan(tags="none"),
    "and alignment, tags": AlignmentPlan(tags="guided"),
}


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks alignment")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, help="where models and numbers stay")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        found = [_seed(folder / f"seed-{seed}", seed, options.steps) for seed in range(options.seeds)]
    shown = Table("", *ARMS)
    for name in dict.fromkeys(name for arms in found for row in arms.values() for name in row):
        shown.add_row(name, *(_cell([arms[arm][name] for arms in found if name in arms[arm]]) for arm in ARMS))
    Console(width=130).print(shown)
    return 0


def _cell(numbers: Sequence[float]) -> str:
    if not numbers:
        return "-"
    return f"{fmean(numbers):.3f}" + (f" ± {stdev(numbers):.3f}" if len(numbers) > 1 else "")


def _seed(folder: Path, seed: int, steps: int) -> dict[str, dict[str, float]]:
    """What each arm measures, by name."""
    drawn = folder / "drawn"
    if not drawn.exists():
        draw(drawn, images=IMAGES, tests=TESTS, seed=seed, side=SIDE, report=lambda done, total: None)
    first = _trained(_tagger(seed), drawn, folder / "first")
    found = {}
    for number, (arm, plan) in enumerate(ARMS.items()):
        path = folder / f"arm-{number}.json"
        if not path.is_file():
            path.write_text(json.dumps(_measured(_run(plan, first, seed, steps), drawn, folder / f"arm-{number}")))
        found[arm] = json.loads(path.read_text())
        print(f"seed {seed}, {arm}: {found[arm]}", flush=True)  # noqa: T201
    return found


def _tagger(seed: int) -> Run:
    return _run_of("ram-plus", RamPlusConfig(ENCODER, 1, HEAD, embedding=128, descriptions=1), FIRST_STEPS, 32, seed)


def _run(plan: AlignmentPlan | None, first: Bundle, seed: int, steps: int) -> Run:
    config = Tag2TextConfig(ENCODER, 1, HEAD, TextConfig(96, 4, 2, 192, positions=64))
    run = _run_of("tag2text", config, steps, 16, seed)
    return run.model_copy(update={"start": str(first.folder), "alignment": plan})


def _run_of(model: str, config: AnyConfig, steps: int, batch: int, seed: int) -> Run:
    plan = Plan(
        steps=steps, batch=batch, lr=0.032 / batch, warmup_steps=steps // 10, checkpoint_every=200, threads=1, seed=seed
    )
    stage = Stage(image_size=SIDE, augment="none", plan=plan)
    return Run(model=model, sizes=sizes_of(config), stages=(stage,), depth=0.0, dropout=0.0)


def _trained(run: Run, drawn: Path, folder: Path) -> Bundle:
    if not (folder / "bundle").exists():
        dataset, start = DataSet(drawn / TRUTH), time.process_time()
        made = pretrain(dataset, run, folder / "work", workers=0)
        write_bundle(made, folder / "bundle", Images(dataset.folder), workers=0)
        (folder / "seconds").write_text(f"{time.process_time() - start:.0f}")
    return Bundle.open(folder / "bundle")


def _measured(run: Run, drawn: Path, folder: Path) -> dict[str, float]:
    bundle, test = _trained(run, drawn, folder), DataSet(drawn / TEST)
    opened = Opened("test", list(test), test.labels, Images(test.folder))
    tagger = load_tagger(bundle.folder, device="cpu", precision="fp32")
    captioned = Opened("test", opened.samples[:CAPTIONED], test.labels, opened.images)
    writer = load_captioner(bundle.folder, device="cpu", precision="fp32")
    found = {
        "mAP": score_tags(tagger, opened).table().mean().map,
        "CIDEr-D": caption(writer, tagger, captioned).cider,
        "s": float((folder / "seconds").read_text()),
    }
    return found | (_retrieved(bundle, opened) if has_alignment(bundle) else {})


def _retrieved(bundle: Bundle, opened: Opened) -> dict[str, float]:
    """R@1 both ways, by ITC alone and re-ranked with tags and without."""
    chosen = list({sample.tags: sample for sample in reversed(opened.samples)}.values())[:RANKED]
    alignment = load_alignment(bundle)
    images = torch.cat([batch.images for batch in _batches(chosen, opened.images)])
    parts, texts = alignment.images(images), [sample.captions[0] for sample in chosen]
    near = parts.units @ alignment.sentences(texts).T
    found = {"ITC, image to text": _recall(near), "ITC, text to image": _recall(near.T)}
    best_texts, best_images = (each.topk(NEAREST, dim=1).indices for each in (near, near.T))
    wanted = torch.zeros_like(near, dtype=torch.bool).scatter_(1, best_texts, True)
    wanted |= torch.zeros_like(wanted).scatter_(1, best_images, True).T
    pairs = wanted.nonzero()
    for tags in (True, False) if alignment.guided else (False,):
        again = torch.full_like(near, -torch.inf)
        again[wanted] = alignment.match(parts, texts, pairs, tags=tags) + near[wanted]
        name = "with tags" if tags else "without tags"
        found |= {f"re-ranked {name}, image to text": _recall(again), f"…, text to image ({name})": _recall(again.T)}
    return found


def _batches(samples: Sequence[Sample], images: Images) -> Batches:
    return Batches(samples, side=SIDE, mean=MEAN, std=STD, batch=50, images=images, workers=0)


def _recall(scores: Tensor) -> float:
    return float((scores.argmax(dim=1) == torch.arange(len(scores))).float().mean())
