"""Imported first by a worker whose PYTHONPATH begins with this folder: on command, a transaction stops before its
offsets.

HESITATION names a file. While the file exists, a process about to send offsets to a transaction writes `reached` next
to it, and waits.
"""

import os
import time
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

_FILE = Path(os.environ["HESITATION"])
_send_offsets = KafkaProducer.send_offsets_to_transaction


def _hesitate(producer: KafkaProducer, *args: Any, **more: Any) -> Any:
    if _FILE.exists():
        _FILE.with_name("reached").touch()
        while _FILE.exists():
            time.sleep(0.01)
    return _send_offsets(producer, *args, **more)


KafkaProducer.send_offsets_to_transaction = _hesitate
