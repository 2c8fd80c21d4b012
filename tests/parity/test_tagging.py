"""Tags against the original programs: image encoder, tag head, logits; and what must not change them."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.subjects import Subject, images
from workers.models.ram.networks import Ram, RamPlus, Tag2Text


def test_the_transform_leaves_the_original_pixels(subject: Subject) -> None:
    subject.expect("image_first_rows", images()[:, :, :4], within=1e-6)


def test_every_stage_of_the_encoder_gives_the_original_states(subject: Subject) -> None:
    encoder = subject.model.encoder
    x = encoder.patches(images()[:1])
    subject.expect("swin_patch_embed", x[:, :8])
    for index, stage in enumerate(encoder.stages):
        x = stage(x)
        subject.expect(f"swin_stage_{index}", x[:, :8])
    subject.expect("swin_tokens_first8", subject.tokens[:, :8])
    subject.expect("image_embeds_first8", subject.embeds[:, :8])


def test_label_queries_are_the_original_ones(subject: Subject) -> None:
    model = subject.model
    if isinstance(model, Ram):
        queries = model.label_queries(slice(8)).expand(2, -1, -1)
    elif isinstance(model, RamPlus):
        descriptions = model.label_embed.view(model.labels, 51, -1)[:8]
        subject.expect("reweight_first8", model.description_weights(subject.embeds, descriptions).transpose(0, 1))
        queries = model.label_queries(subject.embeds, slice(8))
    else:
        queries = cast("Tag2Text", model).label_embed[:8].expand(2, -1, -1)
    subject.expect("label_query_first8", queries)


def test_hidden_states_of_the_tag_head_are_the_original_ones(subject: Subject) -> None:
    model = subject.model
    memory = model.head.remember(subject.embeds, 16, model.constant_queries)
    queries, first = model.queries(subject.embeds, slice(16))
    subject.expect("tagging_embed_first16", model.head(queries, memory, first))


def test_logits_are_the_original_ones(subject: Subject, logits: Tensor) -> None:
    subject.expect("logits", logits)


def test_the_same_labels_pass_their_thresholds(subject: Subject, logits: Tensor) -> None:
    thresholds = torch.from_numpy(subject.arrays["class_threshold"])
    found = logits.sigmoid() > thresholds
    assert torch.equal(found, torch.from_numpy(subject.arrays["logits"]).sigmoid() > thresholds)
    for row, tags in zip(found, subject.facts.get("tags", ()), strict=False):
        assert int(row.sum()) == len(tags.split(" | "))


def test_an_unfrozen_model_gives_the_same_logits(subject: Subject, logits: Tensor) -> None:
    model = subject.model
    model.train()  # as in training: nothing folded, no constants kept
    try:
        _close(model.score(subject.embeds), logits)
    finally:
        model.eval()


def test_a_subset_of_labels_gets_the_scores_that_all_get(subject: Subject, logits: Tensor) -> None:
    chosen = torch.arange(3, logits.shape[1], 7)
    _close(subject.model.score(subject.embeds, chosen), logits[:, chosen])
    one = torch.tensor([logits.shape[1] - 1])
    _close(subject.model.score(subject.embeds, one), logits[:, one])


def test_small_chunks_of_labels_change_nothing(
    subject: Subject, logits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject.model, "rows_at_once", logits.shape[1] * 2 // 5)
    _close(subject.model.score(subject.embeds), logits)


def test_eight_images_in_a_batch_get_what_each_gets_alone(subject: Subject, logits: Tensor) -> None:
    order = [0, 1, 1, 0, 1, 0, 0, 1]
    model = subject.model
    batch = model.score(model.embed(model.encode(images()[order])))
    alone = torch.cat([model.score(model.embed(model.encode(images()[i : i + 1]))) for i in (0, 1)])
    _close(batch, alone[order])
    _close(alone, logits)


def _close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found.numpy() - wanted.numpy()).max() <= 2e-5
