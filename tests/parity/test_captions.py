"""Captions against the original programs, token for token, under both length rules and in batches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.parity.subjects import Subject, guide_ids
from workers.models.ram.decoding import CaptionDecoding, LengthRule, Tokens, decode
from workers.models.ram.networks import Tag2Text
from workers.models.ram.wordpiece import PROMPT_IDS, SEP

SETUPS = {
    "beam3_max30": CaptionDecoding(),
    "beam3_max50": CaptionDecoding(max_length=50),
    "beam1_max30": CaptionDecoding(method="greedy"),
    "beam1_max50": CaptionDecoding(method="greedy", max_length=50),
    "beam5_max20_min5": CaptionDecoding(beams=5, max_length=20, min_length=5),
    "beam3_rep1.3": CaptionDecoding(repetition_penalty=1.3),
    "beam3_usertags": CaptionDecoding(),
}
RULES: tuple[LengthRule, ...] = ("original", "hf436")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("setup", SETUPS)
def test_captions_are_the_original_ones(tag2text: Subject, setup: str, rule: LengthRule) -> None:
    options = _under(SETUPS[setup], rule)
    wanted = tag2text.facts["captions"][rule][setup]
    for index, caption in enumerate(wanted):
        alone = write(tag2text, [index], [caption["guide"]], options)
        assert list(alone[0].ids) == caption["ids"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("setup", SETUPS)
def test_eight_images_in_a_batch_get_the_captions_that_each_gets_alone(
    tag2text: Subject, setup: str, rule: LengthRule
) -> None:
    options = _under(SETUPS[setup], rule)
    wanted = tag2text.facts["captions"][rule][setup]
    order = [0, 1, 1, 0, 1, 0, 0, 1]
    found = write(tag2text, order, [wanted[index]["guide"] for index in order], options)
    assert [list(each.ids) for each in found] == [wanted[index]["ids"] for index in order]


def test_sampling_gives_an_image_the_same_caption_in_every_batch(tag2text: Subject) -> None:
    options = CaptionDecoding(method="nucleus", repetition_penalty=1.1, seed=4)
    guides = [caption["guide"] for caption in tag2text.facts["captions"]["original"]["beam3_max30"]]
    alone = [write(tag2text, [index], [guides[index]], options)[0] for index in (0, 1)]
    together = write(tag2text, [1, 0, 1], [guides[1], guides[0], guides[1]], options)
    assert [each.ids for each in together] == [alone[index].ids for index in (1, 0, 1)]
    other = write(tag2text, [0], guides[:1], CaptionDecoding(method="nucleus", repetition_penalty=1.1, seed=5))
    assert other[0].ids != alone[0].ids


def test_a_tiny_nucleus_is_greedy(tag2text: Subject) -> None:
    guides = [caption["guide"] for caption in tag2text.facts["captions"]["original"]["beam1_max30"]]
    tiny = write(tag2text, [0, 1], guides, CaptionDecoding(method="nucleus", top_p=1e-6))
    assert [each.ids for each in tiny] == [each.ids for each in write(tag2text, [0, 1], guides, SETUPS["beam1_max30"])]


@pytest.mark.parametrize("setup", ["beam3_max30", "beam1_max30"])
def test_the_score_is_the_mean_log_probability_of_the_caption(tag2text: Subject, setup: str) -> None:
    guide = tag2text.facts["captions"]["original"][setup][0]["guide"]
    found = write(tag2text, [0], [guide], SETUPS[setup])[0]
    model = _model(tag2text)
    ids = torch.tensor([found.ids])
    logits = model.text.decoder(ids, torch.ones_like(ids), _states(tag2text, 0, guide)[None])[0]
    if setup == "beam1_max30":  # greedy rules the end token out before it takes probabilities, beam search after
        logits[: SETUPS[setup].min_length - 1, SEP] = float("-inf")
    steps = logits.log_softmax(dim=-1)[:-1].gather(1, ids[0, 1:, None])[len(PROMPT_IDS) - 1 :]
    assert found.score == pytest.approx(float(steps.mean()), abs=1e-4)


def write(subject: Subject, order: list[int], guides: list[str], options: CaptionDecoding) -> list[Tokens]:
    """Captions of the recipe's images with these numbers under these guides."""
    states = torch.stack([_states(subject, index, guide) for index, guide in zip(order, guides, strict=True)])
    return decode(_model(subject).text.decoder, states, PROMPT_IDS, SEP, options)


@cache
def _states(subject: Subject, index: int, guide: str) -> torch.Tensor:
    """What the tag encoder makes of one image and one guide, both from the reference."""
    ids, mask = (torch.tensor([part]) for part in guide_ids(guide))
    return _model(subject).guide(ids, mask, subject.embeds[index : index + 1])[0]


def _model(subject: Subject) -> Tag2Text:
    assert isinstance(subject.model, Tag2Text)
    return subject.model


def _under(options: CaptionDecoding, rule: LengthRule) -> CaptionDecoding:
    return replace(options, length_rule=rule)
