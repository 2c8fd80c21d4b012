"""Checks the settings of a service that writes captions."""

from __future__ import annotations

from tagstream_remote.caption_file import CaptionFile
from workers.errors import Misconfigured
from workers.settings import FIELDS_KIND, Settings


class EndpointCheck:
    """The settings of an address, right in themselves.

    Raises:
        Misconfigured: the file is wrong or does not fit TAGSTREAM_WANT, or the address lacks TLS.
    """

    def __init__(self, settings: Settings) -> None:
        self.file = CaptionFile.of(settings)
        if FIELDS_KIND in settings.want and not self.file.fields:
            raise Misconfigured(
                f"TAGSTREAM_WANT={','.join(settings.want)}: TAGSTREAM_CAPTION_FILE={settings.caption_file} has no "
                "`fields`: add them there, or leave the name out"
            )
