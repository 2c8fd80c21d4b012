"""Commands slow enough for a test to act before their end, and commands that may not load torch."""

from tagstream_testing.local import tuned


def slowed(pause_s: float) -> tuple[str, str]:
    """Arguments of Python for `tagstream` with a pause after each transaction; those of the command follow."""
    program = f"""
import runpy, time
from workers.backends.kafka.publisher import KafkaPublisher
publish = KafkaPublisher.publish
KafkaPublisher.publish = lambda *arguments: (publish(*arguments), time.sleep({pause_s}))
runpy.run_module("{tuned.__name__}", run_name="__main__", alter_sys=True)
"""
    return "-c", program


WITHOUT_TORCH = (
    "-c",
    """
import sys
from workers.cli.app import run_command
code = run_command(sys.argv[1:])
assert "torch" not in sys.modules, "no model is called"
sys.exit(code)
""",
)
"""Arguments of Python for `tagstream`; those of the command follow."""
