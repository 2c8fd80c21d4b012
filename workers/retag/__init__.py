"""Applies new settings to published outcomes, from their stored results."""
