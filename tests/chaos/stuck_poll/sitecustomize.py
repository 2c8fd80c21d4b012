"""Imported first by a worker whose PYTHONPATH begins with this folder: a poll of Kafka never comes back, on command.

STUCK names a file. While it is there, a consumer that polls spins, as a client does that can't get past a record, and
says so by another, whose name ends in ".spins".
"""

import os
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer

_FILE = Path(os.environ["STUCK"])
_poll = KafkaConsumer.poll


def _spin(consumer: KafkaConsumer, *args: Any, **more: Any) -> Any:
    if _FILE.exists():
        _FILE.with_suffix(".spins").touch()
    while _FILE.exists():
        pass
    return _poll(consumer, *args, **more)


KafkaConsumer.poll = _spin
