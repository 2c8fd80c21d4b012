"""Checks the settings of a service that writes captions."""

from __future__ import annotations

import time
from typing import Final

from schemas.printable import printable
from tagstream_remote.answers import Again, Misplaced, is_same
from tagstream_remote.budget import utc_day
from tagstream_remote.caption_file import CaptionFile
from tagstream_remote.captioner import counter_of
from tagstream_remote.client import Endpoint
from workers.errors import Misconfigured, Unanswered, nearest
from workers.settings import FIELDS_KIND, Settings

LIMIT_S: Final = 10.0


class EndpointCheck:
    """The settings of an address. Raises Misconfigured where they can't be right."""

    def __init__(self, settings: Settings) -> None:
        self.file = CaptionFile.of(settings)
        self._settings = settings
        if FIELDS_KIND in settings.want and not self.file.fields:
            raise Misconfigured(
                f"TAGSTREAM_WANT={','.join(settings.want)}: TAGSTREAM_CAPTION_FILE={settings.caption_file} has no "
                "`fields`: add them there, or leave the name out"
            )

    def ask(self) -> str:
        """A sentence about the service, asked once for its models; then advice.

        Raises Misconfigured (path, key or model is wrong) or Unavailable (no answer within `LIMIT_S`).
        """
        settings = self._settings
        address, model = settings.captioner_address or "", settings.caption_model
        unasked = bool(self.file.fields) and FIELDS_KIND not in settings.want
        advice = "\nTAGSTREAM_WANT lacks `fields`: only events that ask get those of the file" if unasked else ""
        endpoint = Endpoint(address, model, settings.caption_key.get_secret_value, self.file)
        try:
            names = endpoint.models(time.monotonic() + LIMIT_S)
        except Misplaced as error:
            raise Misconfigured(f"TAGSTREAM_CAPTIONER={address}/models: {error.detail}") from None
        except (Unanswered, Again) as error:  # the list may be too long for us
            return f"{address} answers, and whether it has {model} is not known ({error}){advice}"
        if not any(is_same(model, name) for name in names):
            few = ", ".join(map(printable, names[:8])) + (", …" if len(names) > 8 else "")
            near = printable(nearest(model, names))
            raise Misconfigured(f"TAGSTREAM_CAPTION_MODEL={model}: {address} lists {few or 'no model'}.{near}")
        return f"{address} lists {model}{advice}"

    def tokens_spent(self) -> int | None:
        """Tokens of this UTC day; None: they have no limit, and are not counted. Raises Unavailable."""
        counter = counter_of(self._settings)
        return None if counter is None else counter.sum(utc_day())
