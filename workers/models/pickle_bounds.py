"""Reads pickles as torch's unpickler does, and makes nothing of them: to refuse what that one has no bounds for.

A few hundred bytes of nested lists or tuples that hold each other twice are millions of them to whatever prints them,
as torch's complaints do, or takes them for the key of a dict. The complaint about a name takes time that grows with the
square of its length, and the few functions that torch allows include those that make much of little.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import ClassVar

_MULTIPLYING = ("bytearray", "encode")
"""Functions that make bytes of any number, and that double what they get."""
_LONGEST_NAME = 200


class Unbounded(Exception):
    """What is wrong with the pickle, as the end of a sentence."""


def check(content: bytes) -> None:
    """Read pickles, one behind the other.

    Raises:
        Unbounded: one would take more time or memory than its length allows.
        Exception: of any kind, as Python's unpickler raises them: it is damaged, or calls what can't be called.
    """
    file = io.BytesIO(content)
    try:
        while file.tell() < len(content):
            _DryUnpickler(file, len(content)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None  # to callers the other is torch's, about what it does not unpickle


class _Made:
    """Stands for what a call returned: it can be filled and given a state, and not be called."""

    def __init__(self, count: Callable[[object], None]) -> None:
        self._count = count

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self._count(state)


class _Memo(dict[int, object]):
    """What a pickle keeps to use it again. Tuples are counted then: no other way brings one into another twice."""

    def __init__(self, count: Callable[[object], None]) -> None:
        super().__init__()
        self._count = count

    def __getitem__(self, number: int) -> object:
        found = super().__getitem__(number)
        if isinstance(found, tuple):
            self._count(found)
        return found


def _refuse_bytes(_: object) -> None:
    """In place of what makes room for as many bytes as are claimed, before it reads any."""
    raise Unbounded("holds bytes among its tensors")


class _DryUnpickler(pickle._Unpickler):
    """Python's own, because the one in C takes memory for the highest number under which something is kept."""

    dispatch: ClassVar = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.DUP[0]}
    dispatch[pickle.NEWOBJ[0]] = dispatch[pickle.REDUCE[0]]
    dispatch[pickle.BYTEARRAY8[0]] = _refuse_bytes

    def __init__(self, file: io.BytesIO, length: int) -> None:
        super().__init__(file, encoding="bytes")
        self.memo = _Memo(self._count)
        self._left = 4 * length + 10_000

    def find_class(self, module: str, name: str) -> Callable[..., _Made]:
        if len(module) + len(name) > _LONGEST_NAME:
            raise Unbounded(f"names something with {len(module) + len(name):,} characters")
        if name in _MULTIPLYING:
            raise Unbounded("holds bytes among its tensors")
        return lambda *arguments: self.persistent_load(arguments)

    def persistent_load(self, about: object) -> _Made:
        """Of a tensor's bytes, and of any call: what it gets is counted, for a complaint may print it."""
        self._count(about)
        return _Made(self._count)

    def _count(self, value: object) -> None:
        """All that lies in it, as often as it lies there."""
        waiting = [value]
        while waiting:
            each = waiting.pop()
            if isinstance(each, dict):
                each = [*each.keys(), *each.values()]
            self._left -= 1 + (len(each) if isinstance(each, list | tuple | str | bytes) else 0)
            if self._left < 0:
                raise Unbounded("holds the same lists again and again")
            if isinstance(each, list | tuple):
                waiting += each
