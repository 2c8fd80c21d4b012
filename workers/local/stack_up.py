"""The servers alone, for as long as a person wants them."""

from __future__ import annotations

import time
from contextlib import closing

from workers.errors import TagstreamError
from workers.local.demo_screen import Screen
from workers.local.endings import run_until_ended
from workers.local.server import CannotStart
from workers.local.stack import LocalStack


def stack_up() -> int:
    """Start the servers, make the bucket and the topics, print the environment to export, stay until a signal.

    What is printed to standard output is fit for a shell: comments and `export` lines.

    Returns:
        The exit code: 0 after Ctrl-C or SIGTERM, 1 when a server did not start or ended by itself.
    """
    screen = Screen()
    try:
        with closing(LocalStack()) as stack:
            run_until_ended(lambda: _stay(screen, stack), lambda _: _stop(stack))
    except TagstreamError as error:
        screen.complain(str(error))
    return 1


def _stop(stack: LocalStack) -> int:
    stack.close()
    return 0


def _stay(screen: Screen, stack: LocalStack) -> None:
    stack.start()
    stack.furnish()
    for line in stack.exports():
        screen.say(line)
    screen.say("# up until Ctrl-C")
    while True:
        for server in stack.servers:
            if not server.running:
                raise CannotStart(server.complaint(f"ended with exit code {server.exit_code}"))
        time.sleep(0.5)
