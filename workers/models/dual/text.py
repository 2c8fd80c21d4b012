"""The text tower of a dual encoder's bundle: sentences to token ids, and these to vectors.

Commands open it, a worker never does. The library `tokenizers` cuts sentences, in a child process.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import unicodedata
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Timer
from typing import Any, Final

import torch
from pydantic_core import from_json as parsed
from torch import Tensor

from workers.errors import Misconfigured
from workers.models.bundle import TEXT, TOKENIZER, Bundle, read_tensors
from workers.models.cpu_layers import pack
from workers.models.device import Device, Precision, choose_device
from workers.models.dual import cutting
from workers.models.dual.config import KINDS, DualConfig, Kind, from_json
from workers.models.dual.towers import TextTower, filled

MAX_TOKENIZER_BYTES: Final = 64 * 1024**2
"""Published ones have up to 34 MB, and take ten times as much in memory."""
MAX_CHARACTERS: Final = 8192
"""Of a sentence: the rest is cut off. No tower reads as many."""
SPECIAL: Final = {"siglip": ("<pad>", "<eos>"), "clip": ("<|startoftext|>", "<|endoftext|>")}
ANSWER_S: Final = 60.0
"""The longest that a tokenizer may take to open, or to cut a batch: a hundred times what the largest takes."""


class _Cutter:
    """A tokenizer in a child process; it ends with this object. Raises Misconfigured: it is no tokenizer."""

    def __init__(self, content: bytes, special: Sequence[str], where: Path) -> None:
        self._where = where
        command = [sys.executable, "-I", cutting.__file__]
        pipe, silent = subprocess.PIPE, subprocess.DEVNULL
        self._child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=silent)
        weakref.finalize(self, _end, self._child)
        self.special: list[int | None] = self._asked(
            b"%b\n%b" % (json.dumps([len(content), special]).encode(), content)
        )

    def ids(self, sentences: Sequence[str], most: int) -> list[list[int]]:
        found: list[list[int]] = self._asked(json.dumps([most, sentences]).encode() + b"\n")
        return found

    def _asked(self, request: bytes) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        clock = Timer(ANSWER_S, self._child.kill)
        clock.start()
        try:
            self._child.stdin.write(request)
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            clock.cancel()
        answer = parsed(line or '{"fault": "it takes too long, or too much memory"}')
        if isinstance(answer, dict):
            raise Misconfigured(f"{self._where} is no tokenizer.json that can be used ({answer['fault']}).")
        return answer


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


class TokenIds:
    """Cuts sentences into the ids of one tower.

    SigLIP: the pieces, the end, padding up to the tower's length. CLIP: a start, the pieces, the end, then zeros that
    nothing reads. Both in lower case, and cut so that the end is always there. No text becomes a special token. Raises
    Misconfigured: it is no tokenizer, or lacks the special tokens of the kind.
    """

    def __init__(self, content: bytes, config: DualConfig, where: Path) -> None:
        names = SPECIAL[config.kind]
        self._cutter = _Cutter(content, names, where)
        self._config = config
        self._where = where
        first, self._end = map(self._special, names, self._cutter.special)
        clip = config.kind == "clip"
        self._start, self._padding = ([first], 0) if clip else ([], first)

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (n, length) int64, and each sentence's end (n,).

        The end is the place where the tower reads the sentence. Raises Misconfigured: an id that the tower does not
        have, or a sentence that the tokenizer fails on.
        """
        config, clip = self._config, self._config.kind == "clip"
        found = self._cutter.ids([_prepared(each, clip) for each in sentences], self._room)
        ids = torch.full((len(sentences), config.length), self._padding)
        ends = torch.full((len(sentences),), config.length - 1)
        for row, cut in enumerate(found):
            pieces = [*self._start, *cut, self._end]
            ids[row, : len(pieces)] = torch.tensor(pieces)
            if clip:
                ends[row] = len(pieces) - 1
        if bool((ids >= config.vocabulary).any()):
            raise Misconfigured(
                f"{self._where} gives ids from {config.vocabulary:,} on, which the text tower does not have: "
                "it is the tokenizer of another model."
            )
        return ids, ends

    def cut(self, sentences: Sequence[str]) -> list[str]:
        """Sentences of which the tower reads the beginning alone."""
        room = self._room
        clip = self._config.kind == "clip"
        found = self._cutter.ids([_prepared(each, clip) for each in sentences], room + 1)
        return [
            each for each, ids in zip(sentences, found, strict=True) if len(ids) > room or len(each) > MAX_CHARACTERS
        ]

    @property
    def _room(self) -> int:
        """Ids of a sentence without its start and end."""
        return self._config.length - 1 - len(self._start)

    def _special(self, name: str, found: int | None) -> int:
        if found is None or found >= self._config.vocabulary:
            raise Misconfigured(f"{self._where} has no token {name}: it is not the tokenizer of {self._config.kind}.")
        return found


