"""The consumer that schemas/README.md shows, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import schemas

PACKAGE = Path(schemas.__file__).parent


def readme_reader() -> dict[str, Any]:
    """Its functions by name: `index` and `shown`."""
    (code,) = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("from tagstream_schemas.", "from schemas."), names)  # as the package is called in this checkout
    return names
