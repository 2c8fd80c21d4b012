"""Vectors of sentences for the page: one at a time, kept, and bounded in number and time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from tagstream_index.page import pool
from tagstream_index.page.pool import Sentences
from tagstream_index.query import Embedding
from workers.errors import Misconfigured


class Tower:
    def __init__(self) -> None:
        self.read: list[str] = []
        self.free = threading.Event()
        self.at_once = threading.Lock()

    def __call__(self, sentence: str) -> Embedding:
        assert self.at_once.acquire(blocking=False), "one sentence at a time"
        assert self.free.wait(30)
        self.read.append(sentence)
        self.at_once.release()
        return Embedding("s", np.zeros(2, np.float16))


def test_many_who_ask_at_once_are_answered_one_sentence_at_a_time_and_each_once() -> None:
    tower = Tower()
    tower.free.set()
    sentences = [f"sentence {number % 5}" for number in range(40)]
    with closing(Sentences(tower)) as made, ThreadPoolExecutor(20) as people:
        assert all(people.map(made.vector, sentences))
    assert sorted(tower.read) == sorted(set(sentences))


def test_what_takes_long_or_comes_behind_eight_others_is_left_and_later_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_READ_S", 0.01)
    tower = Tower()
    with closing(Sentences(tower)) as made:
        assert [made.vector(f"{number}") for number in range(20)] == [None] * 20
        tower.free.set()
        monkeypatch.setattr(pool, "_READ_S", 30)
        assert made.vector("7") is not None
        assert tower.read == [f"{number}" for number in range(8)], "the rest was never begun"
        assert made.vector("19") is not None


def test_the_last_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_KEPT_SENTENCES", 2)
    tower = Tower()
    tower.free.set()
    with closing(Sentences(tower)) as made:
        for sentence in ("a", "b", "a", "c", "a", "b"):
            made.vector(sentence)
    assert tower.read == ["a", "b", "c", "b"]


def test_an_error_of_the_tower_is_shown() -> None:
    def broken(_: str) -> Embedding:
        raise Misconfigured("the tokenizer of another model")

    with closing(Sentences(broken)) as made, pytest.raises(Misconfigured):
        made.vector("a")
