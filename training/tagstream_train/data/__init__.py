"""Data sets: format, import, and batches."""
