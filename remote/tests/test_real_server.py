"""Captions of a real server: `transformers serve` with a small random model.

Needs `pip install 'transformers[serving]'`, which the project does not install.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from tagstream_remote.captioner import remote_captioner

from tagstream_testing.local.ports import free_ports
from tests.support.waiting import eventually
from workers.settings import Settings
from workers.types import ImageAbout, Partition

NEEDED = ("transformers", "fastapi", "uvicorn", "openai", "torchvision")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="transformers[serving] is not installed"),
]

MAKE = """
import sys
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig,
    LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast)

special, letters = ["<pad>", "<s>", "</s>", "<image>"], sorted(pre_tokenizers.ByteLevel.alphabet())
pieces = Tokenizer(models.BPE({piece: number for number, piece in enumerate([*special, *letters])}, []))
pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
pieces.add_special_tokens(special)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
    extra_special_tokens={"image_token": "<image>"})
part = "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
text = "{% if m['content'] is string %}{{ m['content'] }}{% else %}" + part + "{% endif %}"
template = "{% for m in messages %}" + text + "{% endfor %}"
images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
LlavaProcessor(images, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=template,
    image_token="<image>", num_additional_image_tokens=1).save_pretrained(sys.argv[1])
torch.manual_seed(0)
size = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
vision = CLIPVisionConfig(**size, image_size=32, patch_size=8, projection_dim=32)
text = LlamaConfig(**size, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2)
config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1)
model = LlavaForConditionalGeneration(config)
model.generation_config.exponential_decay_length_penalty = (8, 2.0)  # it ends after some letters
model.save_pretrained(sys.argv[1])
"""
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a server, and its model's name."""
    folder, (port,) = tmp_path_factory.mktemp("served"), free_ports(1)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HOME": str(folder)}
    name = str(folder / "model")
    subprocess.run([sys.executable, "-c", MAKE, name], env=environment, check=True, capture_output=True)
    arguments = ["serve", name, "--device", "cpu", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVE, *arguments], env=environment, stdout=log, stderr=log)

    def up() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return bool(urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200)
        except (URLError, OSError):
            return False

    try:
        eventually(up, 180, (folder / "log").read_text)
        yield f"http://127.0.0.1:{port}/v1", name
    finally:
        process.kill()
        process.wait()


def test_a_real_server_captions_a_picture_that_counts(served: tuple[str, str], tmp_path: Path) -> None:
    address, name = served
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"side": 64}))
    settings = Settings(captioner=address, caption_model=name, caption_file=file, caption_wait_s=200)
    captioner = remote_captioner(settings)
    try:
        pixels = np.full((64, 64, 3), (200, 30, 30), np.uint8)
        jpeg = captioner.encode(pixels, ImageAbout.of(pixels))
        answers = [captioner.ask(jpeg, ["red"], Partition("images", 0), print) for _ in range(3)]
        captions = [answer.result(200).caption for answer in answers]
    finally:
        captioner.close()
    assert captioner.unready() is None
    assert len({caption.text for caption in captions}) == 1
    assert captions[0].text
    assert (captions[0].method, captions[0].model) == ("remote", f"{name}@main")
    assert captions[0].usage is not None
    assert captions[0].usage.completion < 100
