"""Turns a job into pixels: fetch, limits, decode, transform. Knows the object store's port; no torch."""

from workers.intake.limits import Limits
from workers.intake.processes.intake import ProcessIntake

__all__ = ["Limits", "ProcessIntake"]
