"""Imported first by a worker whose PYTHONPATH begins with this folder: on command, a poll of Kafka never returns.

STUCK names a file. While the file exists, a polling consumer spins, as a client does at a record that it can't pass,
and reports it by another file with the suffix ".spins".
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
