"""One control plane and one node for all of a session's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tagstream_testing.local.scratch import Scratch
from tests.fixtures import Stack, Unique
from tests.kube.control_plane import ControlPlane
from tests.kube.node import Node
from tests.kube.report import Report
from tests.kube.rollout import Rollout
from tests.support.worker_process import Site


@pytest.fixture(scope="session")
def plane(scratch: Scratch) -> Iterator[ControlPlane]:
    with ControlPlane(scratch.path / "kube") as plane:
        yield plane


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    report = Report()
    yield report
    report.write()


@pytest.fixture
def node(plane: ControlPlane, tmp_path: Path, unique: Unique) -> Iterator[Node]:
    with Node(plane.api, tmp_path / "pods", unique("node")) as node:
        yield node


@pytest.fixture
def site(stack: Stack, unique: Unique) -> Site:
    return Site(stack, unique("kube"), partitions=12)


@pytest.fixture
def rollout(plane: ControlPlane, node: Node, site: Site, tmp_path: Path) -> Iterator[Rollout]:
    rollout = Rollout(plane, node, site, tmp_path / "overlay")
    yield rollout
    rollout.delete()
