"""`python -m tagstream_testing.local.tuned …`: the command with other values of constants."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Mapping

from workers.settings import Settings

VARIABLE = "TUNED"
"""A JSON object: values by field of `Settings`."""


def tune(values: Mapping[str, str]) -> None:
    """Make these the defaults of fields. An older checkout may have a variable for one."""
    for name, value in values.items():
        info = Settings.model_fields[name]
        info.default, info.default_factory = value, None
    Settings.model_rebuild(force=True)


if __name__ == "__main__":
    tune(json.loads(os.environ.pop(VARIABLE)))
    runpy.run_module("workers", run_name="__main__", alter_sys=True)
