from __future__ import annotations

import os
import signal

import pytest

from workers.local.endings import Ended, signals_end


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_block_with_the_shells_exit_code(which: signal.Signals, code: int) -> None:
    with pytest.raises(Ended) as ended, signals_end():
        os.kill(os.getpid(), which)
    assert ended.value.exit_code == code


def test_a_second_signal_does_not_disturb_the_cleaning_up() -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    with pytest.raises(Ended), signals_end():
        work()
    assert cleaned == [True]


def test_afterwards_signals_mean_what_they_meant() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals_end():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
