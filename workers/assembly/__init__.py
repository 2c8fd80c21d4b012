"""Builds what commands and other programs work with: settings in, objects out.

Nothing here prints: progress is a callback of the caller. Only `workers.cli` knows Typer and rich.
"""
