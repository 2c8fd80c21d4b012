"""The soak in small. `make soak` strikes a hundred times."""

from pathlib import Path

import pytest

from tests.chaos.soak import Plan, Soak
from tests.support.broker import BrokerBehindProxy
from tests.support.worker_process import Site

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_three_strikes_at_once(breakable_site: Site, broker: BrokerBehindProxy, tmp_path: Path) -> None:
    """By these dice the broker is frozen, then a worker, both for longer than a session, then that worker is killed."""
    said: list[str] = []
    plan = Plan(strikes=3, minutes=1, seed=2838, memory=False)
    findings = Soak(breakable_site, broker, tmp_path, plan, said.append).run()
    assert not findings.broken_promises(), said
    assert findings.strikes == {"broker frozen": 1, "worker frozen": 1, "worker killed": 1}, said
    assert findings.records >= 600
    assert len(said) == len(findings.recoveries)
