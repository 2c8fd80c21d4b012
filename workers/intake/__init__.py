"""From a job to its pixels: fetch, limits, decode, transform. Knows the object store's port; no torch.

One port (`workers.ports.Intake`), two forms here: `ThreadIntake` for work, `InlineIntake` for whoever wants every
call done when it returns.
"""

from workers.intake.inline import InlineIntake
from workers.intake.limits import Limits
from workers.intake.threads import ThreadIntake

__all__ = ["InlineIntake", "Limits", "ThreadIntake"]
