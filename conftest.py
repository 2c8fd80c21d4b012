"""The fixtures of all homes (tests/, testing/tests, training/tests)."""

pytest_plugins = ("tests.fixtures",)
