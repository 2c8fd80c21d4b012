"""Two ranks of a distributed run, forked from one process that has imported torch."""

import os
import signal
import socket
import sys
from importlib import import_module

from workers.models.execution import leave_triton_out

RANKS = 2


def main(module: str, *arguments: str) -> int:
    """Run both to their end; returns the first exit code that is not 0, after ending the other rank."""
    program = import_module(module)
    leave_triton_out()
    for name in getattr(program, "IMPORTED_LATE", ()):
        import_module(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS)}
    children = []
    for rank in range(RANKS):
        if (child := os.fork()) == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            program.main(*arguments)
            return 0
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
