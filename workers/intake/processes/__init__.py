"""The intake in child processes: a decoder that hangs, grows or crashes costs only its image."""

from workers.intake.processes.intake import ProcessIntake

__all__ = ["ProcessIntake"]
