"""Fine-tuning for retrieval: a run with itc and itm alone, where all captions of an image are right."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tagstream_train.export import Card, export
from tagstream_train.plan import Plan
from tagstream_train.pretrain.recipes import AlignmentPlan, Run, Stage, sizes_of
from tagstream_train.pretrain.run import Pretrained
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.alignment import read_part
from workers.models.ram.config import from_json


def retrieval_run(bundle: Bundle, plan: Plan, augment: Literal["paper", "flip", "none"]) -> Run:
    """The run that trains a bundle with its alignment part on.

    Raises:
        Misconfigured: it has no alignment part, or labels of a head.
    """
    part, manifest = read_part(bundle), bundle.manifest
    if "added" in manifest.options:
        raise Misconfigured(f"{bundle.folder} has labels of a head: fine-tune the bundle that it was made from.")
    return Run(
        model="tag2text",
        start=str(bundle.folder),
        val=0,
        alignment=AlignmentPlan(tags="guided" if part.tag_proj is not None else "none"),
        retrieval=True,
        sizes=sizes_of(from_json(manifest.kind, manifest.architecture)),
        stages=(Stage(image_size=bundle.transform.size, augment=augment, plan=plan),),
    )


def write_finetuned(made: Pretrained, out: Path, *, replace_existing: bool) -> Bundle:
    """Write the start bundle with the trained weights; labels and thresholds stay.

    Raises:
        Misconfigured: the folder exists already.
    """
    parent, name = Bundle.open(Path(made.run.start or "")), made.dataset.header.name
    given = parent.manifest
    source = {"source": f"{given.provenance.source}, fine-tuned for retrieval on {name}", "sha256": None}
    update = {"name": out.name, "provenance": given.provenance.model_copy(update=source)}
    return export(
        out,
        given.model_copy(update=update),
        weights=made.model.state_dict(),
        labels=parent.labels,
        card=Card(
            command="train finetune --task retrieval",
            data={"name": name, "trained_on": len(made.seen)},
            plan=made.run.model_dump(mode="json", exclude_none=True),
            steps=made.steps,
            images=made.images,
            parents=dict(made.parents),
        ),
        translations=parent.translations,
        parents=parent.parents,
        vocabulary=made.vocabulary,
        part=made.part,
        replace_existing=replace_existing,
    )
