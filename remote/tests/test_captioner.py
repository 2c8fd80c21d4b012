"""The captioner of an address, by its settings."""

from __future__ import annotations

import pytest
from tagstream_remote.captioner import remote_captioner

from workers.errors import Misconfigured
from workers.settings import Settings


def test_an_address_is_refused_until_it_is_handled() -> None:
    with pytest.raises(Misconfigured, match="127"):
        remote_captioner(Settings(captioner="http://127.0.0.1:9/v1"))
