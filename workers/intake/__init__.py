"""Turns a job into pixels: fetch, limits, decode, transform. Knows the object store's port; no torch.

One port (`workers.ports.Intake`), two forms, `ProcessIntake` and `ThreadIntake`: docs/design/intake.md says when which.
"""

from workers.intake.limits import Limits
from workers.intake.processes import ProcessIntake
from workers.intake.threads import ThreadIntake

__all__ = ["Limits", "ProcessIntake", "ThreadIntake"]
