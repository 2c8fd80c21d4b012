"""The captioner that a worker asks, of its settings."""

from __future__ import annotations

from workers.errors import Misconfigured
from workers.ports import RemoteCaptioner
from workers.settings import Settings


def remote_captioner(settings: Settings) -> RemoteCaptioner:
    """The captioner of TAGSTREAM_CAPTIONER; it asks nothing before its first `ask`.

    Raises:
        Misconfigured: its settings or TAGSTREAM_CAPTION_FILE are wrong.
    """
    raise Misconfigured(f"TAGSTREAM_CAPTIONER={settings.captioner}: addresses are not handled yet")
