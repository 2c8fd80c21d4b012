"""The soak in small: five strikes by the dice of one seed. `make soak` runs a hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.broker import BrokerBehindProxy
from tests.chaos.soak import Plan, Soak
from tests.integration.worker_process import Site

pytestmark = pytest.mark.timeout(300)


def test_five_strikes(outpost: Site, broker: BrokerBehindProxy, tmp_path: Path) -> None:
    said: list[str] = []
    plan = Plan(strikes=5, minutes=0.5, seed=3, memory=False)
    findings = Soak(outpost, broker, tmp_path, plan, said.append).run()
    assert not findings.broken_promises(), said
    assert findings.struck >= 3, said
    assert findings.records >= 600
    assert len(said) == len(findings.recoveries)
