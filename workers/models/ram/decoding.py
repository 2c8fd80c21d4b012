"""Greedy and beam search, the same in every batch.

An image that has its caption leaves the batch; the others go on. Nothing that is computed for one depends on which
others are there (to float rounding of the products).

A beam's worth is its log-probability divided by the number of all tokens before the end token, prompt included, as in
transformers 4.25, with which the published models were used.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from workers.models.ram.text import DecoderCache, TextDecoder

MAX_BEAMS = 100
_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class CaptionDecoding:
    """How captions are made. Lengths count the prompt, as the official defaults do.

    Args:
        method: "beam"; "greedy" takes the likeliest token each time.
        beams: hypotheses kept for each image; only for "beam".
        max_length: tokens at most, prompt and end token included.
        min_length: no end token before this many tokens.
    """

    method: Literal["beam", "greedy"] = "beam"
    beams: int = 3
    max_length: int = 30
    min_length: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.beams <= MAX_BEAMS or self.max_length < 1:
            raise ValueError(
                f"a caption needs 1 to {MAX_BEAMS} beams and at least one token, not {self.beams} and {self.max_length}"
            )


@dataclass(frozen=True, slots=True)
class Tokens:
    """A finished text.

    Args:
        ids: prompt, text, and the end token if one came within the length.
        score: mean log-probability of the generated tokens, the end token included.
    """

    ids: tuple[int, ...]
    score: float


def decode(
    decoder: TextDecoder, states: Tensor, prompt: Sequence[int], end: int, options: CaptionDecoding
) -> list[Tokens]:
    """Write one text for each row of `states`.

    Args:
        states: (images, n, width), for the decoder's cross-attention.
        prompt: ids that every text begins with, at least one.
        end: id that ends a text.

    Raises:
        ValueError: the prompt leaves no room, or the length is beyond the decoder's positions.
    """
    positions = decoder.embeddings.position.num_embeddings
    if not 0 < len(prompt) < options.max_length <= positions:
        raise ValueError(f"{len(prompt)} prompt tokens and a max_length of {options.max_length} don't fit together")
    if len(states) == 0:
        return []
    with torch.no_grad():
        return _Search(decoder, states, prompt, end, options).run()


@dataclass(slots=True)
class _Finished:
    """The best finished hypotheses of one image: (worth, tie-break, ids, log-probability, tokens it is a mean of)."""

    capacity: int
    heap: list[tuple[float, int, tuple[int, ...], float, int]] = field(default_factory=list)
    added: int = 0

    def add(self, ids: tuple[int, ...], total: float, length: int, generated: int) -> None:
        entry = (total / length, self.added, ids, total, generated)
        self.added += 1
        if len(self.heap) < self.capacity:
            heapq.heappush(self.heap, entry)
        elif entry[0] > self.heap[0][0]:
            heapq.heapreplace(self.heap, entry)

    def beats(self, worth: float) -> bool:
        """Whether it is full of hypotheses that are at least `worth`."""
        return len(self.heap) == self.capacity and self.heap[0][0] >= worth

    def best(self) -> Tokens:
        _, _, ids, total, generated = max(self.heap)
        return Tokens(ids, total / generated)


class _Search:
    """The cache, the ids so far, and the unfinished images; one row each at first: all beams would be the same."""

    def __init__(
        self, decoder: TextDecoder, states: Tensor, prompt: Sequence[int], end: int, options: CaptionDecoding
    ) -> None:
        self.decoder = decoder
        self.options = options
        self.most = options.beams if options.method == "beam" else 1
        self.end = end
        self.prompt = len(prompt)
        self.live = list(range(len(states)))
        self.done: dict[int, Tokens] = {}
        self.cache: DecoderCache = decoder.open(states, options.max_length)
        self.ids = torch.tensor([list(prompt)] * len(states), device=states.device)  # (rows, length so far)
        self.beams = 1
        self.running = torch.zeros(len(states), 1, device=states.device)  # (images, beams) log-probabilities
        self.finished = {image: _Finished(self.most) for image in self.live}

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def run(self) -> list[Tokens]:
        count = len(self.live)
        logits = self.decoder.step(self.ids, self.cache)
        while True:
            self.advance(logits)
            if not self.live:
                return [self.done[image] for image in range(count)]
            logits = self.decoder.step(self.ids[:, -1:], self.cache)

    def keep(self, places: list[int]) -> None:
        """Keep only the live images at these places; their rows are `select`ed by the caller."""
        if len(places) < len(self.live):
            self.live = [self.live[place] for place in places]
            self.cache.keep_images(torch.tensor(places, dtype=torch.int64, device=self.ids.device))

    def advance(self, logits: Tensor) -> None:
        """Append a token to every live row, by logits (rows, vocabulary); drop finished images."""
        scores = logits.float() if self.most == 1 else logits.float().log_softmax(dim=-1)
        if self.length < self.options.min_length:
            scores = scores.clone()
            scores[:, self.end] = _NEVER
        if self.most == 1:  # as transformers' greedy search: probabilities are those of the allowed tokens
            scores = scores.log_softmax(dim=-1)
        total = scores.view(len(self.live), self.beams, -1) + self.running[..., None]
        best, flat = total.flatten(1).topk(2 * self.most, dim=-1)
        vocabulary = logits.shape[-1]
        written, totals = self.ids.tolist(), best.tolist()
        beams, tokens = (flat // vocabulary).tolist(), (flat % vocabulary).tolist()
        places: list[int] = []
        parents: list[int] = []
        chosen: list[tuple[int, float]] = []
        for place, image in enumerate(self.live):
            candidates = [
                (total, place * self.beams + beam, token)
                for total, beam, token in zip(totals[place], beams[place], tokens[place], strict=True)
            ]
            going_on = self._divide(image, candidates, written)
            if not self._settled(image, totals[place][0], going_on, written):
                places.append(place)
                parents.extend(row for _, row, _ in going_on)
                chosen.extend((token, total) for total, _, token in going_on)
        self.keep(places)
        if places:
            self._go_on(parents, chosen)

    def _divide(
        self, image: int, candidates: list[tuple[float, int, int]], written: list[list[int]]
    ) -> list[tuple[float, int, int]]:
        """File ended candidates (total, row, token), and return the best others."""
        going_on = []
        for rank, (total, row, token) in enumerate(candidates):
            if token != self.end:
                going_on.append((total, row, token))
                if len(going_on) == self.most:
                    break
            elif rank < self.most:
                self._file(image, written[row], total, ended=True)
        return going_on

    def _settled(
        self, image: int, best: float, going_on: list[tuple[float, int, int]], written: list[list[int]]
    ) -> bool:
        """Whether the image is done: nothing can win, or the length is reached."""
        finished = self.finished[image]
        if not finished.beats(best / self.length):
            if self.length + 1 < self.options.max_length:
                return False
            for total, row, token in going_on:
                self._file(image, [*written[row], token], total, ended=False)
        self.done[image] = finished.best()
        return True

    def _file(self, image: int, ids: list[int], total: float, *, ended: bool) -> None:
        """Keep a hypothesis; `ids` are without the end token."""
        whole = (*ids, self.end) if ended else tuple(ids)
        self.finished[image].add(whole, total, len(ids), len(whole) - self.prompt)

    def _go_on(self, parents: list[int], chosen: list[tuple[int, float]]) -> None:
        device = self.ids.device
        rows = torch.tensor(parents, device=device)
        token = torch.tensor([[token] for token, _ in chosen], device=device)
        self.ids = torch.cat((self.ids[rows], token), dim=1)
        self.running = torch.tensor([total for _, total in chosen], device=device).view(len(self.live), -1)
        self.beams = self.most
        self.cache.select(rows)
