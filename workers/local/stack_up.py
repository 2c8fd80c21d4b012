"""`tagstream stack up`: runs the local servers until a signal."""

from __future__ import annotations

import time
from contextlib import closing
from typing import NoReturn

from workers.local.demo_display import DemoDisplay
from workers.local.endings import run_until_ended
from workers.local.server import CannotStart
from workers.local.stack import LocalStack


def stack_up() -> NoReturn:
    """Start the servers, make the bucket and the topics, print the environment to export, stay until a signal.

    What is printed to standard output is fit for a shell: comments and `export` lines.

    Returns:
        Never. A signal ends the process, with 0.

    Raises:
        CannotStart: a server did not start, or ended by itself.
    """
    display = DemoDisplay()
    with closing(LocalStack()) as stack:
        run_until_ended(lambda: _stay(display, stack), lambda _: _stop(stack))


def _stop(stack: LocalStack) -> int:
    stack.close()
    return 0


def _stay(display: DemoDisplay, stack: LocalStack) -> NoReturn:
    stack.start()
    stack.furnish()
    for line in stack.exports():
        display.say(line)
    display.say("# up until Ctrl-C")
    while True:
        for server in stack.servers:
            if not server.running:
                raise CannotStart(server.complaint(f"ended with exit code {server.exit_code}"))
        time.sleep(0.5)
