"""The work of the commands; some tests call the command itself."""

from tests.unit.cli.conftest import _bare_environment

__all__ = ["_bare_environment"]
