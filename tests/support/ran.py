"""How a command of `tagstream` ended."""

import json
from dataclasses import dataclass
from typing import Any

from workers.errors import MISCONFIGURED


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def done(self) -> str:
        """Its output, if it succeeded."""
        assert self.code == 0, self.err
        return self.out

    @property
    def json(self) -> Any:
        """The document that it printed, if it succeeded."""
        return json.loads(self.done)

    @property
    def notes(self) -> str:
        """Its standard error, if it succeeded."""
        assert self.code == 0, self.err
        return self.err

    def fails(self, code: int = MISCONFIGURED) -> str:
        """Its standard error, if it ended with this code."""
        assert self.code == code, (self.out, self.err)
        return self.err
