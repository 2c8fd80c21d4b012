"""An in-memory object store that other processes can read: it stays here, and they ask for it over a socket."""

from __future__ import annotations

import functools
import threading
import uuid
import weakref
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from workers.backends.memory import MemoryObjectStore
from workers.errors import TagstreamError
from workers.ports import ObjectStore
from workers.vocabulary import StoredObject


class DistantStore:
    """The other process's end. Each of its threads has a connection of its own."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._own = threading.local()

    def get(self, bucket: str, key: str, **wanted: Any) -> StoredObject:
        if not hasattr(self._own, "connection"):
            self._own.connection = Client(self._address)
        connection: Connection[Any, Any] = self._own.connection
        connection.send((bucket, key, wanted))
        answer = connection.recv()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, StoredObject)
        return answer


def reached_from_afar(store: MemoryObjectStore) -> Callable[[], ObjectStore]:
    """A recipe for the store's other end, which can be pickled. The store is served as long as it lives."""
    listener = Listener(f"\0tagstream-{uuid.uuid4()}", "AF_UNIX")
    threading.Thread(target=_accept, args=(listener, weakref.ref(store)), daemon=True).start()
    weakref.finalize(store, listener.close)
    return functools.partial(DistantStore, listener.address)


def _accept(listener: Listener, store: weakref.ref[MemoryObjectStore]) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, store), daemon=True).start()


def _answer(connection: Connection[Any, Any], served: weakref.ref[MemoryObjectStore]) -> None:
    with connection:
        while True:
            try:
                bucket, key, wanted = connection.recv()
            except (EOFError, OSError):
                return
            store = served()
            assert store is not None
            try:
                answer: object = store.get(bucket, key, **wanted)
            except TagstreamError as error:
                answer = error
            connection.send(answer)
