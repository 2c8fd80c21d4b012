"""A pytest plugin: importing torch is an error. `make unit` runs with it the half that may not need torch."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class NoTorch:
    """Refuses to find torch."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torch":
            raise ImportError("this test runs without torch: add its file to WITH_TORCH of scripts/run_tests.py")
        return None


sys.meta_path.insert(0, NoTorch())
