"""The official program of a checkout, in a process of its own, with our weights: timed beside ours, and compared.

It may need another interpreter than ours, with the libraries of its own time; that one needs torch, numpy, and what
the checkout asks for. Nothing of it is imported here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from benchmarks import official_program
from workers.errors import Misconfigured
from workers.models.bundle import Bundle
from workers.models.ram.config import AnyConfig, from_json
from workers.models.ram.importer import made_up_vocabulary
from workers.models.ram.keys import plan
from workers.types import Pixels


class Official:
    """The official model of a bundle's kind, filled with the bundle's weights.

    Args:
        checkout: the folder that has the package `ram` in it.
        interpreter: runs it.
        images: what it will be asked about, by their number.

    Raises:
        Misconfigured: it does not start; the message ends with what it said last.
    """

    def __init__(self, checkout: Path, interpreter: str, bundle: Bundle, images: Sequence[Pixels]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="official-")
        folder = Path(self._folder.name)
        self._errors = (folder / "errors.txt").open("w")
        self._program = subprocess.Popen(
            [interpreter, official_program.__file__, str(checkout.resolve()), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self._prepare(folder, bundle, images)
        except BaseException:
            self.close()
            raise

    def _prepare(self, folder: Path, bundle: Bundle, images: Sequence[Pixels]) -> None:
        config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
        _write_tokenizer(folder / "tokenizer", bundle)
        np.save(folder / "images.npy", _normalised(bundle, images))
        shapes = self._ask(
            do="make",
            kind=bundle.manifest.kind,
            threads=torch.get_num_threads(),
            labels=list(bundle.labels),
            thresholds=list(bundle.thresholds),
            image_size=config.encoder.image_size,
        )["shapes"]
        torch.save(official_weights(bundle, config, shapes), folder / "weights.pt")
        self._ask(do="load")

    def tag(self, image: int) -> tuple[float, str]:
        """Seconds, and the tags joined by " | "."""
        answer = self._ask(do="tag", image=image)
        return float(answer["seconds"]), str(answer["tags"])

    def caption(self, image: int) -> tuple[float, str, str]:
        """Seconds for tags and caption together, the tags, and the caption."""
        answer = self._ask(do="caption", image=image)
        return float(answer["seconds"]), str(answer["tags"]), str(answer["caption"])

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        try:
            self._program.stdin.write(json.dumps(question) + "\n")
            self._program.stdin.flush()
            line = self._program.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._program.wait()
            said = Path(self._errors.name).read_text().strip().splitlines()[-3:]
            raise Misconfigured("The official program ended:\n" + "\n".join(said))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        for pipe in (self._program.stdin, self._program.stdout):
            if pipe is not None:
                pipe.close()
        self._program.terminate()
        self._program.wait()
        self._errors.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def official_weights(bundle: Bundle, config: AnyConfig, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The bundle's tensors under their official names; names that it has nothing for are left out."""
    found = plan(shapes.keys(), config)
    ours = bundle.weights()
    tensors = {}
    for name in shapes:
        target = found.loaded.get(found.tied.get(name, name))
        if target is not None:
            whole = ours[target.name].float()
            piece = whole if target.blocks == 1 else whole.chunk(target.blocks)[target.block]
            tensors[name] = piece.reshape(list(shapes[name])).clone()
    return tensors


def _write_tokenizer(folder: Path, bundle: Bundle) -> None:
    """Every official model wants one, and would fetch it; a tagger never uses it, so a made-up one does."""
    folder.mkdir()
    own = bundle.manifest.kind == "tag2text"
    tokens = bundle.vocabulary.read_text(encoding="utf-8") if own else "\n".join(made_up_vocabulary())
    (folder / "vocab.txt").write_text(tokens, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def _normalised(bundle: Bundle, images: Sequence[Pixels]) -> np.ndarray[Any, np.dtype[np.float32]]:
    scaled = np.stack(images).astype(np.float32) / 255
    mean, std = (np.array(row, np.float32) for row in (bundle.manifest.mean, bundle.manifest.std))
    normalised = (scaled - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


DEFAULT_INTERPRETER = sys.executable
