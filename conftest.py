"""The fixtures of all homes (tests/, index/tests, ocr/tests, remote/tests, testing/tests, training/tests)."""

pytest_plugins = (
    "tests.fixtures",
    "tests.support.apart",
    "tests.support.bundles",
    "tests.support.command",
    "tests.support.dropped_sockets",
    "tests.support.durations",
)
