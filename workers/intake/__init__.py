"""Turns a job into pixels: fetch, limits, decode, transform. Knows the object store's port; no torch.

One port (`workers.ports.Intake`), three forms here: `ProcessIntake` and `ThreadIntake` for work (docs/design/intake.md
says when which), `InlineIntake` for callers that want every call done when it returns.
"""

from workers.intake.limits import Limits
from workers.intake.processes import ProcessIntake
from workers.intake.threads import InlineIntake, ThreadIntake

__all__ = ["InlineIntake", "Limits", "ProcessIntake", "ThreadIntake"]
