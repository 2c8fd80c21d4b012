"""`python -m tests.kube`: build what the tests of this folder run, unless it is there."""

from __future__ import annotations

import sys

from tests.kube.programs import build
from workers.local.server import CannotStart


def main() -> int:
    try:
        build(lambda line: print(line, flush=True))  # noqa: T201
    except CannotStart as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
