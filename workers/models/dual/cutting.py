"""A child process that holds a tokenizer: its library panics, hangs or fills the memory on some files and sentences.

It is run as a script and imports nothing of ours, so that it starts at once. It answers each line of JSON by one.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any, BinaryIO

MEMORY_BYTES = 2 << 30
"""Of the address space. A published tokenizer takes a fifth."""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Make the tokenizer, then cut sentences until the requests end.

    Requests: its size in bytes, the names of its special tokens, its content; then each time the most ids of a
    sentence, and sentences. Answers: the special tokens' ids or null; then the ids of each sentence.
    """

    def answer(value: object) -> None:
        answers.write(json.dumps(value).encode() + b"\n")
        answers.flush()

    from tokenizers import Tokenizer

    size, special = json.loads(requests.readline())
    try:
        made: Any = Tokenizer.from_buffer(requests.read(size))
        made.no_padding()
        made.no_truncation()
        made.encode_special_tokens = True  # or the text "<pad>" would become padding
        answer([made.token_to_id(name) for name in special])
        for line in requests:
            most, sentences = json.loads(line)
            answer([each.ids[:most] for each in made.encode_batch(sentences, add_special_tokens=False)])
    except BaseException as error:  # noqa: BLE001  # the library raises Exception itself, and panics are none
        answer({"fault": str(error)[:200]})


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    serve(sys.stdin.buffer, sys.stdout.buffer)
