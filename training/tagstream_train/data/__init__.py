"""Data sets: their format, ways into it, and the batches that come out of it."""
