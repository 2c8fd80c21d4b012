"""`tagstream stack up`: runs the local servers until a signal, or until a detached stack's state file is removed."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path

from tagstream_testing.local.demo_display import DemoDisplay
from tagstream_testing.local.detached import Held
from tagstream_testing.local.endings import run_until_ended
from tagstream_testing.local.server import CannotStart
from tagstream_testing.local.stack import LocalStack


def stack_up(state: Path | None = None) -> int:
    """Start the servers with bucket and topics, and stay until a signal.

    Prints the environment to export.

    What is printed to standard output is fit for a shell: comments and `export` lines.

    Args:
        state: the state file to hold meanwhile; its removal ends the stack as a signal does.

    Returns:
        0, the exit code, where the state file was removed. A signal ends the process, with 0.

    Raises:
        CannotStart: a server did not start, or ended by itself.
        Misconfigured: another stack holds the state file.
    """
    display = DemoDisplay()
    with ExitStack() as cleanup:
        held = None if state is None else cleanup.enter_context(Held(state))
        stack = cleanup.enter_context(closing(LocalStack()))
        return run_until_ended(lambda: _stay(display, stack, held), lambda _: _stop(stack, held))


def _stop(stack: LocalStack, held: Held | None) -> int:
    stack.close()
    if held is not None:
        held.close()
    return 0


def _stay(display: DemoDisplay, stack: LocalStack, held: Held | None) -> int:
    if held is None:
        display.say("# starting the servers; the first time they are downloaded")
    stack.start()
    stack.furnish()
    if held is None:
        for line in stack.exports():
            display.say(line)
        display.say("# up until Ctrl-C")
    else:
        held.announce(stack.environment())
    while held is None or held.wanted:
        for server in stack.servers:
            if not server.running:
                raise CannotStart(server.complaint(f"ended with exit code {server.exit_code}"))
        time.sleep(0.5)
    return 0
