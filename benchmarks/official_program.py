"""Runs inside the official checkout's interpreter: makes its model, and answers questions, a line of JSON each.

Imports nothing of ours, and of others only torch, numpy and the checkout's own package.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

MAKERS = {"ram": ("ram", "swin_l"), "ram_plus": ("ram_plus", "swin_l"), "tag2text": ("tag2text", "swin_b")}


def main(checkout: str, folder: Path) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # the official code prints
    sys.path[0] = checkout  # and not the folder of this file, whose names are no business of theirs
    program = Program(folder)
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(program, question.pop("do"))(**question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Program:
    """What can be asked. Each method takes a question's fields and gives its answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: Any = None
        self.images: Any = None

    def make(
        self, kind: str, threads: int, labels: list[str], thresholds: list[float], image_size: int
    ) -> dict[str, Any]:
        """Make the model, with these labels in the place of its own."""
        models = import_module("ram.models")  # first, so that one that is not there is said at once

        import numpy as np
        import torch

        torch.set_num_threads(threads)
        maker, vit = MAKERS[kind]
        tokenizer = str(self.folder / "tokenizer")
        model = getattr(models, maker)(
            pretrained="", image_size=image_size, vit=vit, text_encoder_type=tokenizer
        ).eval()
        model.tag_list = np.array(labels)
        model.tag_list_chinese = model.tag_list
        model.delete_tag_index = []
        model.class_threshold = torch.tensor(thresholds)
        self.model = model
        return {"shapes": {name: list(tensor.shape) for name, tensor in model.state_dict().items()}}

    def load(self) -> dict[str, Any]:
        """Take over the weights and images that lie in the folder."""
        import numpy as np
        import torch

        weights = torch.load(self.folder / "weights.pt")
        self.model.load_state_dict({**self.model.state_dict(), **weights})
        self.images = torch.from_numpy(np.load(self.folder / "images.npy"))
        return {}

    def tag(self, image: int) -> dict[str, Any]:
        import torch

        with torch.no_grad():
            started = time.perf_counter()
            tags = self.model.generate_tag(self.images[image : image + 1])[0]
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "tags": tags[0]}

    def caption(self, image: int) -> dict[str, Any]:
        import torch

        with torch.no_grad():
            started = time.perf_counter()
            captions, tags = self.model.generate(self.images[image : image + 1], return_tag_predict=True)
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "tags": tags[0], "caption": captions[0]}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
