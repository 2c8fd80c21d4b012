"""One worker among liars for all tests of this package, and the report of the attacks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import Stack
from tests.hostile.scene import HEAD, Scene

_SCENE = pytest.StashKey[Scene]()


@pytest.fixture(scope="package")
def scene(request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene.started(stack, tmp_path_factory.mktemp("hostile")) as started:
        request.config.stash[_SCENE] = started
        yield started


def pytest_sessionfinish(session: pytest.Session) -> None:
    scene = session.config.stash.get(_SCENE, None)
    if scene is None or "HOSTILE_REPORT" not in os.environ:
        return
    path = Path(os.environ["HOSTILE_REPORT"])
    path.parent.mkdir(parents=True, exist_ok=True)
    lies = "".join(f"| {name} | {count} |\n" for name, count in sorted(scene.redis.told.items()))
    path.write_text(
        f"# Hostile dependencies and what came of them\n\n{HEAD}{''.join(each.row() for each in scene.verdicts)}\n"
        f"Meanwhile Redis told these lies:\n\n| lie | times |\n|---|---|\n{lies}"
    )