_QUOTES: Final = str.maketrans("\u2018\u2019\u201a\u201b\u02bc\u201c\u201d\u201e\u201f", "'" * 5 + '"' * 4)
_WIDE: Final = re.compile("[\u3000\ufb00-\ufb06\uff01-\uffef]+")
"""Ligatures, and characters of full and half width."""


def _prepared(sentence: str, clip: bool) -> str:
    """Lower case; what can't be encoded (half a surrogate pair) becomes a question mark.

    CLIP's sentences are repaired first, as open_clip does it by the library ftfy: HTML entities, curly quotes,
    ligatures and full width.
    """
    text = sentence[:MAX_CHARACTERS]
    if clip:
        text = html.unescape(html.unescape(text)).translate(_QUOTES)
        text = _WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), text)
    return text.lower().encode("utf-8", "replace").decode()


BATCH = 32
"""Sentences at a time: more gains nothing."""


class TextEncoder:
    """Makes vectors of sentences. One thread at a time.

    Attributes:
        space: of the vectors; those of images of the same space can be compared with them.
        kind: "siglip" or "clip".
        scale: logarithm of the factor that makes a logit of a cosine, as published.
        bias: of that logit; 0 for CLIP.
    """

    def __init__(self, tower: TextTower, tokens: TokenIds, bundle: Bundle, device: Device) -> None:
        config = from_json(bundle.manifest.kind, bundle.manifest.architecture)
        self.name = bundle.name
        self.space: str = config.space
        self.kind: Kind = config.kind
        self.scale: float = config.scale
        self.bias: float = config.bias
        self.dimensions = config.dimensions
        self._tower = tower
        self._tokens = tokens
        self._device = device

    def encode(
        self, sentences: Sequence[str], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor:
        """Vectors (n, dimensions) float32 of length 1, on the host.

        Raises Misconfigured: the tokenizer is that of another tower.
        """
        rows = [torch.empty(0, self.dimensions)]
        for start in range(0, len(sentences), BATCH):
            ids, ends = self._tokens(sentences[start : start + BATCH])
            if self.kind == "clip":
                ids = ids[:, : int(ends.max()) + 1]  # nothing reads the padding
            with self._device.run():
                rows.append(self._tower(ids.to(self._device.where), ends.to(self._device.where)).cpu())
            progress(min(start + BATCH, len(sentences)), len(sentences))
        return torch.cat(rows)

    def cut(self, sentences: Sequence[str]) -> list[str]:
        """Sentences of which the tower reads the beginning alone."""
        return self._tokens.cut(sentences)

    def require_space(self, space: str, of: str) -> None:
        """Raise Misconfigured: the vectors `of` another are of another space than these sentences'."""
        if space != self.space:
            raise Misconfigured(
                f"{of} has vectors of the space {space!r}, and {self.name} makes those of {self.space!r}: vectors of "
                "two spaces can't be compared. Use the text tower of the same model."
            )


def open_text(bundle: Bundle | Path | str, *, device: str = "cpu", precision: Precision = "fp32") -> TextEncoder:
    """Open the text tower of a bundle; all its bytes are checked.

    Raises Misconfigured: no bundle of a dual encoder, one that came without its text tower, a changed file, or int8.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    if opened.manifest.kind not in KINDS or TEXT not in opened.manifest.provenance.beside:
        raise Misconfigured(
            f"{opened.folder} ({opened.manifest.kind}) has no text tower: only bundles of dual encoders read "
            "sentences. Make one with `tagstream models pull siglip2-b16-224` or clip-b16."
        )
    if precision == "int8":
        raise Misconfigured("A text tower does not run in int8; choose fp32 or bf16.")
    config = from_json(opened.manifest.kind, opened.manifest.architecture)
    tokens = TokenIds(opened.beside(TOKENIZER, MAX_TOKENIZER_BYTES).read_bytes(), config, opened.folder / TOKENIZER)
    tower = filled(TextTower, config, read_tensors(opened.beside(TEXT)), opened.folder / TEXT)
    place = choose_device(device)
    table = tower.tokens  # most of the file; a sentence needs a few rows, so it stays mapped
    del tower.tokens
    tower = place.place(tower, precision)
    tower.tokens = torch.nn.Parameter(table.to(place.where), requires_grad=False)
    if place.fuses(precision):
        with torch.inference_mode():
            pack(tower, rows=BATCH * config.length)
    return TextEncoder(tower, tokens, opened, place)
