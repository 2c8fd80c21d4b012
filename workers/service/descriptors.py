"""How many files and sockets this process may have open at once."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

WANTED = 65536
"""More than any worker needs. Not without a bound: where the hard limit is a billion, programs that go through all
possible descriptors when they start a child take minutes."""

ENOUGH = 1024
"""Some 64 for probes, 2 for each fetch, 3 for each broker, 7 for each decoder, and a reserve for new decoders."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, at most `WANTED`; returns it. children inherit it.

    The soft limit is 1,024 by default for the sake of select(), which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        allowed = soft if soft != resource.RLIM_INFINITY else WANTED
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < ENOUGH:
        logger.warning(
            "only %d files and sockets may be open at once, which may be too few: raise the hard limit (ulimit -Hn, "
            "or the container runtime's nofile) to %d or more",
            allowed,
            ENOUGH,
        )
    return allowed
