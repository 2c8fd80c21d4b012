"""Commands that are slow enough for a test to act before their end, on any machine."""

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
