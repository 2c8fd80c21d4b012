"""`python -m tagstream_testing.local.tuned …`: the command with other values of what no setting changes."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Mapping

from workers.settings import FIELDS, Settings

VARIABLE = "TUNED"
"""A JSON object: values by field of `Settings`."""


def tune(values: Mapping[str, str]) -> None:
    """Make these the defaults of fields that have no variable."""
    for name, value in values.items():
        if name in FIELDS:
            raise ValueError(f"{name} is a setting: set its variable")
        info = Settings.model_fields[name]
        info.default, info.default_factory = value, None
    Settings.model_rebuild(force=True)


if __name__ == "__main__":
    tune(json.loads(os.environ.pop(VARIABLE)))
    runpy.run_module("workers", run_name="__main__", alter_sys=True)
