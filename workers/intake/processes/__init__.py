"""The intake in child processes: a decoder that hangs, grows or crashes costs only its image.

| module | holds |
|---|---|
| `intake.py` | the port |
| `supervisor.py`, `pending.py` | the thread that owns the children, and its requests |
| `fork_server.py` | the process that forks the children |
| `child.py`, `sandbox.py` | a child's work, and its sandbox |
| `wire.py`, `shared_memory.py` | messages and memory between worker and child |
"""

from workers.intake.processes.intake import ProcessIntake

__all__ = ["ProcessIntake"]
