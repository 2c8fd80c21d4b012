"""The intake in child processes: a decoder that hangs, grows or crashes costs the image it was at, and no other.

`intake.py` is the port, `supervisor.py` the one thread that owns the children, `fork_server.py` the process that forks
them, `child.py` what each of them does and `sandbox.py` what it gives up before, `wire.py` and `shared_memory.py`
what they share with the worker.
"""

from workers.intake.processes.intake import ProcessIntake

__all__ = ["ProcessIntake"]
