"""The thread that polls Kafka never comes back: it is seen, and it keeps nothing from ending."""

import os
import time
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.scenes import assert_inherited, load
from tests.chaos.shared_worker import is_committed
from tests.support.waiting import eventually
from tests.support.worker_process import Site, worker

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

_HERE = Path(__file__).parent


def stuck_settings(stuck: Path) -> dict[str, str]:
    return {
        "STUCK": str(stuck),
        "PYTHONPATH": os.pathsep.join([str(_HERE / "stuck_poll"), str(_HERE.parents[1])]),
        "TAGSTREAM_DRAIN_S": "2",
        "decode_timeout_s": "2",
        "stall_timeout_s": "5",
    }


def test_sigterm_ends_a_worker_with_a_spinning_poll(steady_site: Site, account: Account, tmp_path: Path) -> None:
    """Guard: `_wait_for_drain`; the drain's end was the poll thread's to say, and SIGKILL alone ended it."""
    stuck = tmp_path / "stuck"
    load(steady_site, 20)
    with worker(steady_site, "w", tmp_path, **stuck_settings(stuck)) as process:
        eventually(lambda: is_committed(steady_site), 60, process.said)
        stuck.touch()
        # the last poll ends first, and a worker with a stop signal would begin no other
        eventually(stuck.with_suffix(".spins").exists, 30, process.said)
        account.landed()
        began = time.monotonic()
        assert process.terminate() == 3, process.said()
        assert time.monotonic() - began < 2 + 18 + 5
        assert "the drain's 2 s have passed, and the poll thread has not come back for" in process.said()
    stuck.unlink()
    load(steady_site, 20)
    assert_inherited(steady_site, account, tmp_path, stuck_settings(stuck), within_s=60)


def test_a_worker_with_a_spinning_poll_ends_by_itself_and_says_where(
    steady_site: Site, account: Account, tmp_path: Path
) -> None:
    """Guard: /livez looks at the poll thread; it answered 200 for ever, while every partition stood still."""
    stuck = tmp_path / "stuck"
    load(steady_site, 20)
    with worker(steady_site, "w", tmp_path, **stuck_settings(stuck)) as process:
        eventually(lambda: is_committed(steady_site), 60, process.said)
        stuck.touch()
        account.landed()
        assert process.wait_gone(60) == 3, process.said()
        assert "stalled: the poll thread has not come back for" in process.said()
        assert "sitecustomize.py" in process.said()
    stuck.unlink()
    load(steady_site, 20)
    assert_inherited(steady_site, account, tmp_path, stuck_settings(stuck), within_s=60)
